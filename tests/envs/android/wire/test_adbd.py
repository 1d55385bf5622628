"""The phone over adb's wire: by hand, by Debian's adb, by adbutils, by adb-shell."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest
from served_phones import Adb, Served

from palaestra.envs.android.device import Device
from palaestra.envs.android.wire.adbd import CNXN, message
from palaestra.envs.android.wire.phone import Phone


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served(Phone(Device(0)))
    yield served
    served.close()


@pytest.fixture(scope="module")
def adb(served: Served) -> Iterator[Adb]:
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed")
    adb = Adb(served.port)
    yield adb
    adb("kill-server", named=False)


def test_debians_adb_takes_it_for_a_phone(adb: Adb) -> None:
    assert "model:Palaestra_1" in adb("devices", "-l", named=False)[1]
    assert adb("shell", "getprop sys.boot_completed") == (0, "1\n")
    assert adb("shell", "exit_code_test") == (127, "/system/bin/sh: exit_code_test: inaccessible or not found\n")
    assert adb("shell", "echo", "'a b'", "&&", "false")[0] == 1
    assert adb("root")[1].startswith("adbd is already running as root")
    assert adb("shell", "cat", stdin=b"from the host\n")[1] == "from the host\n"
    assert adb("shell", stdin=b"echo hi\nexit\n")[1].count("hi") == 1


def test_files_come_and_go_unchanged(adb: Adb, tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "blob")
    data = random.Random(0).randbytes(3_000_001)
    with open(path, "wb") as file:
        file.write(data)
    assert adb("push", path, "/sdcard/Download/blob")[0] == 0
    assert adb("shell", "wc -c /sdcard/Download/blob")[1] == "3000001\n"
    assert adb("pull", "/sdcard/Download/blob", path + "2")[0] == 0
    with open(path + "2", "rb") as file:
        assert file.read() == data
    assert "blob" in adb("ls", "/sdcard/Download")[1]
    code, text = adb("pull", "/sdcard/../../etc/passwd", path + "3")
    assert code != 0 and "remote object" in text
    assert adb.bytes("exec-out", "cat", "/sdcard/Download/blob") == data


def test_a_screen_over_the_wire_is_the_screen_in_the_process(adb: Adb, served: Served) -> None:
    """The same seed and actions give the same screens both ways."""
    import io

    from PIL import Image

    alone = Phone(Device(0))
    served.phone.device.reset(0)
    for line in ("input tap 200 300", "input swipe 540 1500 540 700", "input text hello", "input keyevent 4",
                 "input tap 540 620", "input keyevent KEYCODE_HOME"):  # fmt: skip
        adb("shell", line)
        words = line.split()
        if words[1] == "tap":
            alone.tap(float(words[2]), float(words[3]))
        elif words[1] == "swipe":
            alone.swipe(*map(float, words[2:]))
        elif words[1] == "text":
            alone.text(words[2])
        else:
            alone.key({"4": "BACK"}.get(words[2], "HOME"))
        picture = Image.open(io.BytesIO(adb.bytes("exec-out", "screencap", "-p")))
        assert picture.size == (1080, 2160) and picture.tobytes() == alone.picture().tobytes(), line


def test_adbutils_works(adb: Adb, served: Served) -> None:
    adbutils = pytest.importorskip("adbutils")
    client = adbutils.AdbClient(host="127.0.0.1", port=int(adb.environment["ANDROID_ADB_SERVER_PORT"]))
    device = client.device(serial=adb.name)
    assert device.shell("echo hi") == "hi"
    result = device.shell2("false")
    assert result.returncode == 1
    device.sync.push(b"text", "/sdcard/note.txt")
    assert device.sync.read_bytes("/sdcard/note.txt") == b"text"
    assert device.window_size() == (1080, 2160)
    device.app_start("com.android.settings", ".Settings")
    assert device.app_current().package == "com.android.settings"
    assert device.screenshot().size == (1080, 2160)
    assert "Settings" not in device.dump_hierarchy()[:10]


def test_adb_shell_works_without_any_adb(served: Served) -> None:
    client = pytest.importorskip("adb_shell.adb_device")
    device = client.AdbDeviceTcp("127.0.0.1", served.port, default_transport_timeout_s=9.0)
    assert device.connect(auth_timeout_s=0.1)
    assert device.shell("echo hi") == "hi\n"
    assert [entry.filename for entry in device.list("/sdcard")][:1]
    device.close()


def connected(port: int) -> socket.socket:
    plug = socket.create_connection(("127.0.0.1", port), timeout=5)
    plug.sendall(message(CNXN, 0x01000001, 2**20, b"host::"))
    assert plug.recv(24)[:4] == b"CNXN"
    return plug


def test_the_wire_is_adbs_byte_for_byte(served: Served) -> None:
    """A conversation, written down from the protocol: six words and a payload a message, shell packets inside."""

    def words(name: bytes, first: int, second: int, data: bytes = b"", total: int = 0) -> bytes:
        number = int.from_bytes(name, "little")
        return struct.pack("<6I", number, first, second, len(data), total, 0xFFFFFFFF - number) + data

    banner = (b"device::ro.product.name=palaestra;ro.product.model=Palaestra 1;ro.product.device=palaestra;"
              b"features=shell_v2,cmd")  # fmt: skip
    plug = socket.create_connection(("127.0.0.1", served.port), timeout=5)

    def hears(wanted: bytes) -> None:
        heard = b""
        while len(heard) < len(wanted):
            heard += plug.recv(len(wanted) - len(heard))
        assert heard == wanted

    plug.sendall(words(b"CNXN", 0x01000001, 0x100000, b"host::features=shell_v2"))
    hears(words(b"CNXN", 0x01000001, 0x100000, banner))
    plug.sendall(words(b"OPEN", 7, 0, b"shell,v2,raw:echo hi; nope\0"))
    hears(words(b"OKAY", 1, 7))
    hears(words(b"WRTE", 1, 7, b"\1\3\0\0\0hi\n"))
    plug.sendall(words(b"OKAY", 7, 1))
    complaint = b"/system/bin/sh: nope: inaccessible or not found\n"
    hears(words(b"WRTE", 1, 7, b"\2" + struct.pack("<I", len(complaint)) + complaint))
    plug.sendall(words(b"OKAY", 7, 1))
    hears(words(b"WRTE", 1, 7, b"\3\1\0\0\0\x7f"))
    plug.sendall(words(b"OKAY", 7, 1))
    hears(words(b"CLSE", 1, 7))
    plug.sendall(words(b"OPEN", 8, 0, b"sync:\0"))
    hears(words(b"OKAY", 2, 8))
    plug.sendall(words(b"WRTE", 8, 2, b"STAT\7\0\0\0/sdcard"))
    hears(words(b"OKAY", 2, 8))
    hears(words(b"WRTE", 2, 8, b"STAT" + struct.pack("<III", 0o040771, 4096, 1697384040)))
    plug.sendall(words(b"OKAY", 8, 2) + words(b"WRTE", 8, 2, b"QUIT\0\0\0\0"))
    hears(words(b"OKAY", 2, 8))
    hears(words(b"CLSE", 2, 8))
    plug.sendall(words(b"OPEN", 9, 0, b"tcp:22\0"))
    hears(words(b"CLSE", 0, 9))
    plug.close()
    plug = socket.create_connection(("127.0.0.1", served.port), timeout=5)  # of an old adb, which wants sums
    plug.sendall(words(b"CNXN", 0x01000000, 4096, b"host::", sum(b"host::")))
    hears(words(b"CNXN", 0x01000001, 0x100000, banner, sum(banner)))
    plug.close()


def test_garbage_and_clients_that_vanish_harm_nobody(served: Served) -> None:
    rubbish = random.Random(1)
    for size in (1, 24, 1000, 100_000):
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as plug:
            try:
                plug.sendall(rubbish.randbytes(size))
                with suppress(OSError):  # who has hung up already is not connected
                    plug.shutdown(socket.SHUT_WR)
                assert plug.recv(10) == b""
            except ConnectionError:
                pass
    huge = struct.pack("<6I", CNXN, 0, 0, 2**31, 0, CNXN ^ 0xFFFFFFFF)
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as plug:
        plug.sendall(huge)
        assert plug.recv(10) == b""
    for _ in range(20):  # in the middle of a transfer
        plug = connected(served.port)
        plug.sendall(message(int.from_bytes(b"OPEN", "little"), 1, 0, b"sync:\0"))
        body = b"SEND" + struct.pack("<I", 9) + b"/sdcard/x" + b"DATA" + struct.pack("<I", 500) + b"half"
        plug.sendall(message(int.from_bytes(b"WRTE", "little"), 1, 1, body))
        plug.close()
    plug = connected(served.port)
    plug.sendall(message(int.from_bytes(b"OPEN", "little"), 7, 0, b"tcp:22\0"))
    answer = b""
    while b"CLSE" not in answer and (part := plug.recv(4096)):
        answer += part
    assert b"CLSE" in answer
    plug.close()
    assert not served.phone.is_file("/sdcard/x")


def test_two_clients_at_once(adb: Adb, served: Served) -> None:
    client = pytest.importorskip("adb_shell.adb_device")
    device = client.AdbDeviceTcp("127.0.0.1", served.port, default_transport_timeout_s=9.0)
    device.connect(auth_timeout_s=0.1)
    for index in range(5):
        assert adb("shell", f"echo {index}")[1] == f"{index}\n"
        assert device.shell(f"echo {index}") == f"{index}\n"
    device.close()


def test_the_log_is_followed(adb: Adb, served: Served) -> None:
    process = subprocess.Popen(["adb", "-s", adb.name, "logcat", "-v", "epoch", "Palaestra:V", "*:S"],
                               env=adb.environment, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    served.loop.call_soon_threadsafe(served.phone.device.log, "Other", "no")
    served.loop.call_soon_threadsafe(served.phone.device.log, "Palaestra", "reward 1.0")
    line = process.stdout.readline().decode()
    process.kill()
    process.wait()
    assert line.endswith("I Palaestra: reward 1.0\n") and line.startswith(" ")
