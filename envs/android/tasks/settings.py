"""Tasks in the launcher, in settings and in the notification shade."""

from __future__ import annotations

from random import Random

from palaestra.envs.android.actions import Action, tap_at
from palaestra.envs.android.apps import APPS, LAUNCHER
from palaestra.envs.android.apps.settings import FONTS, GROUPS, SWITCHES, TIMEOUTS
from palaestra.envs.android.device import Device
from palaestra.envs.android.draw import Placed
from palaestra.envs.android.oracle import Hand
from palaestra.envs.android.system import Notification
from palaestra.envs.android.tasks.template import Draw, Goal, Oracle, Params, Prepare, Split, Template, choice
from palaestra.envs.android.views import TALL, WIDTH

PACKAGE = "com.android.settings"
_SWITCHES = [
    (group, *entry[:5], on) for group, entries in SWITCHES.items() for entry in entries for on in (True, False)
]
_PAIRS = [
    (one, two) for one in _SWITCHES for two in _SWITCHES if one[3] != two[3] and "airplane_mode_on" not in one + two
]
_SLIDERS = {
    "brightness": ("display", "screen_brightness", "1", "255", "128"),
    "volume": ("sound", "volume_music", "0", "15", "5"),
}
"""Name to group, key, values at both ends and between."""
_ANY = ("global/", "system/", "secure/")


def _app(random: Random, split: Split) -> Params:
    package = choice(random, [package for package in APPS if package != LAUNCHER], split, "apps")
    return {"app": APPS[package].title, "package": package}


def _group(random: Random, split: Split) -> Params:
    name = choice(random, list(GROUPS), split, "groups")
    return {"group": GROUPS[name][0], "screen": name}


def _turned(random: Random, split: Split) -> Params:
    return _switch(choice(random, _SWITCHES, split, "switches"))


def _switch(entry: tuple[str, str, str, str, str, str, bool]) -> Params:
    group, title, namespace, key, on, off, wanted = entry
    return {"what": title, "how": "on" if wanted else "off", "group": group, "at": (namespace, key),
            "value": on if wanted else off, "other": off if wanted else on}  # fmt: skip


def _turn_back(device: Device, params: Params) -> None:
    if params["at"][1] == "airplane_mode_on":  # which would end the radios: a second change
        device.set("global", "wifi_on", "0")
    namespace, key = params["at"]
    device.set(namespace, key, params["other"])


def _is_turned(device: Device, params: Params) -> bool:
    namespace, key = params["at"]
    return bool(device.setting(namespace, key) == params["value"])


def _turn(hand: Hand, params: Params) -> Action | None:
    return hand.route(PACKAGE, {
        "groups": lambda: hand.tap(GROUPS[params["group"]][0]),
        params["group"]: lambda: hand.tap(params["what"]),
    })  # fmt: skip


def _two(random: Random, split: Split) -> Params:
    one, two = choice(random, _PAIRS, split, "pairs")
    return {"one": _switch(one), "two": _switch(two), "first": one[1], "how": "on" if one[6] else "off",
            "second": two[1], "then": "on" if two[6] else "off"}  # fmt: skip


def _turn_both(hand: Hand, params: Params) -> Action | None:
    return _turn(hand, params["two"] if _is_turned(hand.device, params["one"]) else params["one"])


def _turn_both_back(device: Device, params: Params) -> None:
    for part in (params["one"], params["two"]):
        _turn_back(device, part)


def _slider(random: Random, split: Split) -> Params:
    name, end = choice(random, [(name, end) for name in _SLIDERS for end in ("minimum", "maximum")], split, "sliders")
    group, key, low, high, middle = _SLIDERS[name]
    return {"name": name, "end": end, "group": group, "key": key, "value": low if end == "minimum" else high,
            "middle": middle}  # fmt: skip


