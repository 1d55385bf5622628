"""Tasks in the clock."""

from __future__ import annotations

from random import Random

from palaestra.envs.android.actions import Action
from palaestra.envs.android.apps.clock import only
from palaestra.envs.android.content import NOTES
from palaestra.envs.android.device import Device
from palaestra.envs.android.oracle import Hand
from palaestra.envs.android.storage import Row
from palaestra.envs.android.tasks.people import same
from palaestra.envs.android.tasks.template import Params, Split, Template, choice

PACKAGE = "com.google.android.deskclock"
_ROWS = (f"{PACKAGE}/alarms/",)
_DURATIONS = [(minutes, seconds) for minutes in range(1, 60) for seconds in (0, 15, 30, 45)]
_TIMES = [(hour, minute) for hour in range(24) for minute in range(0, 60, 5)]


def _time(random: Random, split: Split) -> Params:
    hour, minute = choice(random, _TIMES, split, "times")
    return {"hour": hour, "minute": minute, "time": f"{hour:02d}:{minute:02d}"}


def _labelled(random: Random, split: Split) -> Params:
    return _time(random, split) | {"label": choice(random, NOTES, split, "labels")}


def _moved(random: Random, split: Split) -> Params:
    params = _time(random, split)
    hour = (params["hour"] + random.randrange(1, 12)) % 24
    return params | {"to_hour": hour, "to": f"{hour:02d}:{params['minute']:02d}"}


def _alarm_at(device: Device, hour: int, minute: int) -> Row | None:
    alarms = device.table(PACKAGE, "alarms").values()
    return next((alarm for alarm in alarms if (alarm["hour"], alarm["minutes"]) == (hour, minute)), None)


def _wanted(params: Params) -> int:
    return int(params["to_hour"] if "to_hour" in params else params["hour"])


def _remove(device: Device, params: Params) -> None:
    """Have no alarm at the time that is asked for."""
    database = device.database(PACKAGE)
    for hour in {params["hour"], _wanted(params)}:
        alarm = _alarm_at(device, hour, params["minute"])
        if alarm is not None:
            database.delete("alarms", alarm["_id"])


def _plant(device: Device, params: Params) -> None:
    _remove(device, params)
    params["id"] = device.database(PACKAGE).insert(
        "alarms", hour=params["hour"], minutes=params["minute"], daysofweek=0, enabled=1, label=""
    )


def _alarm(device: Device, params: Params) -> Row:
    return device.table(PACKAGE, "alarms").get(params["id"], {})


def _is_set(device: Device, params: Params) -> bool:
    alarm = _alarm_at(device, _wanted(params), params["minute"])
    return alarm is not None and bool(alarm["enabled"]) and alarm["_id"] == params.get("id", alarm["_id"])


def _enter(hand: Hand, digits: str) -> Action | None:
    """Bring four digits onto the keypad, then OK."""
    typed = hand.device.page.texts.get("time", "")
    if typed == digits:
        return hand.tap("OK")
    return hand.tap(digits[len(typed)] if digits.startswith(typed) else "<")


def _set(hand: Hand, params: Params) -> Action | None:
    return hand.route(PACKAGE, {
        "alarms": lambda: hand.tap("plus"),
        "keypad": lambda: _enter(hand, params["time"].replace(":", "")),
        "timer": lambda: hand.tap("Clock"), "stopwatch": lambda: hand.tap("Clock"),
    })  # fmt: skip


def _here(hand: Hand, params: Params) -> bool:
    return bool(hand.device.page.args.get("id") == params["id"])


def _move(hand: Hand, params: Params) -> Action | None:
    return hand.route(PACKAGE, {
        "alarms": lambda: hand.tap(params["time"]),
        "alarm": lambda: hand.tap("CHANGE") if _here(hand, params) else None,
        "keypad": lambda: _enter(hand, params["to"].replace(":", "")) if _here(hand, params) else None,
    })  # fmt: skip


def _label(hand: Hand, params: Params) -> Action | None:
    return hand.route(PACKAGE, {
        "alarms": lambda: hand.tap(params["time"]),
        "alarm": lambda: (hand.write("label", "Label", params["label"]) or hand.tap("DONE"))
        if _here(hand, params) else None,
    })  # fmt: skip


def _delete(hand: Hand, params: Params) -> Action | None:
    return hand.route(PACKAGE, {
        "alarms": lambda: hand.tap(params["time"]),
        "alarm": lambda: hand.tap("trash") if _here(hand, params) else None,
    })  # fmt: skip


def _duration(random: Random, split: Split) -> Params:
    minutes, seconds = choice(random, _DURATIONS, split, "timers")
    return {"minutes": minutes, "seconds": seconds, "digits": f"{minutes}{seconds:02d}"}


def _timed(hand: Hand, params: Params) -> Action | None:
    def keys() -> Action | None:
        typed = only(hand.device, "timer")["entered"]
        if typed == params["digits"]:
            return None
        return hand.tap(params["digits"][len(typed)] if params["digits"].startswith(typed) else "<")

    return hand.route(PACKAGE, {
        "alarms": lambda: hand.tap("Timer"), "stopwatch": lambda: hand.tap("Timer"), "timer": keys,
    })  # fmt: skip


def _is_timed(device: Device, params: Params) -> bool:
    timer = only(device, "timer")
    return timer["entered"].lstrip("0") == params["digits"] and not timer["running"]


TEMPLATES = [
    Template("alarm-set", "Set an alarm for {time}", _time, _is_set, _set, _remove, _ROWS, level=3),
    Template("alarm-off", "Turn off the {time} alarm", _time,
             lambda device, params: _alarm(device, params).get("enabled") == 0,
             lambda hand, params: hand.route(PACKAGE, {"alarms": lambda: hand.tap(f"switch {params['time']}")}),
             _plant, _ROWS),
    Template("alarm-delete", "Delete the {time} alarm", _time, lambda device, params: not _alarm(device, params),
             _delete, _plant, _ROWS),
    Template("alarm-label", 'Give the {time} alarm the label "{label}"', _labelled,
             lambda device, params: same(_alarm(device, params).get("label"), params["label"]), _label, _plant, _ROWS,
             level=2),
    Template("alarm-move", "Move the {time} alarm to {to}", _moved, _is_set, _move, _plant, _ROWS, level=3,
             held_out=True),
    Template("timer", "Set the timer to {minutes} min {seconds} s, but do not start it", _duration, _is_timed, _timed,
             touches=(f"{PACKAGE}/timer/",), level=2),
    Template("stopwatch", "Start the stopwatch", lambda random, split: {},
             lambda device, params: bool(only(device, "stopwatch")["running"]),
             lambda hand, params: hand.route(PACKAGE, {
                 "alarms": lambda: hand.tap("Stopwatch"), "timer": lambda: hand.tap("Stopwatch"),
                 "stopwatch": lambda: hand.tap("Start")}),
             touches=(f"{PACKAGE}/stopwatch/",), held_out=True),
]  # fmt: skip
