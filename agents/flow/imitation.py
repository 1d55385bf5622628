"""Supervised fine-tuning of a policy on demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from palaestra.envs.core import Observation
from palaestra.envs.episode import Episode


@dataclass(frozen=True)
class ImitationConfig:
    """Gradient steps on chunks of demonstrated actions."""

    steps: int = 2000
    """Gradient steps."""
    batch: int = 128
    """Chunks a gradient step."""
    learning_rate: float = 1e-3
    """Adam's step size at the start; it falls to zero along a cosine."""
    reuse: bool = False
    """Read each demonstrated view once where its reading is not trained (a frozen backbone) and its pictures are not
    changed anew each time (augmentation); holds all that was read in memory."""


class Reader(Protocol):
    """What reads observations for a policy that imitates."""

    horizon: int
    """H, the actions of a chunk."""

    @property
    def settled(self) -> bool:
        """Whether nothing of `observe` is trained."""
        ...

    def observe(self, observation: Observation) -> Any:
        """Return what it makes of N observations; rows can be taken from it."""
        ...


class Imitator(Protocol):
    """A policy that learns from demonstrations, whatever its actions are made of."""

    @property
    def network(self) -> Reader:
        """What reads observations."""
        ...

    def fit(self, observation: Observation, action: Tensor) -> None:
        """Take the statistics of observations [N, …] and actions [M, A]."""
        ...

    def imitation_loss(self, context: Any, action: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of demonstrated chunks [N, H, A] of which [N, H] counts, shape []."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Return the weights."""
        ...


@dataclass(frozen=True, slots=True)
class Windows:
    """Every chunk that the demonstrations hold."""

    observation: Observation
    """[N, …]: what was seen where the chunk starts."""
    action: Tensor
    """[N, H, A]."""
    mask: Tensor
    """[N, H] bool: False past the episode's end."""


def windows(episodes: Sequence[Episode], horizon: int) -> Windows:
    """Cut episodes into one window of `horizon` actions a time step.

    Raises:
        ValueError: There is no episode.
    """
    if not episodes:
        raise ValueError("imitation needs at least one demonstration, got none.")
    views, actions, masks = [], [], []
    for episode in episodes:
        length = len(episode.action)
        index = torch.arange(length)[:, None] + torch.arange(horizon)
        actions.append(episode.action[index.clamp(max=length - 1)])
        masks.append(index < length)
        views.append(
            Observation(
                images={name: picture[:length] for name, picture in episode.images.items()},
                state=None if episode.state is None else episode.state[:length],
                text=(episode.text,) * length if episode.text else (),
            )
        )
    return Windows(Observation.concatenate(views), torch.cat(actions), torch.cat(masks))


def imitate(
    policy: Imitator,
    episodes: Sequence[Episode],
    config: ImitationConfig,
    augment: Callable[[Observation], Observation] | None = None,
) -> Iterator[dict[str, float]]:
    """Fit the policy to demonstrations, its normalisers first; yield metrics every hundredth of the way.

    Args:
        policy: Trained in place.
        episodes: The demonstrations.
        config: How.
        augment: Changes the views of each gradient step.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    data, device = windows(episodes, policy.network.horizon), next(policy.parameters()).device
    policy.fit(data.observation, data.action[data.mask])
    with torch.no_grad():
        once = config.reuse and policy.network.settled and augment is None
        read = policy.network.observe(data.observation.to(device)) if once else None
    optimiser = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for step in range(config.steps):
        index = torch.randint(len(data.action), (min(config.batch, len(data.action)),))
        if read is None:
            seen = data.observation[index].to(device)
            context = policy.network.observe(seen if augment is None else augment(seen))
        else:
            context = read[index.to(device)]
        loss = policy.imitation_loss(context, data.action[index].to(device), data.mask[index].to(device))
        optimiser.zero_grad()
        loss.backward()
        gradient = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % max(1, config.steps // 100) == 0:
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the imitation loss is {loss.item()} at step {step}: lower learning_rate.")
            yield {"step": step + 1, "train/imitation_loss": loss.item(), "train/gradient_norm": gradient.item()}
