"""How fast simulated phones are: many in this process, and one behind adb and android-env."""

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
from contextlib import ExitStack, contextmanager, suppress
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
        process alone, which is what one core to itself would do), `ratios`, and `megabytes` of memory a phone.
    """
    from palaestra.launch.files import write_atomically
    from palaestra.launch.result import provenance

    with ExitStack() as stack:
        megabytes, plays = _in_process(count)
        if shutil.which("adb"):
            adb_port, grpc_port = stack.enter_context(_served())
            server = _free_port()
            plays["adb"] = stack.enter_context(_adb(adb_port, server))
            with suppress(ImportError):
                plays["android-env"] = stack.enter_context(_android_env(adb_port, grpc_port, server))
        rates: dict[str, list[float]] = {name: [] for name in plays}
        cpu: dict[str, list[float]] = {name: [] for name in plays}
        for _ in range(rounds):
            for name, play in plays.items():
                wall, used, done = time.perf_counter(), time.process_time(), 0
                while time.perf_counter() - wall < seconds:
                    done += play(64)
                rates[name].append(done / (time.perf_counter() - wall))
                cpu[name].append(done / (time.process_time() - used))
    medians = {name: round(median(values), 1) for name, values in rates.items()}
    result = {
        "bench": "phone", "count": count, "rounds": rounds, "seconds": seconds, "load": os.getloadavg()[0],
        "rates": medians,
        "cpu_rates": {name: round(median(cpu[name]), 1) for name in ("calm", "wild")},
        "ratios": {f"calm / {name}": round(medians["calm"] / medians[name], 1) for name in medians if name != "calm"},
        "megabytes": megabytes,
        **provenance(),
    }  # fmt: skip
    if output is not None:
        write_atomically(output, json.dumps(result, indent=2).encode() + b"\n")
    return result


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
    from android_env import loader
    from android_env.components import config_classes

    if not grpc_port:
        raise ImportError("android_env")
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
