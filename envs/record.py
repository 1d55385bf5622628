"""Episodes as videos: one world plays here, a policy acts, every frame is captioned and encoded as it comes."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from palaestra.envs.chunk import Episode, WorldError
from palaestra.envs.core import Observation
from palaestra.envs.spaces import Layout, checked, checked_actions, checked_text, describe, leaf
from palaestra.envs.vector import autoreset_mode, verdict
from palaestra.envs.video import VideoWriter, write_video

__all__ = ["Recording", "RenderError", "Single", "record", "write_video"]

SMALLEST = 256  # pixels: smaller frames are enlarged, so that the caption can be read
HOLD = 1.0  # seconds for which the last frame, with the verdict, stays
DARK = (30, 30, 34)
COLOURS = {"success": (30, 130, 60), "no success": (170, 50, 40), "broke": (120, 60, 140)}  # behind verdicts


class RenderError(RuntimeError):
    """A world that shows no pictures; the message is the reason and the way out."""


class Decided(Protocol):
    """What a policy returns."""

    @property
    def action(self) -> Tensor | Sequence[str]:
        """[1, C, …] for a chunk of C actions, [1, …] for one, or one string."""
        ...


class Actor(Protocol):
    """What recording needs of a policy."""

    def act(self, observation: Observation) -> Decided:
        """Decide for one world."""
        ...


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded episode."""

    path: Path | None
    """The video, None where the world broke before its first picture."""
    seed: int
    """The seed of the reset."""
    steps: int
    """How many actions were played."""
    reward: float
    """Their sum of rewards."""
    success: bool
    """The task's own verdict on the last view."""
    success_once: bool
    """That verdict was true at some time."""
    fault: str | None = None
    """What broke, where the world did; the video ends there."""


def record(
    env: gymnasium.Env[Any, Any],
    policy: Actor,
    folder: str | Path,
    seeds: Sequence[int],
    *,
    caption: str = "",
    fps: float | None = None,
    max_steps: int | None = None,
) -> list[Recording]:
    """Play an episode from each seed and save it as `folder/seed-<seed>.mp4`.

    The episodes are those that the worlds of `pool.py` play from these seeds. Randomness drawn meanwhile is
    given back: training goes on as if nothing had been recorded.

    Args:
        env: One world, made with `render_mode="rgb_array"`. `Single` makes one of a vectorised world.
        policy: Anything with `act(observation).action`; chunks are played to the episode's end.
        folder: Where the videos go; made if missing.
        seeds: One an episode, each once.
        caption: What is written under the pictures, such as the instruction; the world's own text if empty.
        fps: Frames a second; the world's own `metadata["render_fps"]` or 20 if None.
        max_steps: Where to stop an episode that has not ended; needed where the world has no time limit.

    Raises:
        RenderError: The world shows no pictures, with the reason.
        ValueError: A seed twice, an action that is none, or a policy that could play for ever.
        OSError: The video cannot be written.
    """
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds hold one twice: {list(seeds)}. A video is named by its seed.")
    if env.render_mode != "rgb_array":
        raise RenderError(f"{env} was made with render_mode={env.render_mode!r}: make it with render_mode='rgb_array'.")
    if max_steps is None and (env.spec is None or env.spec.max_episode_steps is None):
        raise ValueError(f"{env} names no time limit in its spec: say where an episode stops with max_steps.")
    rate = fps or float(env.metadata.get("render_fps") or 20)
    recordings = []
    for seed in seeds:
        with _own_randomness(seed):
            path = Path(folder) / f"seed-{seed}.mp4"
            recordings.append(_record_one(env, policy, path, seed, caption, rate, max_steps))
    return recordings


def _record_one(
    env: gymnasium.Env[Any, Any],
    policy: Actor,
    path: Path,
    seed: int,
    caption: str,
    fps: float,
    max_steps: int | None,
) -> Recording:
    """Play and save one episode."""
    layout = describe(env.observation_space)
    frames: list[np.ndarray] = []
    world = Episode(env, tick=lambda: frames.append(_frame(env)))
    steps, success, fault = 0, False, None
    video = VideoWriter(path, fps)
    line = caption
    try:
        try:
            observation, ended = world.start(seed), False
            while not ended:
                view = _view(layout, observation)
                line = caption or " ".join(view.text)
                _encode(video, frames, line, steps)
                actions = _actions(env, policy.act(view).action)
                played = world.play(actions if max_steps is None else actions[: max_steps - steps])
                steps, success, observation = steps + played.played, played.success, played.observation
                ended = played.terminated or played.truncated or steps == max_steps
        except WorldError as error:
            fault = str(error)
        last = frames[-1] if frames else None
        _encode(video, frames, line, steps)
        if last is not None:
            verdict_word = "broke" if fault else "success" if success else "no success"
            spoken = verdict_word if fault or success else f"{verdict_word} in {steps} steps"
            video.add(np.stack([_captioned(last, line, spoken, COLOURS[verdict_word])] * max(1, round(HOLD * fps))))
        if video.count:
            video.close()
    except BaseException:
        video.abort()
        raise
    return Recording(path if video.count else None, seed, steps, world.total, success, world.success_once, fault)


