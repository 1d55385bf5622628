"""The hand of a scripted expert: it sees views instead of pixels, and finds the next action from wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random

from palaestra.envs.android.actions import Action, tap_at
from palaestra.envs.android.apps import LAUNCHER
from palaestra.envs.android.device import Device
from palaestra.envs.android.draw import Placed
from palaestra.envs.android.keyboard import TOP
from palaestra.envs.android.system import POPUPS
from palaestra.envs.android.views import TALL, WIDTH, View

Rule = Callable[[], Action | None]


class Hand:
    """Finds actions on one phone. Each method returns the next one, or None where nothing is left to do."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def tap(self, name: str) -> Action | None:
        """Tap what has a name or shows a text, scrolling until it is seen; None where the page has no such thing."""
        for placed in reversed(self.device.look()):
            if name in (placed.view.name, placed.view.text) and self._reachable(placed):
                return _tap(placed)
        place = self._below(name)
        if place is None:
            return None
        if self.device.state.focus:
            return Action("PRESS_BACK")  # the keyboard is in the way
        return Action("DUAL_POINT", (0.65, 0.5), (0.35, 0.5)) if place > 0 else Action(
            "DUAL_POINT", (0.35, 0.5), (0.65, 0.5)
        )

    def _reachable(self, placed: Placed) -> bool:
        if not placed.visible or (self.device.typing and placed.y + placed.view.height // 2 >= TOP):
            return False
        x, y = placed.x + min(placed.view.width, WIDTH - placed.x) / 2, placed.y + placed.view.height / 2
        above = [other for other in self.device.look() if other.view.touchable and other.holds(x, y)]
        return not above or above[-1].view is placed.view or placed.view in _inside(above[-1].view)

    def _below(self, name: str) -> int | None:
        """Return how far below the body's middle (dp) something is that cannot be seen, None where it is not there."""
        self.device.look()
        y = -self.device.page.scroll
        for block in self.device.shown.body:
            if any(name in (view.name, view.text) for view in (block, *_inside(block))):
                return y - 50 or 1
            y += block.height
        return None

    def write(self, field: str, hint: str, text: str) -> Action | None:
        """Bring a text into a field; None where it stands there."""
        now = self.device.page.texts.get(field, "")
        if now.lower() == text.lower():
            return None
        if now:
            return self.tap(f"clear {field}")
        if self.device.state.focus == field:
            return Action("TYPE", text=text)
        return self.tap(hint)

    def stray(self, random: Random) -> Action:
        """Tap any of the things that can be touched."""
        found = [placed for placed in self.device.look() if placed.view.touchable and placed.visible]
        return _tap(random.choice(found)) if found else Action("WAIT")

    def calm(self) -> Action | None:
        """Get rid of what the system put in the way."""
        state = self.device.state
        if state.loading_until > state.clock:
            return Action("WAIT")
        if state.popup is not None:
            return self.tap(POPUPS[state.popup.kind][2])
        if state.shade:
            return Action("PRESS_BACK")
        return None

    def open(self, package: str) -> Action | None:
        """Come to an app; None where it is in front."""
        device = self.device
        if device.page.package == package:
            return None
        if device.page.package != LAUNCHER:
            return Action("PRESS_HOME")
        title = device.apps[package].title
        found = self.tap(title)
        if found is not None:
            return found
        if device.page.state.get("drawer"):
            return Action("PRESS_HOME")
        direction = 0.2 if not device.page.state.get("page") else 0.8
        return Action("DUAL_POINT", (0.5, 1 - direction), (0.5, direction))

    def route(self, package: str, rules: Mapping[str, Rule]) -> Action:
        """Come to an app and there follow the rule of the screen that is seen; from a screen without one, go back."""
        found = self.calm() or self.open(package)
        if found is None:
            rule = rules.get(self.device.page.screen)
            found = rule() if rule is not None else None
        return found or Action("PRESS_BACK")


def _tap(placed: Placed) -> Action:
    view = placed.view
    top, bottom = max(placed.y, placed.top), min(placed.y + view.height, placed.bottom)
    right = min(placed.x + view.width, WIDTH)
    return tap_at(round((top + bottom) / 2 / TALL, 4), round((placed.x + right) / 2 / WIDTH, 4))


def _inside(view: View) -> list[View]:
    return [part for child in view.children for part in (child, *_inside(child))]
