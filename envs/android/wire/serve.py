"""One phone behind the ports of an Android emulator."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence
from typing import Any

from palaestra.envs.android.wire.adbd import serve_adb
from palaestra.envs.android.wire.console import serve_console
from palaestra.envs.android.wire.page import Page, serve_page
from palaestra.envs.android.wire.phone import Phone


class Serving:
    """What serves a phone; close it with `close`."""

    def __init__(self, phone: Phone, servers: Sequence[asyncio.Server], controller: Any, grpc_port: int) -> None:
        self.phone, self.grpc_port = phone, grpc_port
        self.adb_port, self.console_port = (int(server.sockets[0].getsockname()[1]) for server in servers)
        self._servers, self._controller = servers, controller

    async def close(self) -> None:
        """Stop all servers."""
        for server in self._servers:
            server.close()
        if self._controller is not None:
            await self._controller.stop(None)


async def serve(phone: Phone, adb_port: int = 5555, grpc_port: int = 8554) -> Serving:
    """Serve a phone on loopback: adb, the console one port below, and where android-env is installed the controller.

    Raises:
        OSError: Where a port is taken.
        RuntimeError: Where the controller's port is taken.
    """
    adb = await serve_adb(phone, adb_port)
    console = await serve_console(phone, adb_port - 1 if adb_port else 0)
    controller, port = None, 0
    if importlib.util.find_spec("android_env") is not None:
        from palaestra.envs.android.wire.emulator import serve_grpc

        controller, port = await serve_grpc(phone, grpc_port)
    return Serving(phone, (adb, console), controller, port)


async def serve_forever(page: Page, adb_port: int | None, grpc_port: int, page_port: int | None) -> None:
    """Serve a phone until the task is cancelled, and say how to reach it; None leaves a part out."""
    if adb_port is not None:
        serving = await serve(page.phone, adb_port, grpc_port)
        print(f"adb: adb connect 127.0.0.1:{serving.adb_port} (on an odd port from 5555 to 5585 adb finds it itself)")
        print(f"console: localhost:{serving.console_port}, for adb emu")
        if serving.grpc_port:
            print(f"emulator controller: localhost:{serving.grpc_port}")
        else:
            print("no emulator controller: pip install 'palaestra[android]'")
    if page_port is not None:
        server = await serve_page(page, page_port)
        print(f"page: http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    print("Ctrl-C ends it", flush=True)
    await asyncio.Event().wait()