def _frame(env: gymnasium.Env[Any, Any]) -> np.ndarray:
    """Return what the world looks like now, [H, W, 3] uint8."""
    try:
        picture = env.render()
    except Exception as error:
        raise RenderError(f"{env} cannot render: {type(error).__name__}: {error}") from error
    array = np.asarray(picture.cpu() if isinstance(picture, Tensor) else picture)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise RenderError(
            f"{env}.render() returned {type(picture).__name__} of shape {array.shape} and dtype {array.dtype}; "
            "expected a picture [H, W, 3] uint8."
        )
    return array.copy()  # some worlds draw into the same array again


def _view(layout: Layout, observation: Any) -> Observation:
    """Return one world's view as a batch of one."""
    try:
        values = {e.key: checked(e, leaf(observation, e)) for e in layout.entries if e.kind != "text"}
        texts = [checked_text(e, leaf(observation, e)).decode() for e in layout.of("text")]
    except (TypeError, ValueError) as error:
        raise WorldError("observation", str(error)) from error
    states = [values[e.key].reshape(-1).astype(np.float32) for e in layout.of("state")]
    return Observation(
        images={e.key: torch.from_numpy(values[e.key][None].copy()) for e in layout.of("image")},
        state=torch.from_numpy(np.concatenate(states)[None]) if states else None,
        text=tuple(texts),
    )


def _actions(env: gymnasium.Env[Any, Any], action: Tensor | Sequence[str]) -> Sequence[Any]:
    """Return a decision for one world as a list of its actions."""
    chunk = 1
    if isinstance(action, Tensor) and action.dim() == 2 + len(env.action_space.shape or ()):
        chunk = action.shape[1]
    values = checked_actions(env.action_space, [0], action, chunk)
    actions = values if isinstance(values, list) else values[0]
    if not len(actions):
        raise ValueError("the policy decided on a chunk of no actions; expected at least one.")
    return actions


def _encode(video: VideoWriter, frames: list[np.ndarray], line: str, steps: int) -> None:
    """Encode the frames since the last decision, the last of them after `steps` actions, and forget them."""
    for i, frame in enumerate(frames):
        video.add(_captioned(frame, line, f"step {steps - len(frames) + 1 + i}"))
    frames.clear()


def _captioned(frame: np.ndarray, line: str, word: str, colour: tuple[int, int, int] = DARK) -> np.ndarray:
    """Return a frame, enlarged if small, over a strip with a line and, on the right, a word."""
    from PIL import Image, ImageDraw, ImageFont

    scale = max(1, -(-SMALLEST // frame.shape[1]))
    frame = frame.repeat(scale, 0).repeat(scale, 1)
    width = frame.shape[1]
    size = max(12, width // 24)
    strip = Image.new("RGB", (width, 2 * size), colour)
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(size)
    right = width - size // 2 - int(pen.textlength(word, font))
    pen.text((right, size // 3), word, (255, 255, 255), font)
    line = " ".join(line.split())
    room = right - size
    if pen.textlength(line, font) > room:
        lengths = range(len(line) + 1)
        line = line[: bisect(lengths, room, key=lambda n: pen.textlength(line[:n] + "…", font)) - 1].rstrip() + "…"
    pen.text((size // 2, size // 3), line, (235, 235, 235), font)
    return np.concatenate((frame, np.asarray(strip)))


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed every global generator as worlds and policies expect, and give their states back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class Single(gymnasium.Env[Any, Any]):
    """A vectorised world of one as a plain one, so that it can be recorded."""

    def __init__(self, venv: VectorEnv[Any, Any, Any]) -> None:
        """Take a `VectorEnv` of one world.

        Raises:
            ValueError: It holds more than one, or resets within the step, which hides the last picture.
        """
        name = type(venv).__name__
        if venv.num_envs != 1:
            raise ValueError(f"{name} holds {venv.num_envs} worlds: make it with count 1 to record it.")
        if autoreset_mode(venv, name) is AutoresetMode.SAME_STEP:
            raise ValueError(f"{name} resets within the step, so its last picture is never shown: use another mode.")
        self.venv = venv
        self.metadata, self.render_mode = venv.metadata, venv.render_mode
        self.spec = venv.spec or EnvSpec(name, max_episode_steps=getattr(venv, "max_episode_steps", None))
        self.observation_space = venv.single_observation_space
        self.action_space = venv.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.venv.reset(seed=seed, options=options)
        return _first(observation), self._info(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Play one action."""
        observation, reward, terminated, truncated, info = self.venv.step(np.asarray(action)[None])
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), self._info(info)

    def render(self) -> Any:
        """Return the world's picture."""
        pictures: Any = self.venv.render()
        return pictures[0]

    def close(self) -> None:
        """Close the world."""
        self.venv.close()

    def _info(self, info: dict[str, Any]) -> dict[str, Any]:
        said = verdict(info, 1, torch.device("cpu"))
        return {"success": bool(said[0][0])} if said is not None and said[1][0] else {}


def _first(observation: Any) -> Any:
    """Return the first world's part of a vectorised observation."""
    if isinstance(observation, dict):
        return {key: _first(part) for key, part in observation.items()}
    return observation[0]
