"""How fast simulated phones are: many in this process, one behind adb and android-env, and MiniWoB++ beside them."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

Play = Callable[[int], int]
DRAWN = 1024
"""How many random actions are drawn in advance."""


def phone(
    count: int = 64,
    rounds: int = 5,
    seconds: float = 2.0,
    output: Path | None = Path("results/bench-phone.json"),
) -> dict[str, Any]:
    """Measure steps a second under a random policy: episodes of 20 actions, resets and pictures included.

    Args:
        count: How many phones step together.
        rounds: How often each contender has its turn.
        seconds: About how long a turn is.
        output: Where the result is written, None for nowhere.

    Returns:
        `rates` (medians, by the wall clock), `cpu_rates` (by this process's processor time, for contenders in this
        process alone, which is what one core to itself would do), `ratios`, `megabytes` of memory a phone, and
        `left_out`, which contenders could not take part and why.
    """
    from palaestra.launch.files import write_atomically
    from palaestra.launch.result import provenance

    with ExitStack() as stack:
        megabytes, plays = _in_process(count)
        left_out: dict[str, str] = {}
        contenders: dict[str, Callable[[], AbstractContextManager[Play]]] = {"miniwob": _miniwob}
        if shutil.which("adb"):
            (adb_port, grpc_port), server = stack.enter_context(_served()), _free_port()
            contenders["adb"] = partial(_adb, adb_port, server)
            contenders["android-env"] = partial(_android_env, adb_port, grpc_port, server)
        else:
            left_out |= dict.fromkeys(("adb", "android-env"), "there is no adb: install it")
        for name, contender in contenders.items():
            try:
                plays[name] = stack.enter_context(contender())
            except ImportError as error:
                left_out[name] = str(error)
        for name, why in left_out.items():
            print(f"bench phone goes without {name}: {why}")
        medians, cpu = _measured(plays, rounds, seconds)
    result = {
        "bench": "phone", "count": count, "rounds": rounds, "seconds": seconds, "load": os.getloadavg()[0],
        "rates": medians,
        "cpu_rates": {name: cpu[name] for name in ("calm", "wild")},
        "ratios": {f"calm / {name}": round(medians["calm"] / medians[name], 1) for name in medians if name != "calm"},
        "megabytes": megabytes, "left_out": left_out,
        **provenance(),
    }  # fmt: skip
    if output is not None:
        write_atomically(output, json.dumps(result, indent=2).encode() + b"\n")
    return result


def _measured(plays: dict[str, Play], rounds: int, seconds: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return median rates of plays that take turns: by the wall clock, and by this process's processor time."""
    rates: dict[str, list[float]] = {name: [] for name in plays}
    cpu: dict[str, list[float]] = {name: [] for name in plays}
    for _ in range(rounds):
        for name, play in plays.items():
            wall, used, done = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - wall < seconds:
                done += play(64)
            rates[name].append(done / (time.perf_counter() - wall))
            cpu[name].append(done / (time.process_time() - used))
    wall_medians, cpu_medians = ({name: round(median(values), 1) for name, values in each.items()}
                                 for each in (rates, cpu))  # fmt: skip
    return wall_medians, cpu_medians


def _in_process(count: int) -> tuple[float, dict[str, Play]]:
    """Return the memory that a phone takes after two hundred steps (MB), and plays by preset."""
    from palaestra.envs.android.world import PhoneEnv

    PhoneEnv(1).reset(seed=0)  # what is shared by all
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plays = {}
    for preset in ("calm", "wild"):
        env = PhoneEnv(count, actions="numbers", preset=preset)
        plays[preset] = _random_play(env)
        plays[preset](200 * count)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return round(grown / 1024 / (2 * count), 3), plays


