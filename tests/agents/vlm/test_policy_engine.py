"""A trained policy behind the batcher."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from palaestra.agents.core import Decision
from palaestra.agents.flow.policy import state_policy
from palaestra.agents.vlm.batcher import Batcher
from palaestra.agents.vlm.core import Act, Action, Ask, AskError, Embed, WeightsError
from palaestra.agents.vlm.engines.policy import PolicyEngine, weights_version
from palaestra.envs.core import Observation, WorldSpec

BOX = spaces.Box(-np.ones(2, np.float32), np.ones(2, np.float32))
SPEC = WorldSpec("toy/test-v0", BOX, state=3, chunk=2)
SEEING = WorldSpec("toy/test-v0", BOX, images={"front": (4, 5, 3)}, text=True)


class Doubling(nn.Module):
    """Acts with twice the state, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.calls = 0

    def act(self, observation: Observation) -> Decision:
        self.calls += 1
        assert observation.state is not None
        return Decision((self.gain * observation.state).unsqueeze(1))


class Talking:
    """Acts with text."""

    def act(self, observation: Observation) -> Decision:
        return Decision([line.upper() for line in observation.text])


def view(*state: float) -> Act:
    return Act(Observation(state=torch.tensor([state], dtype=torch.float32)))


def seen(text: tuple[str, ...] = ("go",), shape: tuple[int, ...] = (1, 4, 5, 3), name: str = "front") -> Act:
    return Act(Observation(images={name: torch.zeros(shape, dtype=torch.uint8)}, text=text))


def test_worlds_are_decided_for_in_one_pass() -> None:
    policy = Doubling()
    answers = PolicyEngine(policy, SPEC, "v1").answer([view(1, 2, 3), view(4, 5, 6)])
    actions = torch.stack([a.action for a in answers if isinstance(a, Action) and isinstance(a.action, torch.Tensor)])
    assert torch.equal(actions, torch.tensor([[[2.0, 4, 6]], [[8.0, 10, 12]]])) and policy.calls == 1


def test_a_served_policy_decides_as_it_does_alone() -> None:
    """The first of a batch of one draws the same noise as the bare policy does."""
    torch.manual_seed(0)
    policy = state_policy(SPEC, horizon=3, hidden=16, layers=1)
    torch.manual_seed(5)
    bare = policy.act(view(1, 2, 3).observation).action
    assert isinstance(bare, torch.Tensor)
    torch.manual_seed(5)
    (served,) = PolicyEngine(policy, SPEC, "v1").answer([view(1, 2, 3)])
    assert isinstance(served, Action) and torch.equal(served.action, bare[0]) and served.action.shape == (2, 2)


def test_actions_can_be_trained_with() -> None:
    """They are no inference tensors, which autograd would refuse."""
    (answer,) = PolicyEngine(Doubling(), SPEC, "v1").answer([view(1, 2, 3)])
    assert isinstance(answer, Action)
    weight = torch.ones(3, requires_grad=True)
    (answer.action * weight).sum().backward()
    assert torch.equal(weight.grad, torch.tensor([2.0, 4, 6]))


def test_text_actions() -> None:
    engine = PolicyEngine(Talking(), SEEING, "v1")
    engine.check(seen())
    assert [a.action for a in engine.answer([seen(("go",)), seen(("stop",))])] == ["GO", "STOP"]


def test_an_action_that_is_not_finite_fails_alone() -> None:
    policy = Doubling()
    answers = PolicyEngine(policy, SPEC, "v1").answer([view(1, 2, 3), view(3e38, 0, 0)])
    assert isinstance(answers[0], Action) and isinstance(answers[1], FloatingPointError) and policy.calls == 1


@pytest.mark.parametrize(
    ("spec", "ask", "message"),
    [
        (SPEC, Embed("a"), "cannot answer Embed"),
        (SPEC, view(1, 2), r"state: torch.float32 \[1, 3\], got torch.float32 \[1, 2\]"),
        (SPEC, Act(Observation(state=torch.zeros(2, 3))), r"got torch.float32 \[2, 3\]"),
        (SPEC, Act(Observation(state=torch.zeros(1, 3, dtype=torch.float64))), "got torch.float64"),
        (SPEC, Act(Observation()), "got none"),
        (SPEC, view(1, float("nan"), float("inf")), r"not finite, at \[1, 2\] of 3"),
        (SPEC, Act(Observation(state=torch.zeros(1, 3), text=("a",))), "expects 0 texts a world, got 1"),
        (SEEING, seen(name="rear"), r"image 'front': torch.uint8 \[1, 4, 5, 3\], got none"),
        (SEEING, seen(shape=(1, 5, 4, 3)), r"got torch.uint8 \[1, 5, 4, 3\]"),
        (SEEING, seen(text=()), "expects 1 texts a world, got 0"),
        (SEEING, Act(Observation(state=torch.zeros(1, 1), images=seen().observation.images, text=("a",))), "none, got"),
    ],
)
def test_observations_of_other_worlds_are_refused(spec: WorldSpec, ask: Ask, message: str) -> None:
    with pytest.raises(AskError, match=message):
        PolicyEngine(Doubling(), spec, "v1").check(ask)


def test_twins_are_not_merged() -> None:
    """Two worlds in the same state are decided for apart: a policy may draw its actions."""
    torch.manual_seed(0)
    policy = state_policy(SPEC, horizon=3, hidden=16, layers=1)
    with Batcher(PolicyEngine(policy, SPEC, "v1"), max_wait=0.2, max_batch=2) as batcher:
        futures = [batcher.ask_nowait(view(1, 2, 3)) for _ in range(2)]
        left, right = [future.result(5).answer for future in futures]
        assert batcher.metrics().batches == 1
    assert isinstance(left, Action) and isinstance(right, Action) and not torch.equal(left.action, right.action)


def reload_to(gain: float) -> Callable[[Path], Doubling]:
    def reload(path: Path) -> Doubling:
        if not path.name.startswith("good"):
            raise RuntimeError("gain is missing")
        policy = Doubling()
        nn.init.constant_(policy.gain, gain)
        return policy

    return reload


def test_other_weights_take_over_and_bad_ones_do_not() -> None:
    with Batcher(PolicyEngine(Doubling(), SPEC, "v1", reload_to(3.0))) as batcher:
        version = batcher.load(Path("good"))
        reply = batcher.ask(view(1, 2, 3))
        assert isinstance(reply.answer, Action) and reply.version == version == batcher.version != "v1"
        assert torch.equal(reply.answer.action, torch.tensor([[3.0, 6, 9]]))
        with pytest.raises(WeightsError, match="bad does not fit the policy of toy/test-v0: gain is missing"):
            batcher.load(Path("bad"))
        assert batcher.ask(view(1, 2, 3)).version == version
    with pytest.raises(WeightsError, match="no way to load"):
        PolicyEngine(Doubling(), SPEC, "v1").load(Path("good"))


def test_a_version_is_of_the_weights() -> None:
    one, same, other = Doubling(), Doubling(), Doubling()
    nn.init.constant_(other.gain, 2.5)
    assert weights_version(one, "x") == weights_version(same, "x") != weights_version(other, "x")
    assert weights_version(Talking(), "x") == "x"
