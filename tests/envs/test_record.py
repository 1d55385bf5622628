import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import av
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from palaestra.envs.core import Observation
from palaestra.envs.record import RenderError, Single, record
from palaestra.envs.toy import ReachEnv, expert_action


class Corridor(gymnasium.Env[Any, Any]):
    """A dot goes right by its action; it succeeds at 3. Its picture is as bright as it has gone far."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(self, render_mode: str | None = "rgb_array", limit: int | None = 8) -> None:
        self.render_mode = render_mode
        self.spec = EnvSpec("Corridor-v0", max_episode_steps=limit)
        self.observation_space = spaces.Dict({"at": spaces.Box(-9, 9, (1,), np.float32), "goal": spaces.Text(40)})
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.at = 0.0
        self.steps = 0
        self.faulty: Callable[[], object] = bool

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.steps = 0.0, 0
        self.noise = float(np.random.rand())  # worlds may draw from the global generator
        return self._view(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.faulty()
        self.at += float(action[0])
        self.steps += 1
        done = self.at >= 3
        return self._view(), float(action[0]), done, self.steps == 8, {"success": done}

    def render(self) -> Any:
        return np.full((64, 256, 3), 40 * self.at, np.uint8)

    def _view(self) -> Any:
        return {"at": np.array([self.at], np.float32), "goal": "go right"}


@dataclass
class Decision:
    action: Any


class Constant:
    """Always decides the same, and remembers what it saw."""

    def __init__(self, *actions: float) -> None:
        self.action = torch.tensor(actions).view(1, -1, 1)
        self.seen: list[Observation] = []

    def act(self, observation: Observation) -> Decision:
        self.seen.append(observation)
        return Decision(self.action)


def decoded(path: Path | None) -> np.ndarray:
    assert path is not None
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def brightness(path: Path | None) -> list[int]:
    """How bright the world's own picture is, frame by frame, in steps of 40."""
    return [round(float(frame[:60].mean()) / 40) for frame in decoded(path)]


def test_every_step_is_a_frame_and_the_last_one_stays(tmp_path: Path) -> None:
    (made,) = record(Corridor(), Constant(1.0), tmp_path, [7])
    assert made.path == tmp_path / "seed-7.mp4"
    assert (made.seed, made.steps, made.reward, made.success, made.success_once) == (7, 3, 3.0, True, True)
    assert made.fault is None
    assert brightness(made.path) == [0, 1, 2, 3] + [3] * 10  # one second at the world's own rate


def test_a_chunk_is_played_to_the_episodes_end(tmp_path: Path) -> None:
    policy = Constant(1.0, 1.0)
    (made,) = record(Corridor(), policy, tmp_path, [0], fps=2)
    assert (made.steps, made.reward) == (3, 3.0)  # the fourth action is not played
    assert brightness(made.path) == [0, 1, 2, 3, 3, 3]
    assert [view.state.item() for view in policy.seen if view.state is not None] == [0.0, 2.0]
    assert policy.seen[0].text == ("go right",)
    assert policy.seen[0].state is not None
    assert policy.seen[0].state.dtype == torch.float32


def test_the_verdict_colours_the_last_frames(tmp_path: Path) -> None:
    won, lost = (record(Corridor(), Constant(a), tmp_path, [i])[0] for i, a in enumerate((1.0, 0.1)))
    assert (lost.success, lost.success_once, lost.steps) == (False, False, 8)
    strips = [decoded(part.path)[:, 66:70, 4:250].mean((1, 2)) for part in (won, lost)]
    green, red = strips[0][-1], strips[1][-1]
    assert green[1] > green[0] + 40
    assert red[0] > red[1] + 40
    for strip in strips:
        assert np.ptp(strip[0]) < 15  # grey before the end


def test_the_caption_is_written_and_long_ones_are_cut(tmp_path: Path) -> None:
    def strip(caption: str) -> np.ndarray:
        (made,) = record(Corridor(), Constant(1.0), tmp_path, [0], caption=caption)
        return decoded(made.path)[0, 64:].astype(int)

    short, long, endless = strip("go"), strip("go to the right"), strip("go to the right " * 40)
    assert short.shape == long.shape == endless.shape
    assert (long[:, 40:100].max() > 150) and (short[:, 40:100].max() < 100)
    assert np.abs(endless[:, 212:] - short[:, 212:]).max() < 60  # "step 0" is not written over


def test_small_pictures_are_enlarged(tmp_path: Path) -> None:
    world = Corridor()
    world.render = lambda: np.full((20, 30, 3), 200, np.uint8)  # type: ignore[method-assign]
    (made,) = record(world, Constant(1.0), tmp_path, [0])
    height, width = decoded(made.path).shape[1:3]
    assert (width, height > 180) == (270, True)


def test_recording_gives_all_randomness_back(tmp_path: Path) -> None:
    class Noisy(Constant):
        def act(self, observation: Observation) -> Decision:
            random.random()
            return Decision(torch.rand(1, 1, 1))

    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    first = record(Corridor(), Noisy(), tmp_path, [3, 4])
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    torch.manual_seed(9)
    assert [r.reward for r in record(Corridor(), Noisy(), tmp_path, [4, 3])] == [r.reward for r in first[::-1]]


