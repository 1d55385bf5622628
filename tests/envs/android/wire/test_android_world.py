"""AndroidWorld's verdicts on our phone, asked through Debian's adb before and after each task.

Where one of our templates asks for the same as AndroidWorld, its oracle does the task.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import pytest
from android_world_rules import (
    MARKOR,
    SMS,
    Eyes,
    Verdict,
    all_deleted,
    app_opened,
    both,
    clipboard,
    contact,
    event_added,
    events_removed,
    file_deleted,
    file_moved,
    is_set,
    newest_deleted,
    note_deleted,
    note_there,
    paused,
    running,
    sms_sent,
    sms_sent_again,
    timer,
)  # fmt: skip
from served_phones import Adb, Served

from palaestra.envs.android import touch
from palaestra.envs.android.actions import perform
from palaestra.envs.android.apps.calendar import DAY, add, midnight
from palaestra.envs.android.apps.messages import receive
from palaestra.envs.android.device import Device
from palaestra.envs.android.oracle import Hand
from palaestra.envs.android.tasks import TEMPLATES
from palaestra.envs.android.tasks.template import Task, start
from palaestra.envs.android.wire.commands import session
from palaestra.envs.android.wire.phone import Phone

pytestmark = pytest.mark.skipif(shutil.which("adb") is None, reason="adb is not installed")

NUMBER, WORDS = "5550147", "See you at the pier, at 8"


# What is asked, and how it is done.


def ours(phone: Phone, name: str, /, **wanted: Any) -> dict[str, Any]:
    """Prepare a phone for a task of our template, of the first seed that has the wanted parameters."""
    template = TEMPLATES[name]
    for seed in range(5000):
        for split in ("train", "test"):
            drawn = template.draw(Random(f"{seed}/{name}/{split}"), split)
            if all(drawn[key] == value for key, value in wanted.items()):
                phone.task = start(phone.device, template, seed, split)
                return phone.task.params
    raise AssertionError(f"{name} never draws {wanted}")


def by_oracle(phone: Phone, params: Any) -> None:
    assert phone.task is not None
    follow(phone.device, phone.task)


def follow(device: Device, task: Task) -> None:
    hand = Hand(device)
    for _ in range(40):
        if task.template.goal(device, task.params):
            return
        action = task.template.oracle(hand, task.params)
        assert action is not None, task.instruction
        perform(device, action)
        device.tick(2)
    raise AssertionError(f"not done: {task.instruction}")


def do(phone: Phone, name: str, /, **params: Any) -> None:
    """Let the oracle of one of our templates do it with other parameters."""
    follow(phone.device, Task(TEMPLATES[name], params))


def tap(device: Device, name: str, long: bool = False) -> None:
    placed = next(p for p in reversed(device.look()) if name in (p.view.name, p.view.text) and p.visible)
    x, y = placed.x + min(placed.view.width, 64 - placed.x) / 2, placed.y + placed.view.height / 2
    assert (touch.long_press if long else touch.tap)(device, x, y), name
    device.tick(2)


def said(phone: Phone, *lines: str) -> None:
    for line in lines:
        answer = session(phone).run(line)
        assert answer.code == 0, (line, answer)


def fresh(phone: Phone, *lines: str, **params: Any) -> dict[str, Any]:
    phone.device.reset(7)
    said(phone, *lines)
    return params


NO_SMS = [f"sqlite3 /data/data/com.android.providers.telephony/databases/mmssms.db 'DELETE FROM {table};'"
          for table in ("sms", "threads")]  # fmt: skip


def chat(phone: Phone, number: str) -> None:
    said(phone, f"sleep 5; am start -a android.intent.action.SENDTO -d sms:{number}")  # when the heads-up has gone


def paste_and_send(phone: Phone, number: str) -> None:
    chat(phone, number)
    tap(phone.device, "Message", long=True)
    tap(phone.device, "send")


def copy_from_chat(phone: Phone, params: Any, source: str) -> None:
    chat(phone, source)
    tap(phone.device, params["text"], long=True)
    paste_and_send(phone, params["number"])


def heard(phone: Phone) -> dict[str, Any]:
    params = fresh(phone, *NO_SMS, number=NUMBER, text="9 Quay Road, Port Avon")
    receive(phone.device, "5550001", params["text"])
    return params


def sent_once(phone: Phone) -> dict[str, Any]:
    params = fresh(phone, *NO_SMS, number=NUMBER, text=WORDS)
    do(phone, "sms-number", **params)
    receive(phone.device, NUMBER, "Sorry, what was your last message?")
    return params


def copy_by_typing(phone: Phone, params: Any) -> None:
    said(phone, "am start -n net.gsantner.markor/.activity.DocumentActivity")
    tap(phone.device, "Text")
    said(phone, f"input text '{params['text'].replace(' ', '%s')}'", "input keyevent KEYCODE_COPY")


def note_from_clipboard(phone: Phone, params: Any) -> None:
    phone.device.open("net.gsantner.markor")
    tap(phone.device, "plus")
    tap(phone.device, "Name")
    said(phone, f"input text {params['note'].removesuffix('.md')}")
    tap(phone.device, "Text", long=True)
    said(phone, "input keyevent BACK")
    tap(phone.device, "SAVE")


def folder_in_markor(phone: Phone, params: Any) -> None:
    phone.device.open("com.google.android.documentsui", "folder", path=MARKOR)
    tap(phone.device, "plus")
    tap(phone.device, "Folder name")
    said(phone, f"input text {params['note']}", "input keyevent BACK")
    tap(phone.device, "CREATE")


def rename_note(phone: Phone, params: Any) -> None:
    hand = Hand(phone.device)
    phone.device.open("net.gsantner.markor")
    tap(phone.device, params["old"])
    wanted = {"name": params["note"].removesuffix(".md"), "text": params["text"]}
    for _ in range(12):
        action = hand.write("name", "Name", wanted["name"]) or hand.write("text", "Text", wanted["text"])
        if action is None:
            break
        perform(phone.device, action)
    said(phone, "input keyevent BACK")
    tap(phone.device, "SAVE")


def some_notes(phone: Phone) -> dict[str, Any]:
    """Write notes at different times, as AndroidWorld does: it sets the clock in between."""
    fresh(phone, f"rm -r {MARKOR}/*")
    for hour, name in ((15, "maps.md"), (19, "latest.md"), (12, "plans.md")):
        said(phone, f"date 1015{hour}002023.00", f"echo 'text of {name}' > {MARKOR}/{name}")
    return {}


def delete_all_notes(phone: Phone, params: Any) -> None:
    for name in phone.entries(MARKOR):
        do(phone, "note-delete", name=name.removesuffix(".md"))


def event_params(phone: Phone, day: int, **more: Any) -> dict[str, Any]:
    phone.device.reset(7)
    begin = midnight(phone.device) + day * DAY + 13 * 3600
    wanted = {"start_ts": begin, "end_ts": begin + 3600, "title": "Tea with Ada", "location": "", "description": ""}
    return {"title": "Tea with Ada", "day": day, "hour": 13, "event": wanted | more}


def plan(phone: Phone, params: Any) -> None:
    do(phone, "event-new", **params)


def repeat(phone: Phone, params: Any) -> None:
    plan(phone, params)
    path = "/data/data/com.simplemobiletools.calendar.pro/databases/events.db"
    change = "UPDATE events SET repeat_interval = 604800, repeat_rule = 2 WHERE title LIKE 'Tea%'"
    said(phone, f'sqlite3 {path} "{change}"')


def two_on_a_day(phone: Phone, day: int) -> dict[str, Any]:
    phone.device.reset(7)
    known = phone.device.table("com.simplemobiletools.calendar.pro", "events")
    for title in ("Tea", "Regatta"):
        add(phone.device, title, day, 11)
    return {"titles": ("Tea", "Regatta"), "ids": set(sorted(known)[-2:])}


def delete_both(phone: Phone, params: Any) -> None:
    for title, key in zip(params["titles"], sorted(params["ids"]), strict=True):
        do(phone, "event-delete", title=title, id=key)


def note_and_sms(phone: Phone, params: Any) -> None:
    do(phone, "note-new", name=params["note"].removesuffix(".md"), text=params["text"])
    do(phone, "sms-number", number=params["number"], text=params["text"])


@dataclass(frozen=True)
class Case:
    """One of AndroidWorld's tasks."""

    name: str
    """Its class."""
    prepare: Callable[[Phone], dict[str, Any]]
    """Makes the phone ready and returns the task's parameters."""
    checker: Callable[[Eyes, Any], Verdict]
    """Its rule."""
    solve: Callable[[Phone, Any], None] = by_oracle
    """Does the task."""
    first: float = 0.0
    """The verdict before. AndroidWorld's "verify" tasks begin at 1, and here end at 0 by being spoilt."""


