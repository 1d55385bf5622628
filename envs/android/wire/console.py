"""The emulator's console, which `adb emu` talks to: snapshots, messages that arrive, calls.

A line is a command; an answer ends with a line "OK", or "KO: " and why. On loopback alone, so nobody is asked for a
token.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from palaestra.envs.android.apps.messages import receive
from palaestra.envs.android.wire.phone import Phone

GREETING = "Android Console: type 'help' for a list of commands\r\nOK\r\n"
LONGEST = 4096
"""Bytes of a command."""
_HELP = "help, ping, quit, avd name|status, avd snapshot list|save|load|del NAME, sms send NUMBER TEXT"


class CommandError(ValueError):
    """A command that cannot be done. Says why."""


def answer(phone: Phone, line: str) -> str:
    """Do a command and return what it prints.

    Raises:
        CommandError: For an unknown one, or one that cannot be done.
    """
    words = line.split()
    if words[:1] == ["help"]:
        return f"{_HELP}\r\n"
    if words == ["ping"]:
        return "I am alive!\r\n"
    if words == ["avd", "name"]:
        return "palaestra\r\n"
    if words == ["avd", "status"]:
        return "virtual device is running\r\n"
    if words[:2] == ["avd", "snapshot"]:
        return _snapshot(phone, *words[2:])
    if words[:2] == ["sms", "send"] and len(words) > 3:
        receive(phone.device, words[2], " ".join(words[3:]))
        return ""
    raise CommandError(f"unknown command {line[:80]!r}. Known are {_HELP}")


def _snapshot(phone: Phone, what: str = "", name: str = "") -> str:
    if what == "list":
        return "".join(f"{known}\r\n" for known in phone.snapshots)
    if what == "save" and name:
        phone.save(name)
    elif what == "load" and name:
        phone.load(name)
    elif what in ("del", "delete") and name:
        phone.forget(name)
    else:
        raise CommandError("avd snapshot takes list, or save, load or del and a name")
    return ""


async def serve_console(phone: Phone, port: int = 5554) -> asyncio.Server:
    """Serve a phone's console on loopback, and return the server. `adb emu` looks one below adb's port.

    Raises:
        OSError: Where the port is taken.
    """

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ValueError):  # a client that goes, or a line without an end
            writer.write(GREETING.encode())
            while data := await reader.readline():
                line = data.decode(errors="replace").strip()
                if line in ("quit", "exit"):
                    break
                try:
                    told = f"{answer(phone, line)}OK" if line else ""
                except (CommandError, LookupError) as error:
                    told = f"KO: {error}"
                writer.write(f"{told}\r\n".encode() if told else b"")
                await writer.drain()
        with suppress(ConnectionError):
            writer.close()

    return await asyncio.start_server(talk, "127.0.0.1", port, limit=LONGEST)
