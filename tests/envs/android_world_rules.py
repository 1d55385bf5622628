"""How AndroidWorld looks at a phone through adb, and how it judges its tasks.

The queries and the rules are those of its classes (github.com/google-research/android_world, commit d9c569f), written
anew.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from served_phones import Adb

MARKOR = "/storage/emulated/0/Documents/Markor"
STORAGE = "/storage/emulated/0"
SMS = "com.simplemobiletools.smsmessenger"
Verdict = Callable[[], float]


class Eyes:
    """Asks a phone through adb alone."""

    def __init__(self, adb: Adb, folder: Path) -> None:
        self.adb, self.folder = adb, folder

    def shell(self, *words: str) -> str:
        code, text = self.adb("shell", *words)
        assert code == 0, (words, text)
        return text.replace("\r", "")

    def setting(self, namespace: str, key: str) -> str:
        return self.shell("settings", "get", namespace, key).strip()

    def package(self) -> str:
        said = self.shell("am stack list | grep -E visible=true")
        match = re.search(r"^\s*taskId=\d+: .*visible=true.*topActivity=ComponentInfo{(.*?)}$", said, re.MULTILINE)
        assert match is not None, said
        return match[1]

    def elements(self) -> list[tuple[str, str]]:
        self.shell("uiautomator dump /sdcard/window_dump.xml")
        root = ElementTree.fromstring(self.shell("cat /sdcard/window_dump.xml"))
        return [(node.get("text", ""), node.get("content-desc", "")) for node in root.iter("node")]

    def messages(self, box: str) -> list[dict[str, str]]:
        said = self.shell(*f"content query --uri content://sms/{box}".split())
        if said.startswith("No result found."):
            return []
        found = []
        for line in said.strip().split("\nRow:"):
            before, _, after = line.partition("body=")
            body = re.split(r", \w+=", after)[0]
            fields = dict(part.split("=", 1) for part in (before + after[len(body) :]).split(", ") if "=" in part)
            found.append({key.split(" ")[-1]: value.strip() for key, value in fields.items()} | {"body": body})
        return found

    def contacts(self) -> list[tuple[str, str]]:
        said = self.shell("content query --uri content://contacts/phones/ --projection display_name:number")
        found = re.findall("display_name=(.*), number=(.*)", said)
        return [(name, re.sub(r"\D", "", number)) for name, number in found]

    def exists(self, name: str, folder: str) -> bool:
        script = f'\n  if [ -d "{folder}" ]; then\n      echo "Exists"\n  else\n      echo "Does not exist"\n  fi\n  '
        if "Exists" not in self.shell(script):
            return False
        return f"{folder}/{name}" in self.shell("find", folder, "-type", "f", "-o", "-type", "d").split("\n")

    def contents(self, name: str) -> str:
        code, text = self.adb("shell", "cat", f"{MARKOR}/{name}")
        return text.strip() if code == 0 else ""

    def notes(self) -> list[tuple[str, str]]:
        """Return time and name of the notes, the oldest first."""
        parts = [line.split(None, 8) for line in self.shell(f"ls {MARKOR} -ll -au").split("\n") if line[:1] == "-"]
        return sorted((f"{part[5]} {part[6]}", part[8]) for part in parts)

    def events(self) -> list[dict[str, Any]]:
        path = self.folder / "events.db"
        assert self.adb("root")[0] == 0
        assert self.adb("pull", "/data/data/com.simplemobiletools.calendar.pro/databases/events.db", str(path))[0] == 0
        connection = sqlite3.connect(path)
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute("SELECT * FROM events;")]
        connection.close()
        return rows


def alike(one: str, two: str) -> bool:
    """AndroidWorld's fuzzy match."""
    return SequenceMatcher(None, one.lower(), two.lower()).ratio() >= 0.9


# Its checkers. Each is asked once before the task is done, and returns what tells the verdict at any later time.


def is_set(key: str, *values: str, namespace: str = "global") -> Callable[[Eyes, Any], Verdict]:
    return lambda eyes, params: lambda: float(eyes.setting(namespace, key) in values)


def both(*checkers: Callable[[Eyes, Any], Verdict]) -> Callable[[Eyes, Any], Verdict]:
    def checker(eyes: Eyes, params: Any) -> Verdict:
        verdicts = [part(eyes, params) for part in checkers]
        return lambda: sum(verdict() for verdict in verdicts) / len(verdicts)

    return checker