def task(name: str, /, **wanted: Any) -> Callable[[Phone], dict[str, Any]]:
    return lambda phone: ours(phone, name, **wanted)


def note(name: str, /, **more: str) -> Callable[[Phone], dict[str, Any]]:
    """Prepare for a task of our template; its note is named as AndroidWorld names files."""

    def prepare(phone: Phone) -> dict[str, Any]:
        params = ours(phone, name)
        params["note"] = f"{params['name']}.md"
        return params | more

    return prepare


def switch(name: str, what: str, how: str, key: str, *values: str) -> list[Case]:
    other, check = {"on": "off", "off": "on"}[how], is_set(key, *values)
    return [
        Case(f"System{name}Turn{how.title()}", task("turn", what=what, how=how), check),
        Case(f"System{name}Turn{how.title()}Verify", task("turn", what=what, how=other), check, first=1.0),
    ]


def slider(end: str, other: str, value: str) -> list[Case]:
    check = is_set("screen_brightness", value, namespace="system")

    def there(phone: Phone) -> dict[str, Any]:
        params = ours(phone, "slide", name="brightness", end=other)
        phone.device.set("system", "screen_brightness", value)
        return params

    return [
        Case(f"SystemBrightness{end.title()[:3]}", task("slide", name="brightness", end=end), check),
        Case(f"SystemBrightness{end.title()[:3]}Verify", there, check, first=1.0),
    ]


