"""Files: the folders of the shared storage, and what may be done with a file."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from palaestra.envs.android.app import App, Page, field_of
from palaestra.envs.android.content import file_name
from palaestra.envs.android.palette import BLUE, FAINT, GREEN, ORANGE, RED, TEAL
from palaestra.envs.android.views import Screen, button, buttons, floating, label, paragraph, row, toolbar

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

PACKAGE = "com.google.android.documentsui"
ROOT = "/storage/emulated/0"
FOLDERS = ("Documents", "Download", "Music", "Pictures")


def fill(device: Device, random: Random) -> None:
    """Put some files into each folder. A path that ends with a slash is a folder."""
    files = device.state.files
    files[f"{ROOT}/"] = b""
    for folder in FOLDERS:
        files[f"{ROOT}/{folder}/"] = b""
        while sum(path.startswith(f"{ROOT}/{folder}/") for path in files) < 4:
            files[f"{ROOT}/{folder}/{file_name(random)}"] = bytes(random.choices(range(32, 127), k=24))


app = App(PACKAGE, "Files", "files", TEAL, fill=fill)


def inside(files: dict[str, bytes], folder: str) -> list[str]:
    """Return the paths of what lies in a folder ("/a/b"), folders first, each sorted; a folder's ends with a slash."""
    start = f"{folder}/"
    found = [path for path in files if path.startswith(start) and path != start and "/" not in path[len(start) : -1]]
    return sorted(path for path in found if path.endswith("/")) + sorted(p for p in found if not p.endswith("/"))


def move(files: dict[str, bytes], path: str, target: str) -> None:
    """Give a file another path."""
    files[target] = files.pop(path)


@app.screen("com.android.documentsui.files.FilesActivity")
def folder(device: Device, page: Page) -> Screen:
    """Return what lies in a folder."""
    here = page.args.get("path", ROOT)
    rows = []
    for path in inside(device.files, here):
        name = path.rstrip("/").rsplit("/", 1)[1]
        if path.endswith("/"):
            rows.append(row(name, "", "folder", partial(device.push, "folder", path=path[:-1]), ORANGE))
        else:
            rows.append(row(name, "", "file", partial(device.push, "file", path=path), TEAL))
    title = "Files" if here == ROOT else here.rsplit("/", 1)[1]
    back = None if here == ROOT else device.finish
    add = floating("plus", partial(device.push, "make", path=here), TEAL)
    return Screen(rows or [label("Empty", FAINT)], toolbar(title, fill=TEAL, back=back), button=add)


@app.screen("com.android.documentsui.inspector.InspectorActivity")
def file(device: Device, page: Page) -> Screen:
    """Return one file, and what may be done with it."""
    path = page.args["path"]
    if path not in device.files:
        return Screen([label("Gone", FAINT)], toolbar("File", fill=TEAL, back=device.finish))

    def delete() -> None:
        device.files.pop(path, None)
        device.finish()
        device.toast("Deleted")

    body = [
        *paragraph(path.rsplit("/", 1)[1]), label(f"{len(device.files[path])} bytes", FAINT),
        button("MOVE", partial(device.push, "target", path=path), BLUE),
        button("DELETE", lambda: page.state.update(dialog="delete"), RED),
    ]  # fmt: skip
    dialog = []
    if page.state.get("dialog"):
        cancel = ("CANCEL", lambda: page.state.update(dialog=""), BLUE)
        dialog = [label("Delete file?"), buttons(cancel, ("OK", delete, RED))]
    return Screen(body, toolbar("File", fill=TEAL, back=device.finish), dialog=dialog)


@app.screen("com.android.documentsui.picker.PickActivity")
def target(device: Device, page: Page) -> Screen:
    """Return the folders that a file may be moved to."""
    path = page.args["path"]

    def choose(name: str) -> None:
        move(device.files, path, f"{name}{path.rsplit('/', 1)[1]}")
        device.finish()
        device.finish()
        device.toast("Moved")

    folders = [name for name in inside(device.files, ROOT) if name.endswith("/") and not path.startswith(name)]
    rows = [row(name[:-1].rsplit("/", 1)[1], "", "folder", partial(choose, name), ORANGE) for name in folders]
    return Screen(rows, toolbar("Move to", fill=BLUE, back=device.finish))


@app.screen("com.android.documentsui.CreateDirectoryActivity")
def make(device: Device, page: Page) -> Screen:
    """Return the form that makes a folder."""
    field = field_of(device, page, "name", "Folder name")

    def create() -> None:
        name = page.texts["name"].strip().replace("/", "")
        if name:
            device.write(f"{page.args['path']}/{name}/", b"")
            device.finish()

    return Screen([field, button("CREATE", create, GREEN)], toolbar("New folder", fill=TEAL, back=device.finish))