def app_opened(eyes: Eyes, params: Any) -> Verdict:
    return lambda: float(eyes.package().split("/")[0] == params["package"])


def clipboard(eyes: Eyes, params: Any) -> Verdict:
    def verdict() -> float:
        said = eyes.shell("am", "broadcast", "-a", "clipper.get")
        assert "Broadcast completed: result=-1, data=" in said
        return float(alike(said.split("data=")[1].strip('"\r\n'), params["text"]))

    return verdict


def contact(eyes: Eyes, params: Any) -> Verdict:
    return lambda: float((params["name"], params["number"]) in eyes.contacts())


def timer(eyes: Eyes, params: Any) -> Verdict:
    wanted = f"0 hours, {params['minutes']} minutes, {params['seconds']} seconds"
    return lambda: float("DeskClock" in eyes.package() and wanted in [spoken for _, spoken in eyes.elements()])


def running(eyes: Eyes, params: Any) -> Verdict:
    def verdict() -> float:
        spoken = {spoken for _, spoken in eyes.elements()}
        return float("DeskClock" in eyes.package() and {"Pause", "Lap"} <= spoken)

    return verdict


def paused(eyes: Eyes, params: Any) -> Verdict:
    def verdict() -> float:
        seen = eyes.elements()
        named = sum("Stopwatch" in pair for pair in seen)
        return float("DeskClock" in eyes.package() and "Start" in [spoken for _, spoken in seen] and named >= 2)

    return verdict


def sms_sent(eyes: Eyes, params: Any) -> Verdict:
    def verdict() -> float:
        now = int(eyes.shell("date", "+%s")) * 1000
        sent = any(
            message["address"] == params["number"] and alike(message["body"], params["text"])
            and now - int(message["date"]) <= 300_000 for message in eyes.messages("sent")
        )  # fmt: skip
        return float(sent and eyes.package().split("/")[0] == SMS)

    return verdict


def sms_sent_again(eyes: Eyes, params: Any) -> Verdict:
    before = eyes.messages("sent")

    def verdict() -> float:
        after = eyes.messages("sent")
        return float(len(after) == len(before) + 1 and after[0]["address"] == before[-1]["address"]
                     and alike(after[0]["body"], before[-1]["body"]))  # fmt: skip

    return verdict


def file_moved(eyes: Eyes, params: Any) -> Verdict:
    folders = [f"{STORAGE}/{params[key]}" for key in ("folder", "target")]
    return lambda: float([eyes.exists(params["file"], folder) for folder in folders] == [False, True])


def file_deleted(eyes: Eyes, params: Any) -> Verdict:
    return lambda: float(not eyes.exists(params["file"], f"{STORAGE}/{params['folder']}"))


def note_there(eyes: Eyes, params: Any) -> Verdict:
    """There is a note (or a folder) of a name, with a text if one is wanted, and none of an old name."""

    def verdict() -> float:
        there = eyes.exists(params["note"], MARKOR)
        right = "text" not in params or alike(eyes.contents(params["note"]), params["text"])
        return float(there and right and not (params.get("old") and eyes.exists(params["old"], MARKOR)))

    return verdict


def note_deleted(eyes: Eyes, params: Any) -> Verdict:
    return lambda: float(not eyes.exists(params["note"], MARKOR))


def newest_deleted(eyes: Eyes, params: Any) -> Verdict:
    before = eyes.notes()

    def verdict() -> float:
        after = [name for _, name in eyes.notes()]
        return float(before[-1][1] not in after and len(after) == len(before) - 1)

    return verdict


def all_deleted(eyes: Eyes, params: Any) -> Verdict:
    return lambda: float(not eyes.notes())


FREE = ("title", "location", "description")


def event_added(eyes: Eyes, params: Any) -> Verdict:
    before, wanted = eyes.events(), params["event"]

    def matches(row: dict[str, Any]) -> bool:
        return all(alike(row[key], value) if key in FREE else row[key] == value for key, value in wanted.items())

    def verdict() -> float:
        after = eyes.events()
        return float(any(map(matches, after)) and len(after) == len(before) + 1 and all(row in after for row in before))

    return verdict


def events_removed(eyes: Eyes, params: Any) -> Verdict:
    before = eyes.events()
    assert params["ids"] <= {row["id"] for row in before}
    return lambda: float(eyes.events() == [row for row in before if row["id"] not in params["ids"]])
