"""Calendar: what is planned, day by day, and the form that plans something."""

from __future__ import annotations

import time
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from palaestra.envs.android.app import App, Page, field_of
from palaestra.envs.android.content import EVENTS
from palaestra.envs.android.palette import BLUE, CARD, FAINT, GREEN, INK
from palaestra.envs.android.views import Screen, Tap, View, button, floating, icon, label, row, toolbar

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

PACKAGE = "com.simplemobiletools.calendar.pro"
DAY = 86_400


def fill(device: Device, random: Random) -> None:
    """Plan some events in the next days."""
    for title, day in zip(random.sample(EVENTS, 5), sorted(random.sample(range(1, 10), 5)), strict=True):
        add(device, title, day, random.randrange(8, 20))


EVENT_COLUMNS = (
    "start_ts INTEGER, end_ts INTEGER, title TEXT, location TEXT, description TEXT, repeat_interval INTEGER, "
    "repeat_rule INTEGER, repeat_limit INTEGER, reminder_1_minutes INTEGER DEFAULT -1, reminder_2_minutes INTEGER "
    "DEFAULT -1, reminder_3_minutes INTEGER DEFAULT -1, reminder_1_type INTEGER, reminder_2_type INTEGER, "
    "reminder_3_type INTEGER, repetition_exceptions TEXT DEFAULT '[]', attendees TEXT, import_id TEXT, time_zone TEXT "
    "DEFAULT 'UTC', flags INTEGER, event_type INTEGER DEFAULT 1, parent_id INTEGER, last_updated INTEGER, source TEXT "
    "DEFAULT 'simple-calendar', availability INTEGER, color INTEGER, type INTEGER"
)
"""Those of Simple Calendar Pro; the app here shows the first three."""
app = App(
    PACKAGE, "Calendar", "calendar", BLUE, {"events": EVENT_COLUMNS},
    "/data/data/com.simplemobiletools.calendar.pro/databases/events.db", fill, key="id",
)  # fmt: skip


def midnight(device: Device) -> int:
    """Return when today began, in seconds since 1970."""
    return int(device.state.clock) // DAY * DAY


def add(device: Device, title: str, day: int, hour: int) -> None:
    """Plan an hour's event so many days from today."""
    start = midnight(device) + day * DAY + hour * 3600
    device.database(PACKAGE).insert("events", start_ts=start, end_ts=start + 3600, title=title)


def when(start: int) -> str:
    """Return a time as "16 Oct 14:00"."""
    return time.strftime("%d %b %H:%M", time.gmtime(start))


@app.screen("com.simplemobiletools.calendar.pro.activities.MainActivity")
def agenda(device: Device, page: Page) -> Screen:
    """Return the events, the next first."""
    events = sorted(device.table(PACKAGE, "events").values(), key=lambda event: int(event["start_ts"]))
    rows = [
        row(event["title"], when(event["start_ts"]), "calendar", partial(device.push, "event", id=event["_id"]), BLUE)
        for event in events
    ]
    return Screen(rows, toolbar("Calendar"), button=floating("plus", partial(device.push, "plan")))


@app.screen("com.simplemobiletools.calendar.pro.activities.EventActivity")
def event(device: Device, page: Page) -> Screen:
    """Return one event."""
    database, key = device.database(PACKAGE), page.args["id"]
    shown = database["events"].get(key)
    if shown is None:
        return Screen([label("Deleted")], toolbar("Event", back=device.finish))

    def delete() -> None:
        database.delete("events", key)
        device.finish()
        device.toast("Deleted")

    body = [label(shown["title"]), label(when(shown["start_ts"]), FAINT)]
    return Screen(body, toolbar("Event", icon("trash", delete), back=device.finish))


def _stepper(name: str, shown: str, less: Tap, more: Tap) -> View:
    def box(x: int, text: str, tap: Tap) -> View:
        return View(x, 1, 12, 11, fill=CARD, round=3, tap=tap, name=f"{name} {text}", kind="Button",
                    children=[View(5, 3, 7, text=text, ink=INK)])  # fmt: skip

    value = View(14, 4, 36, text=shown, name=name)
    return View(height=13, children=[box(1, "-", less), value, box(51, "+", more)], kind="LinearLayout")


@app.screen("com.simplemobiletools.calendar.pro.activities.NewEventActivity")
def plan(device: Device, page: Page) -> Screen:
    """Return the form of a new event: a title, a day and an hour."""
    day, hour = page.state.setdefault("day", 0), page.state.setdefault("hour", 12)

    def step(key: str, by: int, most: int) -> None:
        page.state[key] = min(most, max(0, page.state[key] + by))

    def save() -> None:
        if page.texts["title"].strip():
            add(device, page.texts["title"].strip(), day, hour)
            device.finish()
            device.toast("Saved")

    field = field_of(device, page, "title", "Title")
    date = time.strftime("%a %d", time.gmtime(midnight(device) + day * DAY))
    body = [
        field,
        _stepper("day", date, partial(step, "day", -1, 14), partial(step, "day", 1, 14)),
        _stepper("hour", f"{hour:02d}:00", partial(step, "hour", -1, 23), partial(step, "hour", 1, 23)),
        button("SAVE", save, GREEN),
    ]
    return Screen(body, toolbar("New event", back=device.finish))
