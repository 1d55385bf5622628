"""One phone behind the ports of an Android emulator."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

from palaestra.envs.android.wire.adbd import serve_adb
from palaestra.envs.android.wire.page import Page, serve_page
from palaestra.envs.android.wire.phone import Phone


class Serving:
    """What serves a phone; close it with `close`."""

    def __init__(self, phone: Phone, adb: asyncio.Server, controller: Any, adb_port: int, grpc_port: int) -> None:
        self.phone, self.adb_port, self.grpc_port = phone, adb_port, grpc_port
        self._adb, self._controller = adb, controller

    async def close(self) -> None:
        """Stop all servers."""
        self._adb.close()
        if self._controller is not None:
            await self._controller.stop(None)


async def serve(phone: Phone, adb_port: int = 5555, grpc_port: int = 8554) -> Serving:
    """Serve a phone on loopback: adb, and the emulator's controller where android-env is installed.

    Raises:
        OSError: Where adb's port is taken.
        RuntimeError: Where the controller's port is taken.
    """
    adb = await serve_adb(phone, adb_port)
    controller, port = None, 0
    if importlib.util.find_spec("android_env") is not None:
        from palaestra.envs.android.wire.emulator import serve_grpc

        controller, port = await serve_grpc(phone, grpc_port)
    return Serving(phone, adb, controller, int(adb.sockets[0].getsockname()[1]), port)


async def serve_forever(page: Page, adb_port: int | None, grpc_port: int, page_port: int | None) -> None:
    """Serve a phone until the task is cancelled, and say how to reach it; None leaves a part out."""
    if adb_port is not None:
        serving = await serve(page.phone, adb_port, grpc_port)
        print(f"adb: adb connect 127.0.0.1:{serving.adb_port} (on an odd port from 5555 to 5585 adb finds it itself)")
        if serving.grpc_port:
            print(f"emulator controller: localhost:{serving.grpc_port}")
        else:
            print("no emulator controller: pip install 'palaestra[android]'")
    if page_port is not None:
        server = await serve_page(page, page_port)
        print(f"page: http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    print("Ctrl-C ends it", flush=True)
    await asyncio.Event().wait()
