"""Clock: alarms, timer and stopwatch."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from palaestra.envs.android.app import App, Page, field_of
from palaestra.envs.android.palette import BLUE, FAINT, GREEN, ORANGE, PURPLE, RED
from palaestra.envs.android.storage import Row
from palaestra.envs.android.views import (
    Screen,
    View,
    button,
    buttons,
    floating,
    headline,
    icon,
    label,
    pad,
    row,
    tabs,
    toggle,
    toolbar,
)  # fmt: skip

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

PACKAGE = "com.google.android.deskclock"
KEYS = ["1 2 3", "4 5 6", "7 8 9", "< 0 OK"]
MAIN = "com.android.deskclock.DeskClock"


def fill(device: Device, random: Random) -> None:
    """Set some alarms."""
    database = device.database(PACKAGE)
    for minutes in sorted(random.sample(range(5 * 12, 23 * 12), 4)):
        database.insert("alarms", hour=minutes // 12, minutes=minutes % 12 * 5, daysofweek=0,
                        enabled=random.randrange(2), label="")
    for table in ("timer", "stopwatch"):
        only(device, table)


def only(device: Device, table: str) -> Row:
    """Return the one row of a table, made anew where the table was emptied."""
    database = device.database(PACKAGE)
    if 1 not in database[table]:
        database[table].clear()
        database.insert(table)
    return database[table][1]


app = App(
    PACKAGE, "Clock", "clock", PURPLE,
    {
        "alarms": "hour INTEGER, minutes INTEGER, daysofweek INTEGER, enabled INTEGER, label TEXT",
        "timer": "entered TEXT, left INTEGER, running INTEGER",
        "stopwatch": "running INTEGER, elapsed INTEGER, laps INTEGER",
    },
    "/data/user_de/0/com.google.android.deskclock/databases/alarms.db", fill,
)  # fmt: skip


def _tabs(device: Device, chosen: str) -> View:
    screens = {"Clock": "alarms", "Timer": "timer", "Stopwatch": "stopwatch"}
    return tabs(list(screens), chosen, lambda name: device.replace(screens[name]))


@app.screen(MAIN)
def alarms(device: Device, page: Page) -> Screen:
    """Return the alarms, by time."""
    database = device.database(PACKAGE)
    rows = []
    for alarm in sorted(database["alarms"].values(), key=lambda alarm: (alarm["hour"], alarm["minutes"])):
        title = f"{alarm['hour']:02d}:{alarm['minutes']:02d}"

        def turn(key: int = alarm["_id"], on: int = alarm["enabled"]) -> None:
            database.update("alarms", key, enabled=1 - on)

        end = toggle(bool(alarm["enabled"]), turn, f"switch {title}")
        rows.append(row(title, alarm["label"], "clock", partial(device.push, "alarm", id=alarm["_id"]), PURPLE, end))
    add = floating("plus", lambda: device.push("keypad"), PURPLE)
    return Screen(rows, toolbar("Alarms", fill=PURPLE), _tabs(device, "Clock"), add)


@app.screen("com.android.deskclock.AlarmSelectionActivity")
def alarm(device: Device, page: Page) -> Screen:
    """Return one alarm's time, label and switch, and the way to delete it."""
    database, key = device.database(PACKAGE), page.args["id"]
    entry = database["alarms"].get(key)
    if entry is None:
        return Screen([label("Deleted")], toolbar("Alarm", fill=PURPLE, back=device.finish))

    def delete() -> None:
        database.delete("alarms", key)
        device.finish()
        device.toast("Deleted")

    def keep() -> None:
        database.update("alarms", key, label=page.texts["label"])
        device.finish()

    return Screen(
        [
            headline(f"{entry['hour']:02d}:{entry['minutes']:02d}", fill=PURPLE),
            field_of(device, page, "label", "Label", entry["label"]),
            button("CHANGE", lambda: device.push("keypad", id=key), BLUE),
            button("DONE", keep, GREEN),
        ],
        toolbar("Alarm", icon("trash", delete), fill=PURPLE, back=device.finish),
    )