def wifi_then_clock(phone: Phone, params: Any) -> None:
    by_oracle(phone, params)
    do(phone, "open-app", package=params["package"])


def sms(phone: Phone) -> dict[str, Any]:
    return fresh(phone, *NO_SMS, number=NUMBER, text=WORDS)


CLOCK = "com.google.android.deskclock"
CASES = [
    *switch("Wifi", "Wi-Fi", "on", "wifi_on", "1", "2"), *switch("Wifi", "Wi-Fi", "off", "wifi_on", "0"),
    *switch("Bluetooth", "Bluetooth", "on", "bluetooth_on", "1"),
    *switch("Bluetooth", "Bluetooth", "off", "bluetooth_on", "0"),
    *slider("minimum", "maximum", "1"), *slider("maximum", "minimum", "255"),
    Case("TurnOffWifiAndTurnOnBluetooth", task("turn-two", first="Wi-Fi", how="off", second="Bluetooth", then="on"),
         both(is_set("wifi_on", "0"), is_set("bluetooth_on", "1"))),
    Case("TurnOnWifiAndOpenApp", lambda phone: ours(phone, "turn", what="Wi-Fi", how="on") | {"package": CLOCK},
         both(is_set("wifi_on", "1", "2"), app_opened), wifi_then_clock),
    Case("OpenAppTaskEval", task("open-app", package=CLOCK), app_opened),
    Case("SystemCopyToClipboard", lambda phone: fresh(phone, "am broadcast -a clipper.set -e text ~~~RESET~~~",
                                                      text="1234 Elm St, Springfield, IL"), clipboard, copy_by_typing),
    Case("ContactsAddContact", task("contact-new"), contact),
    Case("ClockTimerEntry", task("timer"), timer),
    Case("ClockStopWatchRunning", task("stopwatch"), running),
    Case("ClockStopWatchPausedVerify", lambda phone: ours(phone, "stopwatch") | fresh(
        phone, f"pm clear {CLOCK}", f"am start -n '{CLOCK}/com.android.deskclock.DeskClock$Stopwatch'"
    ), paused, first=1.0),
    Case("SimpleSmsSend", task("sms-number"), sms_sent),
    Case("SimpleSmsReply", task("sms-name"), sms_sent),
    Case("SimpleSmsReplyMostRecent", task("sms-reply"), sms_sent),
    Case("SimpleSmsSendClipboardContent", lambda phone: sms(phone) | fresh(
        phone, *NO_SMS, f"am broadcast -a clipper.set -e text '{WORDS}'"), sms_sent,
         lambda phone, params: paste_and_send(phone, NUMBER)),
    Case("SimpleSmsSendReceivedAddress", heard, sms_sent,
         lambda phone, params: copy_from_chat(phone, params, "5550001")),
    Case("SimpleSmsResend", sent_once, sms_sent_again, lambda phone, params: copy_from_chat(phone, params, NUMBER)),
    Case("FilesMoveFile", task("file-move"), file_moved),
    Case("FilesDeleteFile", task("file-delete"), file_deleted),
    Case("MarkorCreateNote", note("note-new"), note_there),
    Case("MarkorDeleteNote", note("note-delete"), note_deleted),
    Case("MarkorEditNote", note("note-change"), note_there),
    Case("MarkorDeleteNewestNote", some_notes, newest_deleted,
         lambda phone, params: do(phone, "note-delete", name="latest")),
    Case("MarkorDeleteAllNotes", some_notes, all_deleted, delete_all_notes),
    Case("MarkorCreateFolder", lambda phone: fresh(phone, note="folder_20231015"), note_there, folder_in_markor),
    Case("MarkorCreateNoteFromClipboard", lambda phone: fresh(
        phone, f"am broadcast -a clipper.set -e text '{WORDS}'", note="pier.md", text=WORDS), note_there,
         note_from_clipboard),
    Case("MarkorChangeNoteContent", lambda phone: fresh(
        phone, f"echo 'old text' > {MARKOR}/draft.md", old="draft.md", note="final.md", text="a new text"), note_there,
         rename_note),
    Case("MarkorAddNoteHeader", lambda phone: fresh(
        phone, f"echo 'body' > {MARKOR}/a.md", old="a.md", note="b.md", text="Header\n\nbody"), note_there,
         lambda phone, params: said(
             phone, f"cd {MARKOR}; echo Header > b.md; echo >> b.md; cat a.md >> b.md; rm a.md")),
    Case("MarkorMoveNote", lambda phone: fresh(
        phone, f"mkdir -p {MARKOR}/DailyNotes {MARKOR}/WorkProjects", f"echo x > {MARKOR}/DailyNotes/a.md",
        file="a.md", folder="Documents/Markor/DailyNotes", target="Documents/Markor/WorkProjects"), file_moved,
         lambda phone, params: said(phone, f"mv {MARKOR}/DailyNotes/a.md {MARKOR}/WorkProjects/")),
    Case("MarkorMergeNotes", lambda phone: fresh(
        phone, *(f"echo {name} > {MARKOR}/{name}.md" for name in ("one", "two", "three")), note="all.md",
        text="one\n\ntwo\n\nthree"), note_there,
         lambda phone, params: said(phone, f"cd {MARKOR}; cat one.md > all.md; echo >> all.md; cat two.md >> all.md",
                                    f"cd {MARKOR}; echo >> all.md; cat three.md >> all.md")),
    Case("MarkorCreateNoteAndSms", lambda phone: sms(phone) | {"note": "pier.md"}, both(note_there, sms_sent),
         note_and_sms),
    *(Case(f"SimpleCalendarAddOneEvent{when}", partial(event_params, day=day), event_added, plan)
      for when, day in (("", 3), ("RelativeDay", 5), ("Tomorrow", 1), ("InTwoWeeks", 14))),
    Case("SimpleCalendarAddRepeatingEvent", partial(event_params, day=2, repeat_interval=604800, repeat_rule=2),
         event_added, repeat),
    Case("SimpleCalendarDeleteOneEvent", lambda phone: (known := ours(phone, "event-delete")) | {"ids": {known["id"]}},
         events_removed),
    Case("SimpleCalendarDeleteEvents", partial(two_on_a_day, day=1), events_removed, delete_both),
    Case("SimpleCalendarDeleteEventsOnRelativeDay", partial(two_on_a_day, day=4), events_removed, delete_both),
]  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served(Phone(Device(0)))
    yield served
    served.close()


