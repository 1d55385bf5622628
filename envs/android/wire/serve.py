"""One phone behind the ports of an Android emulator."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from typing import Any

from palaestra.envs.android.device import Device
from palaestra.envs.android.noise import noise_named
from palaestra.envs.android.wire.adbd import serve_adb
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


def serve_forever(seed: int, preset: str, adb_port: int, grpc_port: int, width: int, height: int) -> None:
    """Serve a fresh phone until the process is told to stop, and say how to reach it."""

    async def run() -> None:
        serving = await serve(Phone(Device(seed, noise_named(preset)), width, height), adb_port, grpc_port)
        print(f"adb: 127.0.0.1:{serving.adb_port} (adb connect 127.0.0.1:{serving.adb_port})")
        if serving.grpc_port:
            print(f"emulator controller: localhost:{serving.grpc_port}")
        else:
            print("no emulator controller: pip install 'palaestra[android]'")
        print("Ctrl-C ends it", flush=True)
        await asyncio.Event().wait()

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(run())