def _slide(hand: Hand, params: Params) -> Action | None:
    def drag() -> Action | None:
        bar: Placed | None = next((p for p in hand.device.look() if p.view.name == params["name"]), None)
        if bar is None:
            return None
        x = bar.x + (1 if params["end"] == "minimum" else bar.view.width - 2)
        return tap_at((bar.y + 5) / TALL, x / WIDTH)

    return hand.route(PACKAGE, {"groups": lambda: hand.tap(GROUPS[params["group"]][0]), params["group"]: drag})


def _listed(key: str, choices: dict[str, str], row: str) -> tuple[Draw, Goal, Oracle, Prepare]:
    def draw(random: Random, split: Split) -> Params:
        return {"title": choice(random, list(choices), split, key)}

    def prepare(device: Device, params: Params) -> None:
        others = [value for title, value in choices.items() if title != params["title"]]
        device.set("system", key, device.seeded(key).choice(others))

    def goal(device: Device, params: Params) -> bool:
        return device.setting("system", key) == choices[str(params["title"])]

    def oracle(hand: Hand, params: Params) -> Action | None:
        return hand.route(PACKAGE, {
            "groups": lambda: hand.tap("Display"),
            "display": lambda: hand.tap(row),
            "font" if key == "font_scale" else "timeout": lambda: hand.tap(params["title"]),
        })  # fmt: skip

    return draw, goal, oracle, prepare


def _news(device: Device, params: Params) -> None:
    for name in ("Ada", "Ben")[: params["count"]]:
        device.notify(Notification("com.simplemobiletools.smsmessenger", name, "hello"))


def _clear(hand: Hand, params: Params) -> Action | None:
    if hand.device.state.shade:
        return hand.tap("clear")
    return hand.calm() or Action("DUAL_POINT", (0.01, 0.5), (0.6, 0.5))


TEMPLATES = [
    Template("open-app", "Open the {app} app", _app,
             lambda device, params: device.page.package == params["package"],
             lambda hand, params: hand.calm() or hand.open(params["package"]),
             wordings=("Launch {app}", "Show me the app {app}", "Go to {app}")),
    Template("open-settings", "Open the {group} settings", _group,
             lambda device, params: device.page.package == PACKAGE and device.page.screen == params["screen"],
             lambda hand, params: hand.route(PACKAGE, {"groups": lambda: hand.tap(params["group"])}),
             wordings=("Go to the {group} settings", "Show the settings of {group}", "In settings, open {group}")),
    Template("turn", "Turn {how} {what}", _turned, _is_turned, _turn, _turn_back, _ANY,
             wordings=("Switch {what} {how}", "{what} should be {how}", "I want {what} {how}")),
    Template("turn-two", "Turn {how} {first}, then turn {then} {second}", _two,
             lambda device, params: _is_turned(device, params["one"]) and _is_turned(device, params["two"]),
             _turn_both, _turn_both_back, _ANY, most=2, level=2),
    Template("slide", "Set the {name} to its {end}", _slider,
             lambda device, params: device.setting("system", params["key"]) == params["value"], _slide,
             lambda device, params: device.set("system", params["key"], params["middle"]), _ANY,
             wordings=("The {name} should be at its {end}", "Put the {name} at the {end}", "Change {name} to {end}")),
    Template("font-size", "Set the font size to {title}", *_listed("font_scale", FONTS, "Font size"), _ANY, level=2,
             wordings=("Make the font {title}", "The font size should be {title}", "I want the font {title}")),
    Template("timeout", "Set the screen timeout to {title}", *_listed("screen_off_timeout", TIMEOUTS, "Timeout"), _ANY,
             level=2, wordings=("Let the screen go off after {title}", "The screen timeout should be {title}",
                                "I want a screen timeout of {title}")),
    Template("clear-news", "Clear all notifications", lambda random, split: {"count": random.randint(1, 2)},
             lambda device, params: not device.state.notifications, _clear, _news, held_out=True),
]  # fmt: skip
