"""Teachers: how a model is asked what to do in a driving world, how its answer is read, and scripted ones for study."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from palaestra.agents.found_rl.advice import Gives, Teacher
from palaestra.agents.found_rl.config import Quality
from palaestra.agents.vlm.core import (
    Act,
    Action,
    Answer,
    Ask,
    AskError,
    Generate,
    Message,
    Picture,
    Text,
    WeightsError,
)
from palaestra.envs.core import Observation

if TYPE_CHECKING:
    from collections.abc import Callable

    from palaestra.envs.driving.world import DrivingEnv

PEDALS = ("throttle", "steer", "brake")
_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FIELD = re.compile(rf'"?({"|".join(PEDALS)})"?\s*[:=]\s*({_NUMBER})(?!\w|\.\d)')


def read_pedals(text: str) -> Tensor:
    """Return the action that a text names, [2] float32: acceleration (throttle, or less the brake) and steer.

    As in Found-RL, the stronger of the two pedals counts, and numbers are clipped to their ranges.

    Raises:
        ValueError: It does not name throttle, steer and brake with a number each, once.
    """
    found = _FIELD.findall(text)
    if sorted(name for name, _ in found) != sorted(PEDALS):
        raise ValueError(f"{text!r} does not name throttle, steer and brake, each once with a number.")
    numbers = {name: float(number) for name, number in found}
    if not all(math.isfinite(number) for number in numbers.values()):
        raise ValueError(f"{text!r} holds a number that is not finite.")
    throttle, brake = (min(max(numbers[name], 0.0), 1.0) for name in ("throttle", "brake"))
    return torch.tensor([throttle if throttle > brake else -brake, min(max(numbers["steer"], -1.0), 1.0)])


def write_pedals(action: Tensor) -> str:
    """Return an action [2] in the words that `read_pedals` reads, with two decimals as Found-RL's data have."""
    acceleration, steer = action.tolist()
    pedals = {"throttle": max(acceleration, 0.0), "steer": steer, "brake": max(-acceleration, 0.0)}
    return json.dumps({name: round(value, 2) + 0.0 for name, value in pedals.items()})


def read_action(answer: Answer) -> Tensor:
    """Return the action [2] that an answer names, as text or as a tensor.

    Raises:
        ValueError: It names none.
    """
    if isinstance(answer, Text):
        return read_pedals(answer.text)
    if not isinstance(answer, Action):
        raise ValueError(f"a {type(answer).__name__} names no action.")
    if isinstance(answer.action, str):
        return read_pedals(answer.action)
    action = answer.action.flatten()
    if len(action) != 2 or not bool(torch.isfinite(action).all()):
        raise ValueError(f"an action is two finite numbers, acceleration and steer; got {action.tolist()}.")
    return action.float().clamp(-1, 1)


class PromptTeacher(Teacher):
    """Asks a vision-language model with Found-RL's prompt, and the picture of the world where there is one."""

    gives: Gives = "action"

    def __init__(
        self, env: DrivingEnv, model: str, picture: Callable[[Tensor], Tensor] | None = None, tokens: int = 32
    ) -> None:
        """Ask about some worlds.

        Args:
            env: Of which the prompts tell.
            model: Its name on the client.
            picture: Draws some worlds ([N] rows), uint8 [N, H, W, 3]; None for prompts without pictures.
            tokens: Of an answer at most.
        """
        self.env, self.model, self.picture, self.tokens = env, model, picture, tokens

    def asks(self, rows: Tensor, action: Tensor) -> list[tuple[Ask, None]]:
        """Return a conversation of one turn a world."""
        from palaestra.envs.driving.describe import describe

        rows = rows.to(self.env.device)
        prompts = describe(self.env.state, self.env.tables, rows)
        if self.picture is None:
            return [(Generate((Message("user", (prompt,)),), self.tokens), None) for prompt in prompts]
        drawn = self.picture(rows).cpu()
        return [
            (Generate((Message("user", (Picture(pixels), prompt)),), self.tokens), None)
            for pixels, prompt in zip(drawn, prompts, strict=True)
        ]

    def read(self, answer: Answer, note: Tensor | None) -> Tensor:
        """Return the action that is named, [2]."""
        return read_action(answer)


class ScriptedTeacher(Teacher):
    """Asks a scripted engine: the ask holds what the expert would do, which the engine then makes worse."""

    gives: Gives = "action"

    def __init__(self, env: DrivingEnv, model: str = "teacher", blind: bool = False) -> None:
        """Ask about some worlds; `blind` experts do not heed signals."""
        self.env, self.model, self.blind = env, model, blind

    def asks(self, rows: Tensor, action: Tensor) -> list[tuple[Ask, None]]:
        """Return an `Act` a world, whose state is the expert's action."""
        from palaestra.envs.driving.expert import expert_action

        advice = expert_action(self.env, signals=not self.blind)[rows.to(self.env.device)].cpu()
        return [(Act(Observation(state=row[None])), None) for row in advice]

    def read(self, answer: Answer, note: Tensor | None) -> Tensor:
        """Return the action that is named, [2]."""
        return read_action(answer)


class ScriptedEngine:
    """Answers a `ScriptedTeacher` in JSON, with an expert's action made worse in a known way.

    oracle and blind: as it is. noisy: with Gaussian error. partial: right in a share of the answers, else at random.
    random: always at random.
    """

    def __init__(
        self, quality: Quality, noise: float = 0.5, right: float = 0.6, seconds: float = 0.0, seed: int = 0
    ) -> None:
        """Make one.

        Args:
            quality: In which way.
            noise: noisy: the error's standard deviation.
            right: partial: the share of right answers.
            seconds: That each batch takes.
            seed: Of the errors.
        """
        self.quality, self.noise, self.seconds = quality, noise, seconds
        self.right = {"partial": right, "random": 0.0}.get(quality, 1.0)
        self.version, self.seed = f"scripted-{quality}", seed

    def check(self, ask: Ask) -> None:
        """Refuse what no `ScriptedTeacher` asks."""
        state = ask.observation.state if isinstance(ask, Act) else None
        if state is None or tuple(state.shape) != (1, 2):
            raise AskError("a scripted teacher answers an Act whose state is the expert's action, [1, 2].")

    def size(self, ask: Ask) -> int:
        """Return 1."""
        return 1

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        """Answer each; the same ask has the same answer, as of a model that does not draw."""
        if self.seconds:
            time.sleep(self.seconds)
        states = [ask.observation.state for ask in asks if isinstance(ask, Act)]
        return [Action(write_pedals(self._worsened(state[0]))) for state in states if state is not None]

    def _worsened(self, action: Tensor) -> Tensor:
        if self.quality in ("oracle", "blind"):
            return action
        digest = hashlib.blake2b(action.numpy().tobytes(), digest_size=7, key=str(self.seed).encode()).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        if self.quality == "noisy":
            return (action + self.noise * torch.randn(2, generator=draw)).clamp(-1, 1)
        wild = 2 * torch.rand(2, generator=draw) - 1
        return action if float(torch.rand((), generator=draw)) < self.right else wild

    def load(self, path: Path) -> ScriptedEngine:
        """Refuse: there are no weights."""
        raise WeightsError(f"a scripted teacher has no weights to load from {path}.")
