"""Tasks in contacts and messages."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from palaestra.envs.android.actions import Action
from palaestra.envs.android.apps.messages import INBOX, SENT
from palaestra.envs.android.content import FIRST, LAST, PHRASES, number
from palaestra.envs.android.device import Device
from palaestra.envs.android.oracle import Hand
from palaestra.envs.android.storage import Row
from palaestra.envs.android.tasks.template import Oracle, Params, Split, Template, choice

CONTACTS = "com.google.android.contacts"
MESSAGES = "com.simplemobiletools.smsmessenger"
_ROWS, _SMS = (f"{CONTACTS}/contacts/",), (f"{MESSAGES}/sms/",)


def plant(device: Device, package: str, table: str, key: str, **values: Any) -> int:
    """Write a row, the only one with its value of the column `key`, and return its _id."""
    database = device.database(package)
    for row in list(database[table].values()):
        if row[key] == values[key]:
            database.delete(table, row["_id"])
    return database.insert(table, **values)


def same(one: object, two: object) -> bool:
    """Whether two texts are the same but for case and the blanks around."""
    return str(one).strip().lower() == str(two).strip().lower()


def added(rows: dict[int, Row], **wanted: str) -> bool:
    """Whether a table's last row has the wanted texts."""
    return bool(rows) and all(same(rows[max(rows)][key], value) for key, value in wanted.items())


def _person(random: Random, split: Split) -> Params:
    return {"name": f"{choice(random, FIRST, split, 'first')} {random.choice(LAST)}", "number": number(random)}


def _written(random: Random, split: Split) -> Params:
    return _person(random, split) | {"text": choice(random, PHRASES, split, "phrases")}


def _known(device: Device, params: Params) -> None:
    params["id"] = plant(device, CONTACTS, "contacts", "name", name=params["name"], number="5550001", starred=0)


def _contact(device: Device, params: Params) -> Row | None:
    return device.database(CONTACTS)["contacts"].get(params["id"])


def _fill(hand: Hand, params: Params) -> Action | None:
    return hand.write("name", "Name", params["name"]) or hand.write("number", "Phone", params["number"])


def _made(device: Device, params: Params) -> bool:
    return added(device.table(CONTACTS, "contacts"), name=params["name"], number=params["number"])


def _make(hand: Hand, params: Params) -> Action | None:
    return hand.route(CONTACTS, {
        "people_list": lambda: hand.tap("plus"),
        "form": lambda: _fill(hand, params) or hand.tap("save"),
    })  # fmt: skip


def _on_card(*names: str) -> Oracle:
    """Return an oracle that finds a contact's card and there taps the first of some names that is shown."""

    def oracle(hand: Hand, params: Params) -> Action | None:
        def card() -> Action | None:
            if hand.device.page.args["id"] != params["id"]:
                return None
            return next((found for name in names if (found := hand.tap(name))), None)

        return hand.route(CONTACTS, {"people_list": lambda: hand.tap(params["name"]), "card": card})

    return oracle


def _renumber(hand: Hand, params: Params) -> Action | None:
    def form() -> Action | None:
        if hand.device.page.args.get("id") != params["id"]:
            return None
        return _fill(hand, params) or hand.tap("save")

    return hand.route(CONTACTS, {
        "people_list": lambda: hand.tap(params["name"]),
        "card": lambda: hand.tap("edit") if hand.device.page.args["id"] == params["id"] else None,
        "form": form,
    })  # fmt: skip


def _shows_card(device: Device, params: Params) -> bool:
    return (device.page.package, device.page.screen, device.page.args.get("id")) == (CONTACTS, "card", params["id"])


def _draft(device: Device, params: Params) -> bool:
    page = device.page
    texts = [page.texts.get(key, "") for key in ("name", "number")]
    return page.screen == "form" and same(texts[0], params["name"]) and same(texts[1], params["number"])


# Messages.


