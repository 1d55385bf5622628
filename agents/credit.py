"""From a rollout and its values to advantages: which decision, or which action of it, earned what."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from palaestra.agents.advantages import gae, group_advantage
from palaestra.agents.core import Rollout

Credit = Literal["chunk", "action"]


def next_values(rollout: Rollout, value: Tensor, last: Tensor, final: Tensor | None) -> Tensor:
    """Return the value of what followed each slot, [T, B].

    Args:
        rollout: The decisions.
        value: [T, B], the value of what each decision saw.
        last: [B], the value of the view after each row's last slot.
        final: [E], the values of `rollout.final`, in its order.
    """
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    rows = torch.arange(len(last), device=value.device)
    following[rollout.filled.clamp(min=1) - 1, rows] = last
    if final is not None:
        following[rollout.ended] = final
    return following


def generalised(
    rollout: Rollout,
    value: Tensor,
    last: Tensor,
    final: Tensor | None,
    discount: float,
    decay: float,
    credit: Credit,
) -> tuple[Tensor, Tensor]:
    """Return advantages and value targets, [T, B, V]: V = 1 for chunks, C for actions.

    Args:
        rollout: The decisions.
        value: [T, B, V], of what each decision saw (credit=action: of the state before each of its actions).
        last: [B, V], of the view after each row's last slot.
        final: [E, V], of the last views of the slots that ended.
        discount: γ, a decision or an action.
        decay: λ.
        credit: Whether a reward belongs to its chunk or to its action.
    """
    following = next_values(rollout, value[..., 0], last[..., 0], None if final is None else final[..., 0])
    if credit == "chunk":
        advantage, target = gae(
            rollout.reward,
            value[..., 0],
            following,
            rollout.terminated,
            rollout.truncated,
            rollout.mask,
            discount,
            decay,
        )
        return advantage[..., None], target[..., None]
    decisions, count, chunk = rollout.rewards.shape
    action = torch.arange(chunk, device=value.device)
    at_last = action == (rollout.played[..., None] - 1).clamp(min=0)
    # V of the state after action j is V of the state before action j + 1; after the last one played, of what followed.
    after = torch.cat([value[..., 1:], value[..., :1]], -1)
    after = torch.where(at_last, following[..., None], after)
    played = (action < rollout.played[..., None]) & rollout.mask[..., None]

    def flat(tensor: Tensor) -> Tensor:
        return tensor.movedim(2, 1).reshape(decisions * chunk, count)

    # An unplayed tail must not cut the carry from the next decision, so time runs over played actions only:
    # unplayed ones come after an end, where the carry is cut anyway, or belong to a masked slot.
    advantage, target = gae(
        flat(rollout.rewards),
        flat(value),
        flat(after),
        flat(rollout.terminated[..., None] & at_last),
        flat(rollout.truncated[..., None] & at_last),
        flat(played),
        discount,
        decay,
    )
    shape = (decisions, chunk, count)
    return advantage.reshape(shape).movedim(1, 2), target.reshape(shape).movedim(1, 2)


def grouped(rollout: Rollout, group: int, keep: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """Return GRPO's advantage of each slot and which slots to learn from, each [T, B].

    The score of a row is the reward of its one episode; every slot of the row gets its advantage. A row whose world
    broke, and the group it would have distorted, are left out.
    """
    known = rollout.mask
    score = (rollout.reward * known).sum(0)
    slots = torch.arange(len(known), device=known.device)[:, None]
    broken = ((slots < rollout.filled) & ~known).any(0)
    sound = ~broken.reshape(-1, group).any(1).repeat_interleave(group)
    advantage, kept = group_advantage(score, group, keep)
    return advantage.expand_as(known) * known, (kept & sound).expand_as(known) & known
