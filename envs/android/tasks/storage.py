"""Tasks with files and notes."""

from __future__ import annotations

from random import Random

from palaestra.envs.android.actions import Action
from palaestra.envs.android.apps.files import FOLDERS, ROOT
from palaestra.envs.android.apps.notes import FOLDER as NOTE_FOLDER
from palaestra.envs.android.content import ENDINGS, FILES, NOTES, PHRASES
from palaestra.envs.android.device import Device
from palaestra.envs.android.oracle import Hand
from palaestra.envs.android.tasks.people import same
from palaestra.envs.android.tasks.template import Oracle, Params, Split, Template, choice

PACKAGE, NOTES_PACKAGE = "com.google.android.documentsui", "net.gsantner.markor"
_NAMES = [(stem, number) for stem in FILES for number in range(100, 120)]
_FILE = ("file:",)


def _file(random: Random, split: Split) -> Params:
    stem, number = choice(random, _NAMES, split, "files")
    source, target = random.sample(FOLDERS, 2)
    return {"file": f"{stem}{number}.{ENDINGS.get(stem, 'pdf')}", "folder": source, "target": target}


def _plant(device: Device, params: Params) -> None:
    device.files[f"{ROOT}/{params['folder']}/{params['file']}"] = b"contents"


def _paths(params: Params) -> tuple[str, str]:
    return f"{ROOT}/{params['folder']}/{params['file']}", f"{ROOT}/{params['target']}/{params['file']}"


def _deleted(device: Device, params: Params) -> bool:
    return _paths(params)[0] not in device.files


def _moved(device: Device, params: Params) -> bool:
    return _paths(params)[0] not in device.files and device.files.get(_paths(params)[1]) == b"contents"


def _in_folder(hand: Hand, params: Params, then: str) -> Action | None:
    """Tap a name in the task's folder, or come to that folder."""
    here = hand.device.page.args.get("path", ROOT)
    if here == ROOT:
        return hand.tap(params["folder"])
    return hand.tap(then) if here == f"{ROOT}/{params['folder']}" else None


def _with_file(name: str) -> Oracle:
    def oracle(hand: Hand, params: Params) -> Action | None:
        return hand.route(PACKAGE, {
            "folder": lambda: _in_folder(hand, params, params["file"]),
            "file": lambda: (hand.tap("OK") or hand.tap(name))
            if hand.device.page.args["path"] == _paths(params)[0] else None,
            "target": lambda: hand.tap(params["target"]),
        })  # fmt: skip

    return oracle


def _new_folder(random: Random, split: Split) -> Params:
    return {"name": choice(random, NOTES, split, "folders"), "folder": random.choice(FOLDERS)}


def _has_folder(device: Device, params: Params) -> bool:
    start = f"{ROOT}/{params['folder']}/"
    return any(same(path, f"{start}{params['name']}/") for path in device.files)


def _make_folder(hand: Hand, params: Params) -> Action | None:
    return hand.route(PACKAGE, {
        "folder": lambda: _in_folder(hand, params, "plus"),
        "make": lambda: (hand.write("name", "Folder name", params["name"]) or hand.tap("CREATE"))
        if hand.device.page.args["path"] == f"{ROOT}/{params['folder']}" else None,
    })  # fmt: skip


# Notes.


def _note(random: Random, split: Split) -> Params:
    return {"name": choice(random, NOTES, split, "notes"), "text": choice(random, PHRASES, split, "phrases")}


def _path(params: Params) -> str:
    return f"{NOTE_FOLDER}/{params['name']}.md"


def _has_note(device: Device, params: Params) -> bool:
    return any(same(path, _path(params)) and same(device.files[path].decode(errors="replace"), params["text"])
               for path in device.files)  # fmt: skip


def _fill(hand: Hand, params: Params) -> Action | None:
    return (hand.write("name", "Name", params["name"]) or hand.write("text", "Text", params["text"])
            or hand.tap("save"))  # fmt: skip


def _write_note(hand: Hand, params: Params) -> Action | None:
    return hand.route(NOTES_PACKAGE, {
        "notes": lambda: hand.tap("plus"),
        "note": lambda: _fill(hand, params) if not hand.device.page.args.get("path") else None,
    })  # fmt: skip


def _on_note(hand: Hand, params: Params, change: bool) -> Action | None:
    def note() -> Action | None:
        if hand.device.page.args.get("path") != _path(params):
            return None
        return _fill(hand, params) if change else hand.tap("DELETE") or hand.tap("trash")

    return hand.route(NOTES_PACKAGE, {"notes": lambda: hand.tap(f"{params['name']}.md"), "note": note})


def _no_note(device: Device, params: Params) -> None:
    device.files.pop(_path(params), None)


def _old_note(device: Device, params: Params) -> None:
    device.files[_path(params)] = b"old words"


TEMPLATES = [
    Template("file-delete", "Delete the file {file} in the folder {folder}", _file, _deleted, _with_file("DELETE"),
             _plant, _FILE, level=2),
    Template("file-move", "Move the file {file} from the folder {folder} to {target}", _file, _moved,
             _with_file("MOVE"), _plant, _FILE, most=2, level=2),
    Template("folder-new", 'Create the folder "{name}" in the folder {folder}', _new_folder, _has_folder, _make_folder,
             touches=_FILE, level=2),
    Template("note-new", 'Create the note "{name}" with the text "{text}"', _note, _has_note, _write_note, _no_note,
             _FILE, level=3),
    Template("note-delete", "Delete the note {name}", _note, lambda device, params: _path(params) not in device.files,
             lambda hand, params: _on_note(hand, params, False), _old_note, _FILE, level=2),
    Template("note-change", 'Replace the text of the note {name} by "{text}"', _note, _has_note,
             lambda hand, params: _on_note(hand, params, True), _old_note, _FILE, level=2, held_out=True),
]  # fmt: skip
