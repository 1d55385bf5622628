"""From rollouts to advantages: true last views, single actions, groups."""

from __future__ import annotations

import torch
from torch import Tensor

from palaestra.agents.core import Rollout
from palaestra.agents.credit import generalised, grouped, next_values
from palaestra.envs.core import Observation


def rollout_of(rewards: Tensor, played: Tensor, terminated: Tensor, truncated: Tensor, mask: Tensor) -> Rollout:
    decisions, count, _ = rewards.shape
    empty = Observation(state=torch.zeros(count, 1))
    return Rollout(
        observation=Observation(state=torch.zeros(decisions, count, 1)),
        action=torch.zeros(decisions, count, rewards.shape[2], 1),
        trace={},
        rewards=rewards,
        played=played,
        terminated=terminated,
        truncated=truncated,
        success_once=terminated,
        mask=mask,
        filled=torch.full((count,), decisions),
        final=None,
        last=empty,
    )


def test_what_follows_an_end_is_its_last_view() -> None:
    rewards = torch.zeros(3, 1, 1)
    ended = torch.tensor([[False], [True], [False]])
    rollout = rollout_of(
        rewards, torch.ones(3, 1, dtype=torch.int64), torch.zeros_like(ended), ended, ~torch.zeros_like(ended)
    )
    value = torch.tensor([[1.0], [2.0], [3.0]])
    following = next_values(rollout, value, torch.tensor([9.0]), torch.tensor([7.0]))
    # slot 0 is followed by slot 1; slot 1 by its episode's last view; slot 2 by the view after the rollout.
    assert following.flatten().tolist() == [2.0, 7.0, 9.0]


def test_rows_that_filled_fewer_slots_bootstrap_where_they_stopped() -> None:
    no = torch.zeros(3, 2, dtype=torch.bool)
    rollout = rollout_of(torch.zeros(3, 2, 1), torch.ones(3, 2, dtype=torch.int64), no, no, ~no)
    object.__setattr__(rollout, "filled", torch.tensor([3, 1]))
    value = torch.tensor([[1.0, 4.0], [2.0, 0.0], [3.0, 0.0]])
    following = next_values(rollout, value, torch.tensor([9.0, 8.0]), None)
    assert following[:, 0].tolist() == [2.0, 3.0, 9.0]
    assert following[0, 1] == 8.0


def test_chunk_of_one_gives_the_same_for_both_credits() -> None:
    torch.manual_seed(0)
    ended = torch.rand(6, 4) < 0.3
    terminated = ended & (torch.rand(6, 4) < 0.5)
    rollout = rollout_of(
        torch.randn(6, 4, 1),
        torch.ones(6, 4, dtype=torch.int64),
        terminated,
        ended & ~terminated,
        torch.rand(6, 4) < 0.9,
    )
    value, last = torch.randn(6, 4, 1), torch.randn(4, 1)
    final = torch.randn(int(ended.sum()), 1)
    chunk = generalised(rollout, value, last, final, 0.9, 0.8, "chunk")
    action = generalised(rollout, value, last, final, 0.9, 0.8, "action")
    torch.testing.assert_close(chunk, action)


def test_credit_of_single_actions_by_hand() -> None:
    """Two decisions of two actions, λ = 1, γ = 1/2; the second decision ends after its first action, by the task."""
    rewards = torch.tensor([[[1.0, 2.0]], [[4.0, 0.0]]])
    no = torch.zeros(2, 1, dtype=torch.bool)
    rollout = rollout_of(rewards, torch.tensor([[2], [1]]), torch.tensor([[False], [True]]), no, ~no)
    value = torch.tensor([[[0.5, 0.25]], [[1.0, 77.0]]])  # 77 belongs to an action that was never played
    advantage, target = generalised(
        rollout, value, torch.tensor([[5.0, 5.0]]), torch.tensor([[6.0, 6.0]]), 0.5, 1.0, "action"
    )
    # With λ = 1 the target is the discounted return: 4; 2 + 4/2 = 4; 1 + 4/2 = 3.
    assert target[1, 0, 0] == 4.0
    assert target[0, 0].tolist() == [3.0, 4.0]
    assert advantage[0, 0].tolist() == [2.5, 3.75]
    assert advantage[1, 0].tolist() == [3.0, 0.0]


def test_groups_leave_out_what_broke() -> None:
    no = torch.zeros(2, 4, dtype=torch.bool)
    mask = ~no
    mask[1, 3] = False  # a world of the second group broke
    rewards = torch.tensor([[[0.0], [0.0], [1.0], [0.0]], [[1.0], [0.0], [0.0], [0.0]]])
    advantage, kept = grouped(rollout_of(rewards, torch.ones(2, 4, dtype=torch.int64), no, no, mask), 2, (0.1, 0.9))
    # Scores of the first group are 1 and 0: mean ½, standard deviation ½.
    torch.testing.assert_close(advantage[:, :2], torch.tensor([[1.0, -1.0], [1.0, -1.0]]), atol=1e-5, rtol=0)
    assert kept[:, :2].all() and not kept[:, 2:].any()
