"""A phone behind adb, in the pool: the same episodes as in this process, and faults that cost one episode."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from palaestra.envs.android.adb import Adb, Program, turn
from palaestra.envs.android.adb_world import AdbPhoneEnv, ShellTask, averaged
from palaestra.envs.android.world import PhoneEnv
from palaestra.envs.registry import make

pytestmark = pytest.mark.skipif(shutil.which("adb") is None, reason="adb is not installed")


class Served:
    """A phone that another process serves."""

    def __init__(self, port: int = 0) -> None:
        command = [sys.executable, "-m", "palaestra.launch.cli", "phone", "--serve", "--grpc-port", "0"]
        command += ["--width", "128", "--height", "256", "--adb-port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        self.port = int(said.split("127.0.0.1:")[1].split()[0])
        self.console = int(self.process.stdout.readline().split("localhost:")[1].split(",")[0])
        self.serial = f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()


def test_the_same_seed_and_actions_give_the_same_screens_both_ways(served: Served) -> None:
    near, far = PhoneEnv(1, split="test"), AdbPhoneEnv(served.serial, split="test")
    for seed in (3, 8):
        here, _ = near.reset(seed=[seed])
        there, _ = far.reset(seed=seed)
        ended = False
        for step in range(12):
            for name in ("screen", "previous"):
                assert (here[name][0] == there[name]).all(), (seed, step, name)
            assert here["text"][0] == there["text"]
            if ended:
                break
            said = near.expert()[0] if step % 3 else 'nonsense "x"'
            here, reward, terminated, _, _ = near.step([said])
            there, far_reward, ended, _, info = far.step(said)
            assert (float(reward[0]), bool(terminated[0])) == (far_reward, ended)
            assert bool(info["invalid"]) == (not step % 3)
        assert ended and info["success"]
    far.close()


@pytest.mark.slow
def test_a_phone_that_reboots_costs_one_episode(served: Served) -> None:
    other = Served()
    serials = f"{served.serial},{other.serial}"
    worlds = make("android/adb-v0", count=2, workers=2, serials=serials, templates=["open-app"])
    wait = ['"action_type": "WAIT"'] * 2
    try:
        step = worlds.reset(seed=0)
        assert all(any(word in text for word in ("Open", "Launch", "Show", "Go")) for text in step.observation.text)
        worlds.send(step.rows, wait)
        step = worlds.recv()
        assert not step.faulted.any() and not step.ended.any()
        other.close()
        other = Served(other.port)  # back, but of its task it knows nothing
        worlds.send(step.rows, wait)
        with pytest.warns(RuntimeWarning, match="lost its task"):
            step = worlds.recv()
        assert sorted(step.faulted.tolist()) == [False, True]
        worlds.send(step.rows, wait)
        assert not worlds.recv().faulted.any()
    finally:
        worlds.close()
        other.close()


def test_tasks_of_any_phone_are_shell_lines(served: Served) -> None:
    def task(seed: int) -> ShellTask:
        start = ["settings put global wifi_on 1", "am start -n com.android.settings/.Settings"]
        return ShellTask("Turn off Wi-Fi", start, '[ "$(settings get global wifi_on)" = 0 ]')

    phone = AdbPhoneEnv(served.serial, tasks=task)
    view, _ = phone.reset(seed=1)
    assert view["text"] == "Turn off Wi-Fi\n"
    phone.adb.shell("svc wifi disable")
    _, reward, terminated, _, _ = phone.step('"action_type": "WAIT"')
    assert reward == 1 and terminated
    with pytest.raises(RuntimeError, match="no phone is free"):
        AdbPhoneEnv(served.serial)
    phone.close()
    bad = AdbPhoneEnv(served.serial, tasks=lambda seed: ShellTask("x", ["false"], "true"))
    with pytest.raises(RuntimeError, match="not made ready"):
        bad.reset(seed=0)
    bad.close()


BOOT = (f"{sys.executable} -m palaestra.launch.cli phone --serve --grpc-port 0 --width 128 --height 256 "
        "--adb-port {port}")  # fmt: skip


def free_port() -> int:
    """Return a port that is free, as the one below it is, where the console goes."""
    while True:
        with socket.socket() as probe, socket.socket() as below:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            with suppress(OSError):
                below.bind(("127.0.0.1", port - 1))
                return port


@pytest.mark.slow
def test_a_phone_that_freezes_is_a_fault_and_boots_again() -> None:
    options: dict[str, Any] = {"boot": BOOT, "timeout": 3.0, "templates": ["open-app"], "split": "test"}
    serial = f"127.0.0.1:{free_port()}"
    phone = AdbPhoneEnv(serial, **options)
    before, _ = phone.reset(seed=5)
    program = phone._program
    assert program is not None and program.process is not None
    os.kill(program.process.pid, signal.SIGSTOP)
    with pytest.raises(RuntimeError, match=r"is not there|does not answer"):
        phone.step('"action_type": "WAIT"')
    after, _ = phone.reset(seed=5)  # its first attempt fails, the second one boots the phone
    assert (before["screen"] == after["screen"]).all() and before["text"] == after["text"]
    process = program.process
    phone.close()
    assert process.poll() is not None
    again = AdbPhoneEnv(serial, **options)  # the lock is free
    again.close()


def test_a_reboot_within_an_episode_is_a_fault_and_the_next_episode_is_none(served: Served) -> None:
    phone = AdbPhoneEnv(served.serial, templates=["turn"], split="test")
    before, _ = phone.reset(seed=2)
    phone.adb._run("-s", served.serial, "reboot")
    with pytest.raises(RuntimeError, match="lost its task"):
        phone.step('"action_type": "WAIT"')
    after, _ = phone.reset(seed=2)
    assert (before["screen"] == after["screen"]).all() and before["text"] == after["text"]
    phone.close()


def test_a_lost_connection_is_made_anew_within_an_episode(served: Served) -> None:
    phone = AdbPhoneEnv(served.serial, templates=["turn"])
    phone.reset(seed=1)
    phone.adb._run("kill-server")
    view, *_, info = phone.step('"action_type": "PRESS_HOME"')
    assert not info["invalid"] and view["screen"].any()
    phone.close()


def test_an_episode_begins_from_a_snapshot(served: Served) -> None:
    """As it would on an emulator: the snapshot has the random state in it, and the task."""
    adb = Adb(served.serial)
    adb.connect()
    adb.shell("palaestra start alarm-set 3 test")
    with socket.create_connection(("127.0.0.1", served.console), timeout=9) as console:
        console.sendall(b"avd snapshot save ready\nquit\n")
        assert b"OK" in b"".join(iter(lambda: console.recv(4096), b""))
    screen = adb.screen()
    adb.shell("input tap 20 30; settings put global wifi_on 0; palaestra start turn 4 test")
    assert (adb.screen() != screen).any()
    with socket.create_connection(("127.0.0.1", served.console), timeout=9) as console:
        console.sendall(b"avd snapshot load ready\nquit\n")
        assert b"OK" in b"".join(iter(lambda: console.recv(4096), b""))
    assert (adb.screen() == screen).all() and adb.shell("settings get global wifi_on") == (0, "1\n")
    assert adb.shell("palaestra success")[0] == 1
    adb.close()


@pytest.mark.parametrize(
    ("serial", "boot", "complaint"),
    [("R58M123", "x", "names no port"), ("127.0.0.1:5555", "x {avd}", "Known are {serial}"),
     ("127.0.0.1:5555", "x {", "boot is")],
)  # fmt: skip
def test_a_boot_that_makes_no_sense_is_refused(serial: str, boot: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Program(boot, serial)


def test_programs_are_told_the_ports_of_their_phone() -> None:
    assert Program("run -ports {console},{port}", "emulator-5556")._command == ["run", "-ports", "5556,5557"]
    assert Program("run {serial}", "127.0.0.1:5555")._command == ["run", "127.0.0.1:5555"]
    with pytest.raises(RuntimeError, match="cannot be started"):
        Program("no-such-program", "127.0.0.1:5555").start()


def test_phones_boot_one_after_the_other() -> None:
    booting, most = 0, 0

    def boot() -> None:
        nonlocal booting, most
        with turn():
            booting += 1
            most = max(most, booting)
            time.sleep(0.05)
            booting -= 1

    threads = [threading.Thread(target=boot) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_pictures_are_averaged() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:2, :2] = [[[0], [100]], [[100], [200]]]
    assert averaged(picture, 2, 2)[..., 0].tolist() == [[100, 0], [0, 0]]
    grown = averaged(picture, 8, 8)
    assert (grown[::2, ::2] == picture).all()
    assert averaged(np.full((7, 5, 3), 9, np.uint8), 3, 2).tolist() == np.full((3, 2, 3), 9).tolist()
