"""The Android emulator's gRPC controller and snapshot service, by which unmodified android-env drives our phone.

Stubs ship inside the package android-env.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from android_env.proto import (
    emulator_controller_pb2,
    emulator_controller_pb2_grpc,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
)
from google.protobuf import empty_pb2

from palaestra.envs.android.wire.phone import Phone

_KEYS = {9: "ESCAPE", 22: "DEL", 36: "ENTER", 110: "HOME", 166: "BACK"}
"""X's key codes (XKB), which android-env sends on Linux."""
_NAMES = {"GoHome": "HOME", "GoBack": "BACK", "Enter": "ENTER", "Backspace": "DEL", "Escape": "ESCAPE"}


class Controller(emulator_controller_pb2_grpc.EmulatorControllerServicer):  # type: ignore[misc]
    """Screens, fingers and keys."""

    def __init__(self, phone: Phone) -> None:
        self.phone = phone
        self._start = time.monotonic()

    async def getStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Say that the phone has booted."""
        up = int(1000 * (time.monotonic() - self._start))
        return emulator_controller_pb2.EmulatorStatus(version="palaestra", uptime=up, booted=True)

    async def getScreenshot(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Return the screen in RGBA or RGB, in the wanted size where one is named."""
        kind = emulator_controller_pb2.ImageFormat.ImgFormat
        width, height = request.width or self.phone.size[0], request.height or self.phone.size[1]
        if not (0 < width <= 4096 and 0 < height <= 4096) or request.format == kind.PNG:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no picture of {width}x{height} in this format")
        picture = self.phone.device.screen(height, width)
        if request.format != kind.RGB888:
            picture = np.concatenate([picture, np.full((height, width, 1), 255, np.uint8)], 2)
        shape = emulator_controller_pb2.ImageFormat(format=request.format, width=width, height=height)
        return emulator_controller_pb2.Image(format=shape, image=picture.tobytes())

    async def sendTouch(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Move the first finger; a gesture is done when it lifts."""
        for finger in request.touches:
            if finger.identifier == 0:
                self.phone.finger(finger.x, finger.y, finger.pressure > 0)
        return empty_pb2.Empty()

    async def sendKey(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Press a key, or type text; what comes up was pressed when it went down."""
        up = emulator_controller_pb2.KeyboardEvent.KeyEventType.keyup
        if request.eventType != up:
            if request.text:
                self.phone.text(request.text)
            self.phone.key(_NAMES.get(request.key) or _KEYS.get(request.keyCode, ""))
        return empty_pb2.Empty()

    async def setVmState(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Take the wish to stop or start; the phone does not end for it."""
        return empty_pb2.Empty()


class Snapshots(snapshot_service_pb2_grpc.SnapshotServiceServicer):  # type: ignore[misc]
    """Copies of all that the phone is, its random state included."""

    def __init__(self, phone: Phone) -> None:
        self.phone = phone

    async def ListSnapshots(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Name the snapshots."""
        details = [snapshot_service_pb2.SnapshotDetails(snapshot_id=name) for name in self.phone.snapshots]
        return snapshot_service_pb2.SnapshotList(snapshots=details)

    async def SaveSnapshot(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Keep the phone as it is under a name; a hundred at most."""
        return _done(self.phone.save, request.snapshot_id)

    async def LoadSnapshot(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Make the phone what it was."""
        return _done(self.phone.load, request.snapshot_id)

    async def DeleteSnapshot(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Forget a snapshot."""
        return _done(self.phone.forget, request.snapshot_id)


def _done(what: Callable[[str], None], name: str) -> Any:
    try:
        what(name)
    except LookupError as error:
        return snapshot_service_pb2.SnapshotPackage(snapshot_id=name, success=False, err=str(error).encode())
    return snapshot_service_pb2.SnapshotPackage(snapshot_id=name, success=True)


async def serve_grpc(phone: Phone, port: int = 8554) -> tuple[Any, int]:
    """Serve a phone's controller on loopback, in the event loop that runs.

    Returns:
        The server, to be stopped with `await server.stop(None)`, and the port (a free one where 0 was asked for).

    Raises:
        RuntimeError: Where the port is taken.
    """
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)])
    emulator_controller_pb2_grpc.add_EmulatorControllerServicer_to_server(Controller(phone), server)
    snapshot_service_pb2_grpc.add_SnapshotServiceServicer_to_server(Snapshots(phone), server)
    taken = server.add_secure_port(f"127.0.0.1:{port}", grpc.local_server_credentials())
    await server.start()
    return server, taken