def _heard(device: Device, params: Params) -> None:
    """Know somebody from whom the latest message came."""
    _known(device, params)
    plant(device, CONTACTS, "contacts", "name", name=params["name"], number=params["number"], starred=0)
    date = int(device.state.clock * 1000) - 60_000
    row = {"address": params["number"], "body": "where are you", "date": date, "type": INBOX, "read": 0}
    device.database(MESSAGES).insert("sms", **row)


def _befriended(device: Device, params: Params) -> None:
    plant(device, CONTACTS, "contacts", "name", name=params["name"], number=params["number"], starred=0)


def _sent(device: Device, params: Params) -> bool:
    rows = device.table(MESSAGES, "sms")
    return added(rows, address=params["number"], body=params["text"]) and rows[max(rows)]["type"] == SENT


def _talk(hand: Hand, params: Params) -> Action | None:
    """Write in the thread that is seen, if it is the right one."""
    if hand.device.page.args["address"] != params["number"]:
        return None
    return hand.write("body", "Message", params["text"]) or hand.tap("send")


def _reply(hand: Hand, params: Params) -> Action | None:
    return hand.route(MESSAGES, {
        "threads": lambda: hand.tap(params["name"]), "thread": lambda: _talk(hand, params),
    })  # fmt: skip


def _to_number(hand: Hand, params: Params) -> Action | None:
    return hand.route(MESSAGES, {
        "threads": lambda: hand.tap("plus"),
        "new": lambda: hand.write("address", "Number", params["number"]) or hand.tap("check"),
        "thread": lambda: _talk(hand, params),
    })  # fmt: skip


def _to_name(hand: Hand, params: Params) -> Action | None:
    return hand.route(MESSAGES, {
        "threads": lambda: hand.tap("plus"),
        "new": lambda: hand.tap(params["name"]),
        "thread": lambda: _talk(hand, params),
    })  # fmt: skip


def _in_thread(device: Device, params: Params) -> bool:
    return device.page.package == MESSAGES and device.page.args.get("address") == params["number"]


TEMPLATES: Sequence[Template] = [
    Template("contact-new", 'Create the contact "{name}" with the number "{number}"', _person, _made, _make,
             touches=_ROWS, level=3),
    Template("contact-delete", "Delete the contact {name}", _person,
             lambda device, params: _contact(device, params) is None, _on_card("DELETE", "trash"), _known, _ROWS,
             level=2),
    Template("contact-star", "Mark the contact {name} with a star", _person,
             lambda device, params: bool((_contact(device, params) or {}).get("starred")), _on_card("star"), _known,
             _ROWS, level=2),
    Template("contact-number", 'Change the number of {name} to "{number}"', _person,
             lambda device, params: same((_contact(device, params) or {}).get("number"), params["number"])
             and same((_contact(device, params) or {}).get("name"), params["name"]),
             _renumber, _known, _ROWS, level=3),
    Template("contact-open", "Show the contact {name}", _person, _shows_card, _on_card(), _known, level=1),
    Template("contact-draft", 'Fill in a new contact "{name}" with the number "{number}", but do not save it', _person,
             _draft, lambda hand, params: hand.route(CONTACTS, {
                 "people_list": lambda: hand.tap("plus"), "form": lambda: _fill(hand, params)}),
             level=3, held_out=True),
    Template("sms-number", 'Send the message "{text}" to the number "{number}"', _written, _sent, _to_number,
             touches=_SMS, level=3),
    Template("sms-reply", 'Reply "{text}" to the latest message', _written, _sent, _reply, _heard, _SMS, level=2,
             wordings=('Answer the latest message with "{text}"', 'The latest message needs the reply "{text}"',
                       'Write "{text}" back to the latest message')),
    Template("sms-name", 'Send the message "{text}" to {name}', _written, _sent, _to_name, _befriended, _SMS, level=3),
    Template("sms-open", "Open the messages with {name}", _person, _in_thread,
             lambda hand, params: hand.route(MESSAGES, {"threads": lambda: hand.tap(params["name"])}), _heard),
]  # fmt: skip