def test_max_steps_stops_an_episode_inside_a_chunk(tmp_path: Path) -> None:
    (made,) = record(Corridor(limit=None), Constant(0.1, 0.1, 0.1), tmp_path, [0], max_steps=4, fps=1)
    assert (made.steps, made.success) == (4, False)
    assert len(decoded(made.path)) == 6  # reset, four steps, one that stays


def test_a_world_that_breaks_is_recorded_up_to_there(tmp_path: Path) -> None:
    world = Corridor()

    def faulty() -> None:
        if world.steps == 2:
            raise RuntimeError("lost its way")

    world.faulty = faulty
    broken, whole = record(world, Constant(1.0), tmp_path, [0, 1])[0], None
    assert broken.fault == "step: RuntimeError: lost its way"
    assert (broken.success, broken.steps) == (False, 2)
    assert brightness(broken.path)[:3] == [0, 1, 2]
    world.faulty = bool
    (whole,) = record(world, Constant(1.0), tmp_path, [2])
    assert whole.fault is None


def test_a_world_that_breaks_at_reset_has_no_video(tmp_path: Path) -> None:
    world = Corridor()
    world.reset = lambda **_: 1 / 0  # type: ignore[method-assign, assignment]
    (made,) = record(world, Constant(1.0), tmp_path, [0])
    assert (made.path, made.steps) == (None, 0)
    assert made.fault == "reset: ZeroDivisionError: division by zero"
    assert list(tmp_path.iterdir()) == []


def test_an_observation_that_is_not_finite_is_a_fault(tmp_path: Path) -> None:
    world = Corridor()
    world._view = lambda: {"at": np.array([np.nan], np.float32), "goal": ""}  # type: ignore[method-assign]
    (made,) = record(world, Constant(1.0), tmp_path, [0])
    assert made.fault is not None
    assert "'at' holds nan" in made.fault


# What cannot be recorded


def test_a_world_made_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="render_mode=None: make it with render_mode='rgb_array'"):
        record(Corridor(render_mode=None), Constant(1.0), tmp_path, [0])


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (None, "returned NoneType"),
        (np.zeros((8, 8), np.uint8), r"shape \(8, 8\)"),
        (np.zeros((8, 8, 3)), "dtype float64"),
        (RuntimeError("failed to find a rendering device"), "cannot render: RuntimeError: failed to find a rendering"),
    ],
)
def test_a_world_that_shows_no_picture_is_refused_with_the_reason(tmp_path: Path, picture: Any, message: str) -> None:
    def render() -> Any:
        if isinstance(picture, Exception):
            raise picture
        return picture

    world = Corridor()
    world.render = render  # type: ignore[method-assign]
    with pytest.raises(RenderError, match=message):
        record(world, Constant(1.0), tmp_path, [0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.full((1, 1, 1), torch.nan), "not an action"),
        (torch.zeros(1, 1, 2), r"shape \[1, 1, 2\]"),
        (torch.zeros(2, 1, 1), r"shape \[2, 1, 1\]"),
        (torch.zeros(1, 0, 1), "chunk of no actions"),
        (["left"], "send a tensor"),
    ],
)
def test_a_decision_that_is_none_is_the_policys_fault(tmp_path: Path, action: Any, message: str) -> None:
    class Wrong:
        def act(self, observation: Observation) -> Decision:
            return Decision(action)

    with pytest.raises(ValueError, match=message):
        record(Corridor(), Wrong(), tmp_path, [0])
    assert list(tmp_path.iterdir()) == []


def test_a_seed_twice_and_an_endless_world_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seeds hold one twice"):
        record(Corridor(), Constant(1.0), tmp_path, [1, 2, 1])
    with pytest.raises(ValueError, match="no time limit"):
        record(Corridor(limit=None), Constant(1.0), tmp_path, [1])


# Vectorised worlds


class Expert:
    def act(self, observation: Observation) -> Decision:
        assert observation.state is not None
        return Decision(expert_action(observation.state))


def test_a_vectorised_world_of_one_is_recorded(tmp_path: Path) -> None:
    (made,) = record(Single(ReachEnv(1, render_mode="rgb_array")), Expert(), tmp_path, [5])
    world = ReachEnv(1)
    state, _ = world.reset(seed=[5])
    steps, total, success = 0, 0.0, False
    while not success:
        state, reward, terminated, _, _ = world.step(expert_action(state))
        steps, total, success = steps + 1, total + float(reward[0]), bool(terminated[0])
    assert (made.steps, made.success) == (steps, True)
    assert made.reward == pytest.approx(total)
    assert len(decoded(made.path)) == steps + 1 + 10


def test_a_vectorised_world_that_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(ValueError, match="holds 2 worlds: make it with count 1"):
        Single(ReachEnv(2))
    world = ReachEnv(1)
    world.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    with pytest.raises(ValueError, match="resets within the step"):
        Single(world)
