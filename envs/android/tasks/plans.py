"""Tasks in the calendar and with the calculator."""

from __future__ import annotations

import time
from random import Random

from palaestra.envs.android.actions import Action
from palaestra.envs.android.apps.calculator import evaluate
from palaestra.envs.android.apps.calendar import DAY, add, midnight
from palaestra.envs.android.content import EVENTS
from palaestra.envs.android.device import Device
from palaestra.envs.android.oracle import Hand
from palaestra.envs.android.state import START
from palaestra.envs.android.storage import Row
from palaestra.envs.android.tasks.people import same
from palaestra.envs.android.tasks.template import Params, Split, Template, choice

PACKAGE, CALCULATOR = "com.simplemobiletools.calendar.pro", "com.google.android.calculator"
_PAIRS = [(one, two) for one in range(2, 100) for two in range(2, 100)]
_ROWS = (f"{PACKAGE}/events/",)


def _event(random: Random, split: Split) -> Params:
    title, day, hour = choice(random, EVENTS, split, "events"), random.randrange(3), random.randrange(10, 15)
    date = time.strftime("%a %d", time.gmtime(START + day * DAY))
    return {"title": title, "day": day, "hour": hour, "date": date, "time": f"{hour:02d}:00"}


def _events(device: Device, params: Params) -> list[Row]:
    start = midnight(device) + params["day"] * DAY + params["hour"] * 3600
    rows = device.table(PACKAGE, "events").values()
    return [row for row in rows if row["start_ts"] == start and same(row["title"], params["title"])]


def _remove(device: Device, params: Params) -> None:
    database = device.database(PACKAGE)
    for row in list(database["events"].values()):
        if row["title"] == params["title"]:
            database.delete("events", row["_id"])


def _plant(device: Device, params: Params) -> None:
    _remove(device, params)
    add(device, params["title"], params["day"], params["hour"])
    params["id"] = max(device.table(PACKAGE, "events"))


def _plan(hand: Hand, params: Params) -> Action | None:
    def form() -> Action | None:
        state = hand.device.page.state
        found = hand.write("title", "Title", params["title"])
        for key in ("day", "hour"):
            if found is None and state.get(key) != params[key]:
                found = hand.tap(f"{key} {'+' if state[key] < params[key] else '-'}")
        return found or hand.tap("SAVE")

    return hand.route(PACKAGE, {"agenda": lambda: hand.tap("plus"), "plan": form})


def _find(hand: Hand, params: Params, name: str = "") -> Action | None:
    return hand.route(PACKAGE, {
        "agenda": lambda: hand.tap(params["title"]),
        "event": lambda: hand.tap(name) if hand.device.page.args["id"] == params["id"] else None,
    })  # fmt: skip


def _shown(device: Device, params: Params) -> bool:
    page = device.page
    return (page.package, page.screen, page.args.get("id")) == (PACKAGE, "event", params["id"])


def _sum(random: Random, split: Split) -> Params:
    one, two = choice(random, _PAIRS, split, "sums")
    return {"line": f"{one}{random.choice('+-*')}{two}"}


def _calculate(hand: Hand, params: Params) -> Action | None:
    def keys() -> Action | None:
        typed = hand.device.page.texts.get("line", "")
        if typed == params["line"]:
            return hand.tap("=")
        return hand.tap(params["line"][len(typed)] if params["line"].startswith(typed) else "C")

    return hand.route(CALCULATOR, {"keypad": keys})


def _calculated(device: Device, params: Params) -> bool:
    page = device.page
    return page.package == CALCULATOR and page.texts.get("line") == evaluate(params["line"])


TEMPLATES = [
    Template("event-new", 'Plan the event "{title}" for {date} at {time}', _event,
             lambda device, params: bool(_events(device, params)), _plan, _remove, _ROWS, level=3),
    Template("event-delete", "Delete the event {title} from the calendar", _event,
             lambda device, params: params["id"] not in device.table(PACKAGE, "events"),
             lambda hand, params: _find(hand, params, "trash"), _plant, _ROWS),
    Template("event-open", "Show the event {title} in the calendar", _event, _shown, _find, _plant),
    Template("calculate", "Calculate {line}", _sum, _calculated, _calculate, level=2),
]  # fmt: skip
