"""A phone behind adb: its own adb server, the program that it runs in, and the lock that keeps it for one world."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np


class Adb:
    """One phone behind an adb server of its own: where a server fails, it fails for one phone."""

    def __init__(self, serial: str, program: str = "adb", timeout: float = 30.0) -> None:
        self.serial, self._program, self._timeout = serial, program, timeout
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = str(probe.getsockname()[1])

    def connect(self, seconds: float = 120.0) -> None:
        """Wait until the phone has booted.

        Raises:
            RuntimeError: Where it has not after so long.
        """
        deadline = time.monotonic() + seconds
        while True:
            if ":" in self.serial:
                self._run("connect", self.serial)
            said = self._run("-s", self.serial, "shell", "getprop sys.boot_completed")
            if said.stdout.strip() == b"1":
                return
            if time.monotonic() > deadline:
                why = (said.stderr or said.stdout).decode(errors="replace").strip()
                why = why or "still booting"
                raise RuntimeError(f"the phone {self.serial} is not there after {seconds:g} s: {why}")
            time.sleep(0.2)

    def shell(self, line: str) -> tuple[int, str]:
        """Run a line on the phone and return its status and output. A lost connection is made anew, once.

        Raises:
            RuntimeError: Where the phone does not answer.
        """
        done = self._alive("shell", line)
        return done.returncode, done.stdout.decode(errors="replace")

    def screen(self) -> np.ndarray:
        """Return the screen, [height, width, 3] uint8.

        Raises:
            RuntimeError: Where the phone does not answer, or no picture.
        """
        data = self._alive("exec-out", "screencap").stdout
        width, height = (int(number) for number in np.frombuffer(data[:8], "<u4")) if len(data) > 16 else (0, 0)
        start = len(data) - 4 * width * height  # the head has 12 bytes before Android 9, then 16
        if not width or start not in (12, 16):
            raise RuntimeError(f"the phone {self.serial} gave no picture: {data[:80]!r}")
        return np.frombuffer(data, np.uint8, offset=start).reshape(height, width, 4)[..., :3]

    def close(self) -> None:
        """End the server."""
        self._run("kill-server")

    def _alive(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        for attempt in range(2):
            done = self._run("-s", self.serial, *words)
            lost = done.stderr.startswith((b"error: ", b"adb: ")) or done.returncode == 124
            if not lost:
                return done
            if attempt == 0:
                self._run("kill-server")
                self.connect(min(10.0, self._timeout))
        raise RuntimeError(f"the phone {self.serial} does not answer: {done.stderr.decode(errors='replace').strip()}")

    def _run(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        command = [self._program, "-P", self._port, *words]
        try:
            return subprocess.run(command, capture_output=True, timeout=self._timeout, check=False)
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, b"", f"no answer for {self._timeout:g} s".encode())
        except FileNotFoundError as error:
            hint = "install adb, or name it by adb=PATH"
            raise RuntimeError(f"there is no program {self._program!r}: {hint}.") from error


class Program:
    """What a phone is to this machine: an emulator's process, started here and started again where it fails."""

    def __init__(self, command: str, serial: str) -> None:
        """Take a command line, in which {serial}, {port} (adb's) and {console} are filled in.

        Raises:
            ValueError: For other braces, or a serial that names no port.
        """
        port = re.search(r"(?:^emulator-|:)(\d+)$", serial)
        if port is None:
            raise ValueError(f"the serial {serial!r} names no port: expected HOST:PORT or emulator-PORT.")
        adb = int(port[1]) + serial.startswith("emulator-")
        try:
            self._command = shlex.split(command.format(serial=serial, port=adb, console=adb - 1))
        except (LookupError, ValueError) as error:
            known = "{serial}, {port} and {console}"
            raise ValueError(f"boot is {command!r}: {error}. Known are {known}.") from error
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, after the end of the one that runs.

        Raises:
            RuntimeError: Where there is no such program.
        """
        self.stop()
        try:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise RuntimeError(f"the phone cannot be started by {shlex.join(self._command)!r}: {error}") from error

    def stop(self) -> None:
        """End it, whether it runs or hangs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def turn() -> Iterator[None]:
    """Wait until no other world of this machine boots a phone: emulators that boot together all boot slowly."""
    import fcntl  # which Windows lacks

    with (Path(tempfile.gettempdir()) / "palaestra-adb-boot.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def claimed(serials: Sequence[str]) -> tuple[str, IO[str]]:
    """Return the first phone that no living process holds, and the open file that holds it."""
    import fcntl

    for serial in serials:
        safe = "".join(letter if letter.isalnum() else "-" for letter in serial)
        file = (Path(tempfile.gettempdir()) / f"palaestra-adb-{safe}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        return serial, file
    raise RuntimeError(f"no phone is free of {', '.join(serials)}: name one a world in serials='A,B,…'.")
