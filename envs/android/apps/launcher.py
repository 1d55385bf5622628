"""The home screen: pages of icons, a search bar, and the drawer with all apps behind a swipe up."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from palaestra.envs.android.app import App, Page
from palaestra.envs.android.noise import ordered
from palaestra.envs.android.palette import CARD, FAINT, PAPER, SKY, WHITE
from palaestra.envs.android.views import WIDTH, Screen, View, row

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

app = App("com.google.android.apps.nexuslauncher", "Home", "home", SKY)
PAGE = 9
"""Icons on a page, in three rows."""


def order(device: Device) -> list[App]:
    """Return the apps in the order of their icons."""
    apps = [known for known in device.apps.values() if known is not app]
    return ordered(device.noise, device.state.seed, "icons", apps)


@app.screen("com.google.android.apps.nexuslauncher.NexusLauncherActivity")
def home(device: Device, page: Page) -> Screen:
    """Return a page of icons, or the drawer."""
    apps = order(device)
    if page.state.get("drawer"):
        rows = [
            row(known.title, "", known.icon, partial(device.open, known.package), known.color)
            for known in sorted(apps, key=lambda known: known.title)
        ]
        return Screen(rows, swipe=lambda direction: page.state.clear() if direction == "down" else None)
    at = page.state.get("page", 0)
    search = View(4, 3, WIDTH - 8, 9, fill=PAPER, round=4, tap=partial(device.open, "com.android.chrome"),
                  name="search bar", children=[View(2, 2, 30, text="Search", ink=FAINT)])  # fmt: skip
    body = [View(height=14, children=[search], kind="FrameLayout")]
    shown = apps[at * PAGE : (at + 1) * PAGE]
    for start in range(0, PAGE, 3):
        cells = [_cell(device, known, 2 + 20 * index) for index, known in enumerate(shown[start : start + 3])]
        body.append(View(height=27, children=cells, kind="LinearLayout"))
    pages = -(-len(apps) // PAGE)
    colors = [WHITE if index == at else CARD for index in range(pages)]
    dots = [View(28 + 6 * index, 1, 3, 3, fill=color, round=2) for index, color in enumerate(colors)]
    body.append(View(height=6, children=dots, kind="FrameLayout"))

    def swipe(direction: str) -> None:
        if direction == "up":
            page.state["drawer"] = True
        elif direction in ("left", "right"):
            page.state["page"] = min(pages - 1, max(0, at + (1 if direction == "left" else -1)))

    return Screen(body, swipe=swipe, fill=device.state.wallpaper)


def _cell(device: Device, known: App, x: int) -> View:
    inside = View(4, 4, 8, 8, icon=known.icon, ink=WHITE, kind="ImageView")
    tile = View(2, 1, 16, 16, fill=known.color, round=4, children=[inside], kind="ImageView")
    title = View(0, 18, 21, text=known.title[:4], full=known.title.center(10))
    return View(x, 0, 20, 26, tap=partial(device.open, known.package), name=known.title, children=[tile, title])
