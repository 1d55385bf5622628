"""What a screen is made of: views in dp, and short functions that build the usual ones.

A screen's body is a column of blocks, each as wide as the phone; a block's children lie at fixed places in it. The
phone is 64 dp wide and 128 dp high at every resolution, and at one pixel a dp it is what agents are trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from palaestra.envs.android.font import HEIGHT, PITCH
from palaestra.envs.android.palette import BLUE, CARD, FAINT, GREEN, INK, LINE, NONE, PAPER, WHITE

WIDTH = 64
"""dp."""
TALL = 128
"""dp."""
LETTERS = WIDTH // PITCH
"""How many letters fit on a line."""

Tap = Callable[[], object]
"""What a touch does; its result is not looked at."""


@dataclass(slots=True, eq=False)
class View:
    """A rectangle that shows something and may be touched."""

    x: int = 0
    """dp, from its parent's left edge."""
    y: int = 0
    """dp, from its parent's upper edge."""
    width: int = WIDTH
    """dp."""
    height: int = HEIGHT
    """dp."""
    text: str = ""
    """One line, cut where it does not fit."""
    full: str = ""
    """The whole text, where large screens have room for more."""
    icon: str = ""
    """Of `icons.ICONS`."""
    ink: int = INK
    """Of text and icon, a palette index."""
    fill: int = NONE
    """Behind it, a palette index or `NONE`."""
    round: int = 0
    """dp of the radius of its corners, which only large screens show."""
    tap: Tap | None = None
    """What a tap does."""
    hold: Tap | None = None
    """What a long press does."""
    slide: Callable[[float], object] | None = None
    """What a tap does that matters where it hits: it gets the share of the width, 0 to 1."""
    field: str = ""
    """The name of the page's text that it edits."""
    checked: bool | None = None
    """On or off, None where it has no such state."""
    name: str = ""
    """What tests, oracles and accessibility call it: its resource id and content description."""
    kind: str = "TextView"
    """Its class in android.widget."""
    children: Sequence[View] = ()
    """Drawn over it, in order."""

    @property
    def touchable(self) -> bool:
        """Whether a tap does something."""
        return self.tap is not None or self.slide is not None or bool(self.field)


@dataclass(slots=True)
class Screen:
    """All that an app shows at one moment."""

    body: list[View]
    """Blocks from top to bottom, which scroll together."""
    bar: View | None = None
    """Above the body."""
    footer: View | None = None
    """Below the body, above the keyboard."""
    button: View | None = None
    """Floats over the body's lower right corner."""
    dialog: list[View] = field(default_factory=list)
    """Blocks that cover the middle of the screen; where there are any, nothing else is touched."""
    swipe: Callable[[str], object] | None = None
    """What a swipe does that scrolls nothing; it gets "up", "down", "left" or "right", the finger's direction."""
    fill: int = PAPER
    """Behind everything."""


def toolbar(title: str, *actions: View, fill: int = BLUE, back: Tap | None = None) -> View:
    """Return a title bar with icon buttons at its right end and, where it leads back, an arrow."""
    children = [] if back is None else [icon("back", back, WHITE, "back")]
    children.append(View(10 if back else 2, 3, WIDTH, text=title, ink=WHITE, name="title"))
    for index, action in enumerate(reversed(actions)):
        action.x, action.y, action.ink = WIDTH - 9 * (index + 1), 1, WHITE
        children.append(action)
    return View(height=10, fill=fill, children=children, kind="Toolbar")


def icon(picture: str, tap: Tap | None, ink: int = INK, name: str = "") -> View:
    """Return an icon that may be tapped."""
    return View(0, 1, 9, 9, icon=picture, ink=ink, tap=tap, name=name or picture, kind="ImageButton")


