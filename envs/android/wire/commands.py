"""All programs of the phone's shell."""

from __future__ import annotations

from palaestra.envs.android.wire.android import ANDROID
from palaestra.envs.android.wire.look import LOOK
from palaestra.envs.android.wire.phone import Phone
from palaestra.envs.android.wire.shell import Command, Shell
from palaestra.envs.android.wire.unix import UNIX

COMMANDS: dict[str, Command] = {**UNIX, **ANDROID, **LOOK}
"""By name. `sh -c` and `su` run what follows them, in the same session."""


def _sh(shell: Shell, arguments: list[str], stdin: bytes) -> bytes:
    words = [word for word in arguments if word not in ("-c", "0", "root")]
    return shell.nested(" ".join(words) if words else stdin.decode(errors="replace"))


COMMANDS["sh"] = COMMANDS["su"] = _sh


def session(phone: Phone) -> Shell:
    """Return a fresh session on a phone."""
    return Shell(phone, COMMANDS)
