"""Contacts: a list, a person's card, and the form that makes or changes one."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from palaestra.envs.android.app import App, Page, field_of
from palaestra.envs.android.content import number, people
from palaestra.envs.android.palette import BLUE, GREEN, RED, YELLOW
from palaestra.envs.android.views import Screen, button, buttons, floating, icon, label, row, toolbar

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

PACKAGE = "com.google.android.contacts"


def fill(device: Device, random: Random) -> None:
    """Write some people down."""
    database = device.database(PACKAGE)
    for name in people(random, 8):
        database.insert("contacts", name=name, number=number(random), starred=0)


app = App(
    PACKAGE, "Contacts", "contacts", BLUE,
    {"contacts": "name TEXT, number TEXT, starred INTEGER"},
    "/data/data/com.android.providers.contacts/databases/contacts2.db", fill,
)  # fmt: skip


@app.screen("com.android.contacts.activities.PeopleActivity")
def people_list(device: Device, page: Page) -> Screen:
    """Return everybody, by name."""
    known = sorted(device.table(PACKAGE, "contacts").values(), key=lambda row: str(row["name"]).lower())
    rows = [
        row(
            person["name"],
            picture="star" if person["starred"] else "person",
            tap=partial(device.push, "card", id=person["_id"]),
            ink=YELLOW if person["starred"] else BLUE,
        )
        for person in known
    ]
    return Screen(rows, toolbar("Contacts"), button=floating("plus", lambda: device.push("form")))


@app.screen("com.android.contacts.quickcontact.QuickContactActivity")
def card(device: Device, page: Page) -> Screen:
    """Return one person."""
    database, key = device.database(PACKAGE), page.args["id"]
    person = database["contacts"].get(key, {"name": "", "number": "", "starred": 0})

    def delete() -> None:
        database.delete("contacts", key)
        device.finish()
        device.toast("Deleted")

    def message() -> None:
        device.open("com.simplemobiletools.smsmessenger", "thread", address=person["number"])

    actions = (
        icon("star" if person["starred"] else "hollow",
             lambda: database.update("contacts", key, starred=1 - person["starred"]), name="star"),
        icon("edit", lambda: device.push("form", id=key)),
        icon("trash", lambda: page.state.update(dialog="delete")),
    )  # fmt: skip
    body = [label(person["name"]), row(person["number"], "mobile", "sound"), button("MESSAGE", message, GREEN)]
    dialog = []
    if page.state.get("dialog"):
        cancel = ("CANCEL", lambda: page.state.update(dialog=""), BLUE)
        dialog = [label("Delete?"), label(person["name"]), buttons(cancel, ("DELETE", delete, RED))]
    return Screen(body, toolbar("", *actions, back=device.finish), dialog=dialog)


@app.screen("com.google.android.apps.contacts.editor.ContactEditorActivity")
def form(device: Device, page: Page) -> Screen:
    """Return the fields of a new contact, or of the one that is changed."""
    person = device.table(PACKAGE, "contacts").get(page.args.get("id", 0), {})
    fields = []
    for key, hint in (("name", "Name"), ("number", "Phone")):
        fields.append(field_of(device, page, key, hint, str(person.get(key, ""))))
    save_icon = icon("check", lambda: save(device, page), name="save")
    title = "Edit" if person else "New"
    return Screen([*fields, button("SAVE", lambda: save(device, page), GREEN, name="save button")],
                  toolbar(title, save_icon, back=device.finish))  # fmt: skip


def save(device: Device, page: Page) -> None:
    """Keep what stands in the form, if there is a name."""
    name, phone = page.texts.get("name", "").strip(), page.texts.get("number", "").strip()
    if not name:
        device.toast("Name?")
        return
    database = device.database(PACKAGE)
    if "id" in page.args:
        database.update("contacts", page.args["id"], name=name, number=phone)
    else:
        database.insert("contacts", name=name, number=phone, starred=0)
    device.finish()
    device.toast("Saved")