@pytest.fixture(scope="module")
def eyes(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Eyes]:
    adb = Adb(served.port)
    yield Eyes(adb, tmp_path_factory.mktemp("pulled"))
    adb("kill-server", named=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_verdict_is_androidworlds(case: Case, served: Served, eyes: Eyes) -> None:
    params = case.prepare(served.phone)
    verdict = case.checker(eyes, params)
    assert verdict() == case.first
    case.solve(served.phone, params)
    assert verdict() == 1.0 - case.first


def test_there_are_enough_of_them() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 25


def test_events_have_the_columns_that_androidworld_reads(served: Served, eyes: Eyes) -> None:
    """Its row type takes exactly these, and fails for any other."""
    wanted = """id start_ts end_ts title location description repeat_interval repeat_rule reminder_1_minutes
        reminder_2_minutes reminder_3_minutes reminder_1_type reminder_2_type reminder_3_type repeat_limit
        repetition_exceptions attendees import_id time_zone flags event_type parent_id last_updated source availability
        color type"""
    served.phone.device.reset(7)
    assert set(eyes.events()[0]) == set(wanted.split())


def test_what_androidworld_clears_is_empty_and_still_works(served: Served, eyes: Eyes) -> None:
    served.phone.device.reset(7)
    for package in ("com.android.providers.contacts", CLOCK, SMS):
        assert eyes.shell("pm", "clear", package) == "Success\n"
    assert not eyes.contacts() and not eyes.messages("inbox")
    eyes.shell("am", "start", "-n", f"{CLOCK}/com.android.deskclock.DeskClock$Timer".replace("$", "\\$"))
    assert any("0 hours" in spoken for _, spoken in eyes.elements())
