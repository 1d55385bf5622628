"""Messages: threads by number, one thread's bubbles, and new ones."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from palaestra.envs.android.app import App, Page, field_of
from palaestra.envs.android.content import PHRASES
from palaestra.envs.android.font import PITCH
from palaestra.envs.android.palette import BLUE, CARD, GREEN, INK, TEAL, WHITE
from palaestra.envs.android.system import Notification
from palaestra.envs.android.views import Screen, View, button, edit, floating, icon, row, toolbar

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

PACKAGE = "com.simplemobiletools.smsmessenger"
CONTACTS = "com.google.android.contacts"
INBOX, SENT = 1, 2
"""Android's types of messages. Threads are made from them; Android's table of threads is there, and stays empty."""


def fill(device: Device, random: Random) -> None:
    """Receive a message from each of some contacts, the last an hour ago."""
    database = device.database(PACKAGE)
    contacts = list(device.table(CONTACTS, "contacts").values())
    chosen = random.sample(contacts, min(5, len(contacts)))
    for index, contact in enumerate(chosen):
        date = int(device.state.clock * 1000) - (len(chosen) - index) * 3_600_000
        database.insert("sms", address=contact["number"], body=random.choice(PHRASES), date=date, type=INBOX, read=0)


app = App(
    PACKAGE, "Messages", "messages", GREEN,
    {"sms": "address TEXT, body TEXT, date INTEGER, type INTEGER, read INTEGER",
     "threads": "date INTEGER, recipient_ids TEXT, snippet TEXT"},
    "/data/data/com.android.providers.telephony/databases/mmssms.db", fill,
)  # fmt: skip


def name_of(device: Device, address: str) -> str:
    """Return whose number it is, or the number."""
    contacts = device.table(CONTACTS, "contacts").values()
    return next((str(contact["name"]) for contact in contacts if contact["number"] == address), address)


@app.screen("com.simplemobiletools.smsmessenger.activities.MainActivity")
def threads(device: Device, page: Page) -> Screen:
    """Return the threads, the latest first."""
    latest: dict[str, str] = {}
    for message in device.table(PACKAGE, "sms").values():
        latest.pop(message["address"], None)
        latest[message["address"]] = message["body"]
    rows = [
        row(name_of(device, address), body, "person", partial(device.push, "thread", address=address), GREEN)
        for address, body in reversed(latest.items())
    ]
    return Screen(rows, toolbar("Messages", fill=GREEN), button=floating("plus", lambda: device.push("new"), GREEN))


def _bubble(device: Device, body: str, sent: bool) -> View:
    """Return a message, which a long press copies."""
    width = min(60, PITCH * len(body) + 3)
    inside = View(2, 2, width - 2, text=body, ink=WHITE if sent else INK)
    x = 63 - width if sent else 1
    return View(height=11, kind="FrameLayout", children=[
        View(x, 1, width, 9, fill=BLUE if sent else CARD, round=3, children=[inside], hold=partial(device.copy, body))
    ])  # fmt: skip


@app.screen("com.simplemobiletools.smsmessenger.activities.ThreadActivity")
def thread(device: Device, page: Page) -> Screen:
    """Return what was written to and by one number."""
    address = page.args["address"]
    messages = [m for m in device.table(PACKAGE, "sms").values() if m["address"] == address]
    bubbles = [_bubble(device, message["body"], message["type"] == SENT) for message in messages]
    clear = partial(page.texts.update, body="")
    field = edit("body", page.texts.setdefault("body", ""), "Message", device.state.focus == "body", clear, width=54)
    send_icon = View(55, 1, 9, 10, icon="send", ink=TEAL, tap=lambda: send(device, page), name="send",
                     kind="ImageButton")
    footer = View(height=12, fill=WHITE if device.setting("secure", "ui_night_mode") == "1" else CARD,
                  children=[field, send_icon], kind="LinearLayout")
    return Screen(bubbles, toolbar(name_of(device, address), fill=GREEN, back=device.finish), footer)


def receive(device: Device, address: str, body: str) -> None:
    """Get a message, and show it over the screen."""
    date = int(device.state.clock * 1000)
    device.database(PACKAGE).insert("sms", address=address, body=body, date=date, type=INBOX)
    device.notify(Notification(PACKAGE, name_of(device, address), body), show=True)


def send(device: Device, page: Page) -> None:
    """Send what stands in the field, if anything does."""
    body = page.texts.get("body", "").strip()
    if not body:
        return
    date = int(device.state.clock * 1000)
    device.database(PACKAGE).insert("sms", address=page.args["address"], body=body, date=date, type=SENT, read=1)
    page.texts["body"] = ""


@app.screen("com.simplemobiletools.smsmessenger.activities.NewConversationActivity")
def new(device: Device, page: Page) -> Screen:
    """Return the choice of a number for a new thread: typed, or a contact's."""
    def go() -> None:
        address = page.texts.get("address", "").strip()
        if address:
            device.replace("thread", address=address)

    field = field_of(device, page, "address", "Number")
    known = sorted(device.table(CONTACTS, "contacts").values(), key=lambda contact: str(contact["name"]))
    rows = [
        row(contact["name"], "", "person", partial(device.replace, "thread", address=contact["number"]), BLUE)
        for contact in known
    ]
    return Screen([field, button("NEXT", go, GREEN), *rows],
                  toolbar("New", icon("check", go), fill=GREEN, back=device.finish))  # fmt: skip