def _random_play(env: Any) -> Play:
    import numpy as np

    random, seeds = np.random.default_rng(0), np.arange(env.num_envs)
    env.reset(seed=seeds.tolist())
    actions = random.random((DRAWN, env.num_envs, 4)).astype(np.float32)
    moves = np.array([0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8], np.float32)  # mostly taps, no verdict
    actions[..., 0] = random.choice(moves, (DRAWN, env.num_envs))
    turn = 0

    def play(steps: int) -> int:
        nonlocal turn
        turns = -(-steps // int(env.num_envs))
        for _ in range(turns):
            turn += 1
            _, _, terminated, truncated, _ = env.step(actions[turn % DRAWN])
            ended = terminated | truncated
            if ended.any():
                seeds[ended] += env.num_envs
                env.reset(seed=seeds.tolist(), options={"reset_mask": ended})
        return turns * int(env.num_envs)

    return play


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _served() -> Iterator[tuple[int, int]]:
    """Serve a phone from another process, and give adb's port and the controller's (0 where there is none)."""
    import socket

    for port in range(5585, 5553, -2):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                break
    command = [sys.executable, "-m", "palaestra.launch.cli", "phone", "--serve", "--grpc-port", "0"]
    with subprocess.Popen([*command, "--adb-port", str(port)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        controller = re.search(r"controller: localhost:(\d+)", "".join(lines))
        yield port, int(controller[1]) if controller else 0
        process.terminate()


@contextmanager
def _adb(port: int, server: int) -> Iterator[Play]:
    """Play through Debian's adb: one tap and one picture a step, as DigiRL's kind of stack does."""
    words = ["adb", "-P", str(server)]
    subprocess.run([*words, "connect", f"127.0.0.1:{port}"], check=True, capture_output=True)
    device = [*words, "-s", f"127.0.0.1:{port}"]

    def play(steps: int) -> int:
        subprocess.run([*device, "shell", "input tap 540 1080"], check=True, capture_output=True)
        subprocess.run([*device, "exec-out", "screencap"], check=True, capture_output=True)
        return 1

    yield play
    subprocess.run([*words, "kill-server"], check=False, capture_output=True)


@contextmanager
def _android_env(adb_port: int, grpc_port: int, server: int) -> Iterator[Play]:
    """Play through unmodified android-env: a tap is two of its steps."""
    import tempfile

    import numpy as np

    if not grpc_port:
        raise ImportError("there is no android-env: pip install 'palaestra[android]'")
    from android_env import loader
    from android_env.components import config_classes

    with tempfile.NamedTemporaryFile("w", suffix=".textproto") as task:
        task.write('id: "bench"\n')
        task.flush()
        launcher = config_classes.EmulatorLauncherConfig(
            adb_port=adb_port, emulator_console_port=adb_port - 1, grpc_port=grpc_port
        )
        adb = config_classes.AdbControllerConfig(adb_path=shutil.which("adb") or "adb", adb_server_port=server)
        env = loader.load(config_classes.AndroidEnvConfig(
            task=config_classes.FilesystemTaskConfig(path=task.name),
            simulator=config_classes.EmulatorConfig(emulator_launcher=launcher, adb_controller=adb),
        ))  # fmt: skip
        env.reset()

        def play(steps: int) -> int:
            for kind in (0, 1):
                env.step({"action_type": np.array(kind), "touch_position": np.array([0.5, 0.5], np.float32)})
            return 1

        yield play
        env.close()


@contextmanager
def _miniwob() -> Iterator[Play]:
    """Play MiniWoB++ in headless Chromium: one click at random and one picture a step, resets included.

    Raises:
        ImportError: Where MiniWoB++ or the browser is not installed.
    """
    import gymnasium
    import numpy as np

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    driver = shutil.which("chromedriver")
    try:
        import miniwob
        from miniwob.action import ActionTypes
    except ImportError:
        raise ImportError("there is no MiniWoB++: pip install miniwob selenium") from None
    if chromium is None or driver is None:
        raise ImportError("there is no Chromium with its chromedriver: install both")
    os.environ |= {"MINIWOB_CHROME_BINARY": chromium, "MINIWOB_CHROMEDRIVER": driver}  # where MiniWoB++ looks for them
    gymnasium.register_envs(miniwob)
    env: Any = gymnasium.make("miniwob/click-test-2-v1")
    random, ended = np.random.default_rng(0), True

    def play(steps: int) -> int:
        nonlocal ended
        if ended:
            env.reset()
        where = random.random(2).astype(np.float32) * (160, 210)
        *_, terminated, truncated, _ = env.step(env.unwrapped.create_action(ActionTypes.CLICK_COORDS, coords=where))
        ended = terminated or truncated
        return 1

    yield play
    env.close()
