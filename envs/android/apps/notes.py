"""Notes: text files in Documents/Markor, as Markor keeps them."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from palaestra.envs.android.app import App, Page, field_of
from palaestra.envs.android.apps.files import ROOT, inside
from palaestra.envs.android.content import NOTES, PHRASES
from palaestra.envs.android.palette import BROWN, GREEN, RED
from palaestra.envs.android.views import Screen, button, buttons, floating, icon, label, row, toolbar

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

PACKAGE = "net.gsantner.markor"
FOLDER = f"{ROOT}/Documents/Markor"


def fill(device: Device, random: Random) -> None:
    """Write some notes."""
    device.state.files.update({f"{ROOT}/": b"", f"{ROOT}/Documents/": b"", f"{FOLDER}/": b""})
    for name in random.sample(NOTES, 4):
        device.state.files[f"{FOLDER}/{name}.md"] = random.choice(PHRASES).encode()


app = App(PACKAGE, "Notes", "notes", BROWN, fill=fill)


@app.screen("net.gsantner.markor.activity.MainActivity")
def notes(device: Device, page: Page) -> Screen:
    """Return the notes, by name."""
    rows = [
        row(path.rsplit("/", 1)[1], "", "notes", partial(device.push, "note", path=path), BROWN)
        for path in inside(device.files, FOLDER)
    ]
    return Screen(rows, toolbar("Notes", fill=BROWN), button=floating("plus", partial(device.push, "note"), BROWN))


@app.screen("net.gsantner.markor.activity.DocumentActivity")
def note(device: Device, page: Page) -> Screen:
    """Return a note's name and text."""
    path = page.args.get("path", "")
    old = path.rsplit("/", 1)[-1].removesuffix(".md")
    text = device.files.get(path, b"").decode(errors="replace")
    fields = []
    for key, hint, start in (("name", "Name", old), ("text", "Text", text)):
        fields.append(field_of(device, page, key, hint, start))

    def save() -> None:
        name = page.texts["name"].strip().replace("/", "")
        if not name:
            device.toast("Name?")
            return
        device.files.pop(path, None)
        device.write(f"{FOLDER}/{name}.md", page.texts["text"].encode())
        device.finish()
        device.toast("Saved")

    def delete() -> None:
        device.files.pop(path, None)
        device.finish()
        device.toast("Deleted")

    actions = [icon("trash", lambda: page.state.update(dialog="delete"))] if path else []
    dialog = []
    if page.state.get("dialog"):
        dialog = [label("Delete note?"), buttons(("KEEP", lambda: page.state.update(dialog=""), BROWN),
                                                 ("DELETE", delete, RED))]  # fmt: skip
    bar = toolbar("Note", *actions, icon("check", save, name="save"), fill=BROWN, back=device.finish)
    return Screen([*fields, button("SAVE", save, GREEN, name="save button")], bar, dialog=dialog)
