"""How well a picture goes with what was done: Conditional Contrastive Action Alignment (Found-RL's CLIP bonus).

There are 720 captions: 6 commands x 4 bins of speed x 30 behaviours. Command and speed are known, so that only the 30
behaviours of that context are contrasted. A behaviour's neighbours ("braking" beside "braking hard") are no negatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from palaestra.agents.found_rl.advice import Gives, Teacher
from palaestra.agents.vlm.core import Answer, Ask, Embed, Picture, Vector
from palaestra.envs.driving.describe import (
    COMMANDS,
    LATERAL,
    LONGITUDINAL,
    SPEEDS,
    action_bin,
    captions,
    speed_bin,
)
from palaestra.envs.driving.tables import OfRoute

if TYPE_CHECKING:
    from collections.abc import Callable

    from palaestra.agents.vlm.client import Client
    from palaestra.envs.driving.world import DrivingEnv

BEHAVIOURS = len(LONGITUDINAL) * len(LATERAL)
CONTEXTS = len(COMMANDS) * len(SPEEDS)
SIMILAR = (
    ("braking hard", "braking"),
    ("accelerating fast", "accelerating"),
    ("accelerating", "accelerating gently"),
    ("turning right", "turning right sharply"),
    ("turning left", "turning left sharply"),
)
"""Neighbours. Idling and going straight have none."""
LOGIT_SCALE = math.log(100.0)
"""What CLIP's temperature ends at."""


def neighbours() -> Tensor:
    """Return which of the 30 behaviours are no negatives of which, [30, 30] bool: itself and its neighbours.

    (lon, lat) has the neighbours lon x similar lat and similar lon x lat, and those that are similar in both.
    """

    def near(names: Sequence[str]) -> Tensor:
        pairs = SIMILAR + tuple((b, a) for a, b in SIMILAR)
        return torch.tensor([[a == b or (a, b) in pairs for b in names] for a in names])

    return torch.kron(near(LONGITUDINAL).int(), near(LATERAL).int()).bool()


def alignment(similarity: Tensor, taken: Tensor, near: Tensor) -> Tensor:
    """Return max(0, p_j - max over k not near j of p_k), [N] in [0, 1], with p the softmax over behaviours.

    Args:
        similarity: [N, 30]: logits of a picture with the behaviours of its context.
        taken: [N] int64: j.
        near: [30, 30] bool, from `neighbours`.
    """
    share = similarity.softmax(1)
    other = share.masked_fill(near[taken], -torch.inf).amax(1)
    return (share.gather(1, taken[:, None])[:, 0] - other).clamp(min=0)


class RunningScale:
    """Mean and variance of all numbers so far, in the order in which they came; each counts before it is scaled."""

    def __init__(self) -> None:
        self.count, self.mean, self.variance = 1e-4, 0.0, 1.0

    def __call__(self, value: float) -> float:
        """Take a number and return it standardised."""
        total = self.count + 1
        apart = value - self.mean
        square = self.variance * self.count + apart**2 * self.count / total
        self.mean += apart / total
        self.count, self.variance = total, square / total
        return (value - self.mean) / math.sqrt(self.variance + 1e-8)

    def state_dict(self) -> dict[str, Tensor]:
        """Return count, mean and variance, exactly."""
        numbers = {"count": self.count, "mean": self.mean, "variance": self.variance}
        return {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore them."""
        self.count, self.mean, self.variance = (float(state[name]) for name in ("count", "mean", "variance"))


def embed_anchors(client: Client, model: str) -> Tensor:
    """Return the captions' vectors, [6, 4, 30, D] float32 of length 1, asked for once.

    Raises:
        ValueError: The model answers something else than vectors of one width.
    """
    futures = [client.ask_nowait(model, Embed(caption), wait=True) for caption in captions()]
    answers = [future.result().answer for future in futures]
    vectors = [answer.values for answer in answers if isinstance(answer, Vector)]
    if len(vectors) < len(answers) or len({len(vector) for vector in vectors}) != 1:
        raise ValueError(f"{model} does not answer captions with vectors of one width: the bonus needs a CLIP model.")
    return torch.stack(vectors).view(len(COMMANDS), len(SPEEDS), BEHAVIOURS, -1)


class AlignmentTeacher(Teacher):
    """Gives a bonus in [-0.25, 0.25] for the action taken, by what a CLIP model makes of the picture before it."""

    gives: Gives = "bonus"

    def __init__(
        self,
        env: DrivingEnv,
        model: str,
        anchors: Tensor,
        picture: Callable[[Tensor], Tensor],
        logit_scale: float = LOGIT_SCALE,
        most: float = 0.25,
        prior: Tensor | None = None,
    ) -> None:
        """Score what is done in some worlds.

        Args:
            env: The worlds, of which command and speed are read.
            model: Its name on the client.
            anchors: [6, 4, 30, D], from `embed_anchors`.
            picture: Draws some worlds ([N] rows), uint8 [N, H, W, 3].
            logit_scale: Logarithm of the factor on cosines.
            most: The largest bonus.
            prior: [6, 4, 30]: log-frequencies of behaviours, added to the logits: a model trained on pairs of picture
                and caption scores likelihood ratios, which favour what is rare. None for the released form.
        """
        self.env, self.model, self.anchors, self.picture = env, model, anchors, picture
        self.factor, self.most, self.prior = math.exp(logit_scale), most, prior
        self.scale = RunningScale()
        self._near = neighbours()

    def asks(self, rows: Tensor, action: Tensor) -> list[tuple[Ask, Tensor]]:
        """Return a picture a world, to be embedded, with command, speed and behaviour."""
        env, rows = self.env, rows.to(self.env.device)
        route = env.state.clocks.route[rows] * env.tables.most + env.state.ego.pointer[rows]
        command = env.tables.routes[route, OfRoute.COMMAND].long()
        speed = speed_bin(env.state.vehicles.speed[rows, 0])
        notes = torch.stack((command, speed, action_bin(action.to(env.device))), 1).cpu()
        return [(Embed(Picture(pixels)), note) for pixels, note in zip(self.picture(rows).cpu(), notes, strict=True)]

    def read(self, answer: Answer, note: Tensor | None) -> Tensor:
        """Return the bonus, [].

        Raises:
            ValueError: The answer is no vector, or of another width than the captions'.
        """
        if not isinstance(answer, Vector) or note is None:
            raise ValueError(f"a {type(answer).__name__} is no vector of a picture.")
        if len(answer.values) != self.anchors.shape[-1]:
            raise ValueError(
                f"the picture's vector has {len(answer.values)} numbers, the captions' have {self.anchors.shape[-1]}: "
                "they are of different models."
            )
        command, speed, taken = note.tolist()
        logits = self.factor * (self.anchors[command, speed] @ answer.values)
        if self.prior is not None:
            logits = logits + self.prior[command, speed]
        raw = alignment(logits[None], torch.tensor([taken]), self._near)
        if not bool(torch.isfinite(raw).all()):
            raise ValueError("the picture's vector holds numbers that are not finite.")
        return torch.tensor(self.most * min(max(self.scale(float(raw)), -1.0), 1.0))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the running scale of scores."""
        return self.scale.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore it."""
        self.scale.load_state_dict(state)
