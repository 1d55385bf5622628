"""A phone behind adb, in the pool: the same episodes as in this process, and faults that cost one episode."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

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
        for turn in range(12):
            for name in ("screen", "previous"):
                assert (here[name][0] == there[name]).all(), (seed, turn, name)
            assert here["text"][0] == there["text"]
            if ended:
                break
            said = near.expert()[0] if turn % 3 else 'nonsense "x"'
            here, reward, terminated, _, _ = near.step([said])
            there, far_reward, ended, _, info = far.step(said)
            assert (float(reward[0]), bool(terminated[0])) == (far_reward, ended)
            assert bool(info["invalid"]) == (not turn % 3)
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
        assert all(text.startswith("Open the ") for text in step.observation.text)
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


def test_pictures_are_averaged() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:2, :2] = [[[0], [100]], [[100], [200]]]
    assert averaged(picture, 2, 2)[..., 0].tolist() == [[100, 0], [0, 0]]
    grown = averaged(picture, 8, 8)
    assert (grown[::2, ::2] == picture).all()
    assert averaged(np.full((7, 5, 3), 9, np.uint8), 3, 2).tolist() == np.full((3, 2, 3), 9).tolist()
