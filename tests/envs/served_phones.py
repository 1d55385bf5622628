"""Phones served over adb for tests, and Debian's adb to reach them."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading

from palaestra.envs.android.wire.adbd import serve_adb
from palaestra.envs.android.wire.phone import Phone


class Served:
    """A phone served from a thread."""

    def __init__(self, phone: Phone) -> None:
        self.phone = phone
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(serve_adb(phone, 0))
        self.port: int = self.server.sockets[0].getsockname()[1]
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)

    async def _end(self) -> None:
        self.server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Adb:
    """Debian's adb with a server of its own."""

    def __init__(self, port: int) -> None:
        self.environment = os.environ | {"ANDROID_ADB_SERVER_PORT": str(free_port())}
        self.name = f"127.0.0.1:{port}"
        assert "connected to" in self("connect", self.name, named=False)[1]

    def __call__(self, *words: str, named: bool = True, stdin: bytes = b"") -> tuple[int, str]:
        command = ["adb", *(["-s", self.name] if named else []), *words]
        done = subprocess.run(command, env=self.environment, input=stdin, capture_output=True, timeout=90, check=False)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    def bytes(self, *words: str) -> bytes:
        command = ["adb", "-s", self.name, *words]
        return subprocess.run(command, env=self.environment, capture_output=True, timeout=90, check=True).stdout
