"""Unmodified android-env drives our phone through the ports of an emulator."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from palaestra.envs.android.device import Device
from palaestra.envs.android.wire.phone import Phone
from palaestra.envs.android.wire.serve import Serving, serve

pytest.importorskip("android_env")


def free(ports: Iterator[int]) -> int:
    for port in ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise OSError("no port is free")


@pytest.fixture
def serving() -> Iterator[Serving]:
    loop = asyncio.new_event_loop()
    port = free(iter(range(5585, 5555, -2)))  # where adb looks for emulators
    serving = loop.run_until_complete(serve(Phone(Device(0), 270, 540), port, 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield serving

    async def end() -> None:
        await serving.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


TASK = """
id: "turn_wifi_off"
max_episode_steps: 50
log_parsing_config { filters: "Palaestra:V" log_regexps { reward: "reward: ([0-9.]+)" } }
"""


@pytest.fixture
def env(serving: Serving, tmp_path: Any) -> Iterator[Any]:
    """Load android-env, unmodified, as for an emulator that runs already."""
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed")
    from android_env import loader
    from android_env.components import config_classes

    task = tmp_path / "task.textproto"
    task.write_text(TASK)
    server_port = free(iter(range(15037, 15137)))
    settings = config_classes.DeviceSettingsConfig(show_touches=False, show_pointer_location=False)
    launcher = config_classes.EmulatorLauncherConfig(
        adb_port=serving.adb_port, emulator_console_port=serving.console_port, grpc_port=serving.grpc_port
    )
    adb = config_classes.AdbControllerConfig(adb_path=shutil.which("adb"), adb_server_port=server_port)
    config = config_classes.AndroidEnvConfig(
        task=config_classes.FilesystemTaskConfig(path=str(task)),
        simulator=config_classes.EmulatorConfig(emulator_launcher=launcher, adb_controller=adb),
        coordinator=config_classes.CoordinatorConfig(device_settings=settings),
    )
    kept = os.environ.copy()  # it deletes ANDROID_HOME
    try:
        env = loader.load(config)
        yield env
        env.close()
    finally:
        os.environ.clear()
        os.environ.update(kept)
        subprocess.run(["adb", "-P", str(server_port), "kill-server"], check=False, capture_output=True)


def test_android_env_loads_steps_and_restores(serving: Serving, env: Any) -> None:
    from android_env.proto import state_pb2

    first = env.reset()
    assert first.observation["pixels"].shape == (540, 270, 3)
    assert (first.observation["pixels"] == serving.phone.picture()).all()
    assert env.save_state(state_pb2.SaveStateRequest(args={"snapshot_name": "home"})).status == 1

    def touch(x: float, y: float, kind: int) -> Any:
        return env.step({"action_type": np.array(kind), "touch_position": np.array([x, y], np.float32)})

    touch(0.2, 0.2, 0)  # down on the icon of Settings
    opened = touch(0.2, 0.2, 1)
    assert serving.phone.device.place_name == "Settings/groups"
    assert (opened.observation["pixels"] == serving.phone.picture()).all()
    assert env.load_state(state_pb2.LoadStateRequest(args={"snapshot_name": "home"})).status == 1
    assert serving.phone.device.place_name == "Home/home"
    assert env.load_state(state_pb2.LoadStateRequest(args={"snapshot_name": "none"})).status == 2


def test_android_envs_own_wrappers_work(serving: Serving, env: Any) -> None:
    from android_env.wrappers import (
        discrete_action_wrapper,
        float_pixels_wrapper,
        image_rescale_wrapper,
        last_action_wrapper,
        tap_action_wrapper,
    )

    small = image_rescale_wrapper.ImageRescaleWrapper(env, zoom_factors=(0.5, 0.5))
    marked = last_action_wrapper.LastActionWrapper(small, concat_to_pixels=True)
    floats = float_pixels_wrapper.FloatPixelsWrapper(marked)
    pixels = floats.reset().observation["pixels"]
    assert pixels.shape == (270, 135, 4) and pixels.dtype == np.float32 and 0 <= pixels.min() <= pixels.max() <= 1
    taps = tap_action_wrapper.TapActionWrapper(small, num_steps=2)
    opened = taps.step({"action_type": np.array(0), "touch_position": np.array([0.2, 0.2], np.float32)})
    assert serving.phone.device.place_name == "Settings/groups" and opened.observation["pixels"].shape == (270, 135, 3)
    serving.phone.key("HOME")
    grid = discrete_action_wrapper.DiscreteActionWrapper(env, action_grid=(10, 5), redundant_actions=False, noise=0.0)
    assert grid.action_spec()["action_id"].num_values == 52
    grid.step({"action_id": 10})  # down in the middle of a cell
    grid.step({"action_id": 50})  # and up again
    assert serving.phone.device.place_name == "Settings/groups"
