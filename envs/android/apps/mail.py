"""Mail: the inbox, one mail, and the form that answers, forwards or writes anew."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from palaestra.envs.android.app import App, Page, field_of
from palaestra.envs.android.content import FIRST, PHRASES, SUBJECTS
from palaestra.envs.android.palette import BLUE, FAINT, GREEN, RED, YELLOW
from palaestra.envs.android.views import Screen, button, floating, icon, label, paragraph, row, toolbar

if TYPE_CHECKING:
    from palaestra.envs.android.device import Device

PACKAGE = "com.google.android.gm"


def fill(device: Device, random: Random) -> None:
    """Receive some mails of different senders and subjects."""
    database = device.database(PACKAGE)
    for sender, subject in zip(random.sample(FIRST, 7), random.sample(SUBJECTS, 7), strict=True):
        database.insert("mails", sender=sender, recipient="me", subject=subject, body=random.choice(PHRASES),
                        folder="inbox", starred=0)  # fmt: skip


app = App(
    PACKAGE, "Mail", "mail", RED,
    {"mails": "sender TEXT, recipient TEXT, subject TEXT, body TEXT, folder TEXT, starred INTEGER"},
    "/data/data/com.google.android.gm/databases/mail.db", fill,
)  # fmt: skip


@app.screen("com.google.android.gm.ConversationListActivityGmail")
def inbox(device: Device, page: Page) -> Screen:
    """Return the inbox, the latest first."""
    rows = []
    for mail in reversed(device.table(PACKAGE, "mails").values()):
        if mail["folder"] == "inbox":
            picture, color = ("star", YELLOW) if mail["starred"] else ("mail", RED)
            opens = partial(device.push, "mail", id=mail["_id"])
            rows.append(row(mail["sender"], mail["subject"], picture, opens, color))
    return Screen(rows, toolbar("Inbox", fill=RED), button=floating("edit", partial(device.push, "compose"), RED))


@app.screen("com.google.android.gm.ui.MailActivityGmail")
def mail(device: Device, page: Page) -> Screen:
    """Return one mail, and what may be done with it."""
    database, key = device.database(PACKAGE), page.args["id"]
    shown = database["mails"].get(key)
    if shown is None:
        return Screen([label("Deleted")], toolbar("Mail", fill=RED, back=device.finish))

    def put(folder: str, done: str) -> None:
        database.update("mails", key, folder=folder)
        device.finish()
        device.toast(done)

    actions = (
        icon("star" if shown["starred"] else "hollow",
             partial(database.update, "mails", key, starred=1 - shown["starred"]), name="star"),
        icon("archive", partial(put, "archive", "Archived")),
        icon("trash", partial(put, "trash", "Deleted")),
    )  # fmt: skip
    body = [
        label(shown["subject"]), label(f"from {shown['sender']}", FAINT), *paragraph(shown["body"]),
        button("REPLY", partial(device.push, "compose", to=shown["sender"], subject=f"Re: {shown['subject']}"), BLUE),
        button("FORWARD", partial(device.push, "compose", subject=f"Fwd: {shown['subject']}", body=shown["body"]),
               BLUE),
    ]  # fmt: skip
    return Screen(body, toolbar("", *actions, fill=RED, back=device.finish))


@app.screen("com.google.android.gm.ComposeActivityGmail")
def compose(device: Device, page: Page) -> Screen:
    """Return the fields of a mail."""
    fields = []
    for key, hint, start in (("to", "To", "to"), ("subject", "Subject", "subject"), ("body", "Text", "body")):
        fields.append(field_of(device, page, key, hint, page.args.get(start, "")))
    sends = partial(send, device, page)
    return Screen([*fields, button("SEND", sends, GREEN)],
                  toolbar("Write", icon("send", sends, name="send icon"), fill=RED, back=device.finish))  # fmt: skip


def send(device: Device, page: Page) -> None:
    """Send the mail, if it says to whom."""
    if not page.texts["to"].strip():
        device.toast("To whom?")
        return
    texts = {key: page.texts[key].strip() for key in ("subject", "body")}
    device.database(PACKAGE).insert("mails", sender="me", recipient=page.texts["to"].strip(), folder="sent", starred=0,
                                    **texts)  # fmt: skip
    device.finish()
    device.toast("Sent")
