"""What fingers and keys do to a phone: taps, long presses, swipes, typed text, and the buttons back, home, enter."""

from __future__ import annotations

from math import hypot

from palaestra.envs.android import keyboard
from palaestra.envs.android.apps import LAUNCHER
from palaestra.envs.android.device import SLOP, Device
from palaestra.envs.android.draw import STATUS, Placed
from palaestra.envs.android.language import autocorrected
from palaestra.envs.android.views import TALL, WIDTH

TEXT_LIMIT = 200
"""The most letters that a field takes."""


def hit(device: Device, x: float, y: float, long: bool = False) -> Placed | None:
    """Return what would take a touch at a point (dp), None where nothing would."""
    for placed in reversed(device.look()):
        view = placed.view
        if (view.touchable or (long and view.hold)) and placed.holds(x, y):
            return placed
    return None


def tap(device: Device, x: float, y: float) -> bool:
    """Touch a point (dp) briefly. Returns whether anything was there; off the screen nothing is."""
    if not (0 <= x < WIDTH and 0 <= y < TALL):
        return False
    if device.typing and y >= keyboard.TOP:
        return _press_key(device, keyboard.key_at(x, y, device.state.digits))
    placed = hit(device, x, y)
    if placed is None:
        return False
    view = placed.view
    if view.field:
        device.state.focus = view.field
    elif view.slide is not None:
        view.slide(min(1.0, max(0.0, (x - placed.x) / max(1, view.width - 1))))
    elif view.tap is not None:
        view.tap()
    device.changed()
    return True


def long_press(device: Device, x: float, y: float) -> bool:
    """Touch a point (dp) for half a second or more: pastes into a field; where nothing waits for it, it is a tap."""
    if not (0 <= x < WIDTH and 0 <= y < TALL):
        return False
    placed = None if device.typing and y >= keyboard.TOP else hit(device, x, y, long=True)
    if placed is not None and placed.view.field:
        return tap(device, x, y) and (not device.state.clipboard or paste(device))
    if placed is None or placed.view.hold is None:
        return tap(device, x, y)
    placed.view.hold()
    device.changed()
    return True


def swipe(device: Device, x: float, y: float, to_x: float, to_y: float, fling: float = 1.0) -> bool:
    """Move a finger from one point (dp) to another: a tap where it moves less than the slop.

    Up and down scroll the body, by `fling` times the way; what scrolls no further goes to the screen's own `swipe`.
    Down from the status bar pulls the shade, up puts it away.
    """
    if hypot(to_x - x, to_y - y) < SLOP / 2:
        return tap(device, x, y)
    if not (0 <= x < WIDTH and 0 <= y < TALL) or device.state.popup or device.state.loading_until > device.state.clock:
        return False
    across, down = to_x - x, to_y - y
    direction = ("right" if across > 0 else "left") if abs(across) > abs(down) else ("down" if down > 0 else "up")
    if device.state.shade or (y < STATUS + 2 and direction == "down"):
        device.state.shade = direction == "down"
        device.changed()
        return True
    if device.typing and y >= keyboard.TOP:
        return False
    return _scroll(device, fling * down, direction)


def _scroll(device: Device, down: float, direction: str) -> bool:
    device.look()
    page, most = device.page, device._most
    if direction in ("up", "down") and not device.shown.dialog:
        wanted = min(most, max(0, page.scroll - round(down)))
        if wanted != page.scroll:
            page.scroll = wanted
            device.changed()
            return True
    if device.shown.swipe is None:
        return False
    before = dict(page.state)
    device.shown.swipe(direction)
    if page.state == before:
        return False
    device.changed()
    return True


def type_text(device: Device, text: str) -> bool:
    """Write text into the field that has the keyboard, as Android's `input text`; without one it is lost."""
    if not device.typing:
        return False
    page = device.page
    kept = "".join(letter for letter in text if letter.isprintable())
    if device.noise.autocorrect and device.state.random.random() < device.noise.autocorrect:
        kept = autocorrected(kept, device.state.random)
    page.texts[device.state.focus] = (page.texts.get(device.state.focus, "") + kept)[:TEXT_LIMIT]
    device.changed()
    return True


def copy(device: Device) -> bool:
    """Put the text of the field that has the keyboard on the clipboard."""
    if not device.typing:
        return False
    device.copy(device.page.texts.get(device.state.focus, ""))
    device.changed()
    return True


def paste(device: Device) -> bool:
    """Write what is on the clipboard into the field that has the keyboard."""
    return type_text(device, device.state.clipboard)


def _press_key(device: Device, name: str) -> bool:
    """Do what a key of the on-screen keyboard does."""
    if name == "erase":
        return erase(device)
    if name == "enter":
        return enter(device)
    if name == "more":
        device.state.digits = not device.state.digits
        device.changed()
        return True
    return bool(name) and type_text(device, " " if name == "space" else name)


def erase(device: Device) -> bool:
    """Take the last letter of the field that has the keyboard."""
    if not device.typing:
        return False
    page = device.page
    page.texts[device.state.focus] = page.texts.get(device.state.focus, "")[:-1]
    device.changed()
    return True


def enter(device: Device) -> bool:
    """Press enter: the screen takes its text, where it waits for one; the keyboard goes."""
    if not device.typing:
        return False
    page = device.page
    submit = device.apps[page.package].submits.get(page.screen)
    field, device.state.focus = device.state.focus, ""
    device.changed()
    if submit is not None:
        submit(device, page, field)
    return True


def back(device: Device) -> bool:
    """Press back: closes, in this order, a popup, the shade, the keyboard, a dialog, the page."""
    state = device.state
    if state.loading_until > state.clock:
        return False
    if state.popup is not None:
        device.answer(False)
    elif state.shade:
        state.shade = False
    elif state.focus:
        state.focus = ""
    elif device.page.state.get("dialog"):
        device.page.state["dialog"] = ""
    else:
        if device.page.package == LAUNCHER and not device.page.state:
            return False
        device.finish()
    device.changed()
    return True


def home(device: Device) -> bool:
    """Press home: the home screen is seen, a popup is gone."""
    if device.page.package == LAUNCHER and not device.page.state and not device.state.shade and not device.state.popup:
        return False
    device.state.popup = None
    device.home()
    return True