def row(
    text: str,
    below: str = "",
    picture: str = "",
    tap: Tap | None = None,
    ink: int = INK,
    end: View | None = None,
    hold: Tap | None = None,
    name: str = "",
) -> View:
    """Return a list's row: an icon, one or two lines, and something at its end."""
    start = 11 if picture else 2
    children = [View(start, 3, (end.x if end else WIDTH) - start, text=text, ink=INK, name=name)]
    height = 12
    if below:
        children.append(View(start, 9, WIDTH - start, text=below, ink=FAINT))
        height = 16
    if picture:
        children.append(View(1, (height - 8) // 2, 8, 8, icon=picture, ink=ink, kind="ImageView"))
    if end:
        children.append(end)
    children.append(View(0, height - 1, WIDTH, 1, fill=LINE, kind="View"))
    return View(height=height, tap=tap, hold=hold, children=children, name=name or text, kind="LinearLayout")


def switch(text: str, on: bool, tap: Tap, picture: str = "", below: str = "", ink: int = INK) -> View:
    """Return a row whose end is a switch; tapping anywhere in it turns it."""
    block = row(text, below, picture, tap, ink, end=toggle(on, None))
    block.checked = on
    return block


def toggle(on: bool, tap: Tap | None, name: str = "") -> View:
    """Return a switch: a track that is green and whose thumb is at the right where it is on."""
    thumb = View(5 if on else 0, 0, 5, 6, fill=WHITE if on else FAINT, round=3, kind="Thumb")
    track = View(0, 0, 10, 6, fill=GREEN if on else LINE, round=3, kind="View")
    return View(53, 2, 11, 8, tap=tap, checked=on, name=name, kind="Switch", children=[track, thumb])


def label(text: str, ink: int = INK, name: str = "", indent: int = 2) -> View:
    """Return a line of text alone."""
    return View(height=8, kind="FrameLayout", children=[View(indent, 1, WIDTH - indent, text=text, ink=ink, name=name)])


def paragraph(text: str, ink: int = INK) -> list[View]:
    """Return a text as lines that are broken between words where they can be."""
    lines, current = [], ""
    for word in text.split():
        while len(word) >= LETTERS:
            lines += [current] if current else []
            current, word = word[: LETTERS - 1], word[LETTERS - 1 :]
        joined = f"{current} {word}".strip()
        if len(joined) >= LETTERS:
            lines.append(current)
            joined = word
        current = joined
    return [label(line, ink) for line in [*lines, current] if line]


def button(text: str, tap: Tap, fill: int = BLUE, ink: int = WHITE, name: str = "") -> View:
    """Return a wide button."""
    return View(height=13, kind="FrameLayout", children=[_button(2, 1, WIDTH - 4, 11, text, tap, fill, ink, name)])


def buttons(*choices: tuple[str, Tap, int]) -> View:
    """Return a line of buttons from (text, tap, fill)."""
    share = WIDTH // len(choices)
    made = [
        _button(index * share + 1, 1, share - 2, 10, text, tap, fill, WHITE, "")
        for index, (text, tap, fill) in enumerate(choices)
    ]
    return View(height=12, children=made, kind="LinearLayout")


def _button(x: int, y: int, width: int, height: int, text: str, tap: Tap, fill: int, ink: int, name: str) -> View:
    indent = max(0, (width - PITCH * len(text) + 1) // 2)
    inside = View(indent, (height - HEIGHT) // 2, width - indent, text=text, ink=ink)
    return View(x, y, width, height, fill=fill, round=3, tap=tap, name=name or text, kind="Button", children=[inside])


def edit(key: str, value: str, hint: str, focused: bool, clear: Tap, width: int = WIDTH) -> View:
    """Return a field for text; its line is blue while it has the keyboard, and a cross empties it."""
    room = (width - 12) // PITCH
    shown = value[-room:] + ("_" if focused else "") if value or focused else hint
    children = [
        View(2, 3, width - 4, text=shown, ink=INK if value else FAINT),
        View(2, 10, width - 4, 1, fill=BLUE if focused else FAINT, kind="View"),
    ]
    if value:
        children.append(View(width - 9, 1, 8, 8, icon="close", ink=FAINT, tap=clear, name=f"clear {key}"))
    return View(width=width, height=12, field=key, name=hint, kind="EditText", children=children)


def slider(share: float, slide: Callable[[float], object], name: str) -> View:
    """Return a bar that is blue up to a share; a tap sets it."""
    filled = View(0, 3, max(1, round(share * (WIDTH - 8))), 4, fill=BLUE, round=2, kind="View")
    track = View(0, 3, WIDTH - 8, 4, fill=LINE, round=2, kind="View")
    bar = View(4, 1, WIDTH - 8, 10, slide=slide, name=name, kind="SeekBar", children=[track, filled])
    return View(height=12, children=[bar], kind="FrameLayout")


def pad(keys: Sequence[str], press: Callable[[str], object], columns: int = 3, height: int = 12) -> View:
    """Return a grid of keys; each word of a string is one key."""
    words = [(line, column, word) for line, part in enumerate(keys) for column, word in enumerate(part.split())]
    share = WIDTH // columns
    children = []
    for line, column, word in words:
        key = _button(column * share + 1, line * height + 1, share - 2, height - 2, word, _pressing(press, word), CARD,
                      INK, word)
        children.append(key)
    return View(height=height * len(keys), children=children, kind="GridLayout")


def _pressing(press: Callable[[str], object], word: str) -> Tap:
    return lambda: press(word)


def tabs(names: Sequence[str], chosen: str, choose: Callable[[str], object], fill: int = CARD) -> View:
    """Return icon tabs along a footer, named as their icons are but for case; the chosen one is blue."""
    share = WIDTH // len(names)
    children = [
        View(
            index * share, 0, share, 12, fill=fill, tap=_pressing(choose, name), checked=name == chosen, name=name,
            kind="Tab",
            children=[View((share - 8) // 2, 2, 8, 8, icon=name.lower(), ink=BLUE if name == chosen else FAINT,
                           kind="ImageView")],
        )
        for index, name in enumerate(names)
    ]
    return View(height=12, fill=fill, children=children, kind="TabWidget")


def floating(picture: str, tap: Tap, fill: int = BLUE) -> View:
    """Return the round button of a screen's main action."""
    inside = View(2, 2, 8, 8, icon=picture, ink=WHITE, kind="ImageView")
    return View(WIDTH - 15, 0, 12, 12, fill=fill, round=4, tap=tap, name=picture, kind="ImageButton", children=[inside])


def headline(text: str, ink: int = WHITE, fill: int = BLUE, name: str = "") -> View:
    """Return a coloured line with its text in the middle."""
    indent = max(1, (WIDTH - PITCH * len(text)) // 2)
    inside = View(indent, 3, WIDTH, text=text, ink=ink, name=name)
    return View(height=11, fill=fill, kind="FrameLayout", children=[inside])