@app.screen("com.android.deskclock.TimePickerActivity")
def keypad(device: Device, page: Page) -> Screen:
    """Return a keypad for an alarm's time: four digits, then OK."""
    typed = page.texts.setdefault("time", "")
    shown = typed.rjust(4, "-")

    def press(key: str) -> None:
        if key == "<":
            page.texts["time"] = typed[:-1]
        elif key != "OK":
            page.texts["time"] = (typed + key)[-4:]
        else:
            set_alarm(device, page)

    return Screen([headline(f"{shown[:2]}:{shown[2:]}", fill=PURPLE, name="time"), pad(KEYS, press, height=16)],
                  toolbar("Time", fill=PURPLE, back=device.finish))  # fmt: skip


def set_alarm(device: Device, page: Page) -> None:
    """Keep the keypad's time as an alarm, if it is one."""
    typed = page.texts["time"]
    if len(typed) < 3 or int(typed[:-2]) > 23 or int(typed[-2:]) > 59:
        device.toast("No such time")
        return
    time = {"hour": int(typed[:-2]), "minutes": int(typed[-2:]), "enabled": 1}
    database = device.database(PACKAGE)
    if "id" in page.args:
        database.update("alarms", page.args["id"], **time)
    else:
        database.insert("alarms", daysofweek=0, label="", **time)
    device.finish()
    device.toast("Alarm set")


@app.screen(MAIN + "$Timer")
def timer(device: Device, page: Page) -> Screen:
    """Return the timer's keypad: digits fill hours, minutes and seconds from the right."""
    database = device.database(PACKAGE)
    entry = only(device, "timer")
    typed = entry["entered"].rjust(6, "0")

    def press(key: str) -> None:
        if key == "<":
            database.update("timer", 1, entered=entry["entered"][:-1])
        elif key == "OK":
            database.update("timer", 1, running=1)
        else:
            database.update("timer", 1, entered=(entry["entered"] + key)[-6:])

    keys = [*KEYS[:3], "< 0"]
    go = (("Stop", lambda: database.update("timer", 1, running=0), RED) if entry["running"]
          else ("Start", lambda: press("OK"), GREEN))  # fmt: skip
    time = f"{typed[:2]}h{typed[2:4]}m{typed[4:]}s"
    spoken = f"{int(typed[:2])} hours, {int(typed[2:4])} minutes, {int(typed[4:])} seconds"
    return Screen([headline(time, fill=ORANGE, name=spoken), pad(keys, press, height=14), buttons(go)],
                  toolbar("Timer", fill=PURPLE), _tabs(device, "Timer"))  # fmt: skip


@app.screen(MAIN + "$Stopwatch")
def stopwatch(device: Device, page: Page) -> Screen:
    """Return the stopwatch: it starts and stops, and while it runs counts laps."""
    entry = only(device, "stopwatch")
    set_to = partial(device.database(PACKAGE).update, "stopwatch", 1)
    if entry["running"]:
        choices = (("Pause", partial(set_to, running=0, elapsed=1), ORANGE),
                   ("Lap", partial(set_to, laps=entry["laps"] + 1), RED))  # fmt: skip
    else:
        choices = (("Start", partial(set_to, running=1), GREEN), ("Reset", partial(set_to, elapsed=0, laps=0), RED))
    shown = "RUNNING" if entry["running"] else "PAUSED" if entry["elapsed"] else "00:00"
    laps = f"Laps {entry['laps']}" if entry["laps"] else ""
    return Screen([label(""), headline(shown, fill=PURPLE), label(laps, FAINT), buttons(*choices)],
                  toolbar("Stopwatch", fill=PURPLE), _tabs(device, "Stopwatch"))  # fmt: skip
