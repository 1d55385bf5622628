"""All programs of the phone's shell."""

from __future__ import annotations

from palaestra.envs.android.tasks import TEMPLATES
from palaestra.envs.android.tasks.template import SPLITS, start
from palaestra.envs.android.wire.android import ANDROID
from palaestra.envs.android.wire.look import LOOK
from palaestra.envs.android.wire.phone import Phone
from palaestra.envs.android.wire.shell import Command, Shell
from palaestra.envs.android.wire.unix import UNIX
from palaestra.envs.android.wire.words import ShellError

COMMANDS: dict[str, Command] = {**UNIX, **ANDROID, **LOOK}
"""By name. `sh -c` and `su` run what follows them, in the same session."""


def _sh(shell: Shell, arguments: list[str], stdin: bytes) -> bytes:
    words = [word for word in arguments if word not in ("-c", "0", "root")]
    return shell.nested(" ".join(words) if words else stdin.decode(errors="replace"))


def _palaestra(shell: Shell, arguments: list[str], stdin: bytes) -> str:
    """Begin an episode, `palaestra start TEMPLATE SEED SPLIT`, or judge it, `palaestra success`."""
    phone = shell.phone
    if arguments[:1] == ["start"] and len(arguments) == 4 and arguments[1] in TEMPLATES and arguments[3] in SPLITS:
        phone.task = start(phone.device, TEMPLATES[arguments[1]], int(arguments[2]), arguments[3])
        return phone.task.instruction + "\n"
    if arguments == ["success"] and phone.task is not None:
        if not phone.task.success(phone.device):
            raise ShellError("", 1)
        return ""
    raise ShellError("palaestra: start TEMPLATE SEED SPLIT, then success", 2)


COMMANDS["palaestra"] = _palaestra
COMMANDS["sh"] = COMMANDS["su"] = _sh


def session(phone: Phone) -> Shell:
    """Return a fresh session on a phone."""
    return Shell(phone, COMMANDS)
