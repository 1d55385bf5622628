"""Supervised fine-tuning of a flow policy on demonstrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palaestra.agents.flow.network import C, FlowNetwork
from palaestra.agents.flow.policy import FlowPolicy
from palaestra.envs.core import Observation
from palaestra.envs.episode import Episode


@dataclass(frozen=True)
class ImitationConfig:
    """Flow matching on chunks of demonstrated actions."""

    steps: int = 2000
    """Gradient steps."""
    batch: int = 128
    """Chunks a gradient step."""
    learning_rate: float = 1e-3
    """Adam's step size at the start; it falls to zero along a cosine."""


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


def flow_time(count: int, device: torch.device | None = None) -> Tensor:
    """Draw training times: Beta(1.5, 1) scaled to (0.001, 1), more mass near the noise (π0, openpi)."""
    # Beta(a, 1) is U^(1/a): one uniform number, reproducible from torch's generator.
    return torch.rand(count, device=device) ** (1 / 1.5) * 0.999 + 0.001


def flow_matching_loss(
    network: FlowNetwork[C], context: C, action: Tensor, mask: Tensor, noise: Tensor, t: Tensor
) -> Tensor:
    """Return the mean of |v(x_t, t) - (ε - A)|² over demonstrated entries, shape [] (Lipman et al. 2023; π0 eq. 1).

    Args:
        network: Predicts the velocity.
        context: What the network made of the N observations.
        action: [N, H, D], normalised and padded.
        mask: [N, H] bool.
        noise: [N, H, D], ε.
        t: [N].
    """
    time = t[:, None, None]
    velocity = network.field(context, time * noise + (1 - time) * action, t).velocity
    error = ((velocity - (noise - action)) ** 2).mean(-1)
    return (error * mask).sum() / mask.sum()


def imitate(policy: FlowPolicy, episodes: Sequence[Episode], config: ImitationConfig) -> Iterator[dict[str, float]]:
    """Fit the policy to demonstrations, its normalisers first; yield metrics every hundredth of the way.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    data = windows(episodes, policy.network.horizon)
    if data.observation.state is not None and hasattr(policy.network, "normaliser"):
        policy.network.normaliser.fit(data.observation.state)
    policy.scale.fit(data.action[data.mask])
    action = policy.from_actions(data.action)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for step in range(config.steps):
        index = torch.randint(len(action), (min(config.batch, len(action)),))
        context = policy.network.observe(data.observation[index])
        noise, t = torch.randn_like(action[index]), flow_time(len(index))
        loss = flow_matching_loss(policy.network, context, action[index], data.mask[index], noise, t)
        optimiser.zero_grad()
        loss.backward()
        gradient = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % max(1, config.steps // 100) == 0:
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the imitation loss is {loss.item()} at step {step}: lower learning_rate.")
            yield {"step": step + 1, "train/imitation_loss": loss.item(), "train/gradient_norm": gradient.item()}
