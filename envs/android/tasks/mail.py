"""Tasks in the mail."""

from __future__ import annotations

from random import Random

from palaestra.envs.android.actions import Action
from palaestra.envs.android.content import FIRST, PHRASES, SUBJECTS
from palaestra.envs.android.device import Device
from palaestra.envs.android.oracle import Hand
from palaestra.envs.android.storage import Row
from palaestra.envs.android.tasks.people import added, plant, same
from palaestra.envs.android.tasks.template import Goal, Oracle, Params, Split, Template, choice

PACKAGE = "com.google.android.gm"
_ROWS = (f"{PACKAGE}/mails/",)


def _mail(random: Random, split: Split) -> Params:
    return {
        "sender": choice(random, FIRST, split, "senders"),
        "subject": random.choice(SUBJECTS),
        "text": choice(random, PHRASES, split, "phrases"),
    }


def _forwarded(random: Random, split: Split) -> Params:
    return _mail(random, split) | {"to": choice(random, FIRST, split, "to")}


def _plant(device: Device, params: Params) -> None:
    params["id"] = plant(device, PACKAGE, "mails", "sender", sender=params["sender"], recipient="me",
                         subject=params["subject"], body="see the plan", folder="inbox", starred=0)  # fmt: skip


def _row(device: Device, params: Params) -> Row:
    return device.table(PACKAGE, "mails")[params["id"]]


def _on_mail(name: str, then: Oracle | None = None) -> Oracle:
    """Return an oracle that opens the task's mail, taps a name there, and perhaps goes on in the form."""

    def oracle(hand: Hand, params: Params) -> Action | None:
        return hand.route(PACKAGE, {
            "inbox": lambda: hand.tap(params["sender"]),
            "mail": lambda: hand.tap(name) if hand.device.page.args["id"] == params["id"] else None,
            "compose": lambda: then(hand, params) if then else None,
        })  # fmt: skip

    return oracle


def _answer(hand: Hand, params: Params) -> Action | None:
    if not hand.device.page.args.get("subject", "").startswith("Re:"):
        return None
    return hand.write("body", "Text", params["text"]) or hand.tap("send icon")


def _forward(hand: Hand, params: Params) -> Action | None:
    if not hand.device.page.args.get("subject", "").startswith("Fwd:"):
        return None
    return hand.write("to", "To", params["to"]) or hand.tap("send icon")


def _write(hand: Hand, params: Params) -> Action | None:
    return hand.route(PACKAGE, {
        "inbox": lambda: hand.tap("edit"),
        "compose": lambda: hand.write("to", "To", params["to"]) or hand.write("subject", "Subject", params["subject"])
        or hand.write("body", "Text", params["text"]) or hand.tap("send icon"),
    })  # fmt: skip


def _sent(device: Device, **wanted: str) -> bool:
    return added(device.table(PACKAGE, "mails"), folder="sent", **wanted)


def _shown(device: Device, params: Params) -> bool:
    page = device.page
    return (page.package, page.screen, page.args.get("id")) == (PACKAGE, "mail", params["id"])


def _folder(name: str) -> Goal:
    return lambda device, params: same(_row(device, params)["folder"], name)


TEMPLATES = [
    Template("mail-open", "Open the mail from {sender}", _mail, _shown, _on_mail(""), _plant),
    Template("mail-star", "Star the mail from {sender} about {subject}", _mail,
             lambda device, params: bool(_row(device, params)["starred"]), _on_mail("star"), _plant, _ROWS),
    Template("mail-archive", "Archive the mail from {sender} about {subject}", _mail, _folder("archive"),
             _on_mail("archive"), _plant, _ROWS),
    Template("mail-delete", "Delete the mail from {sender} about {subject}", _mail, _folder("trash"),
             _on_mail("trash"), _plant, _ROWS),
    Template("mail-reply", 'Reply "{text}" to the mail from {sender}', _mail,
             lambda device, params: _sent(device, recipient=params["sender"], body=params["text"]),
             _on_mail("REPLY", _answer), _plant, _ROWS, level=2),
    Template("mail-forward", 'Forward the mail from {sender} to "{to}"', _forwarded,
             lambda device, params: _sent(device, recipient=params["to"], subject=f"Fwd: {params['subject']}"),
             _on_mail("FORWARD", _forward), _plant, _ROWS, level=2, held_out=True),
    Template("mail-write", 'Mail "{to}" with the subject "{subject}" and the text "{text}"', _forwarded,
             lambda device, params: _sent(device, recipient=params["to"], subject=params["subject"],
                                          body=params["text"]),
             _write, touches=_ROWS, level=3),
]  # fmt: skip
