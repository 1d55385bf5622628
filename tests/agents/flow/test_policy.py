"""The deployed policy: the ODE, its chunk and its bounds."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from palaestra.agents.flow.network import StateNetwork
from palaestra.agents.flow.policy import FlowPolicy, state_policy
from palaestra.envs.core import Observation, WorldSpec


def spec(action: gymnasium.Space | None = None, state: int | None = 5, chunk: int = 2) -> WorldSpec:
    box = spaces.Box(np.array([-1.0, -0.5], np.float32), np.array([1.0, 0.25], np.float32))
    return WorldSpec("toy/test-v0", box if action is None else action, state=state, chunk=chunk)


def fresh_policy(chunk: int = 2, steps: int = 4) -> FlowPolicy:
    torch.manual_seed(0)
    return state_policy(spec(chunk=chunk), horizon=3, steps=steps, hidden=32, layers=2)


VIEW = Observation(state=torch.linspace(-1, 1, 20).reshape(4, 5))


def act(policy: FlowPolicy, seed: int = 7) -> torch.Tensor:
    torch.manual_seed(seed)
    action = policy.act(VIEW).action
    assert isinstance(action, torch.Tensor)
    return action


def test_act_is_euler_integration() -> None:
    """The action is K Euler steps x - v/K from the drawn noise at t = 1, 3/4, 1/2, 1/4, scaled back and clipped."""
    policy = fresh_policy()
    policy.scale.fit(torch.tensor([[-0.3, 0.0], [0.5, 0.2]]))
    torch.manual_seed(7)
    x = torch.randn(4, 3, 2)
    context = policy.network.observe(VIEW)
    with torch.no_grad():
        for t in (1.0, 0.75, 0.5, 0.25):
            x = x - policy.network.field(context, x, torch.full((4,), t)).velocity / 4
    low, high = torch.tensor([-1.0, -0.5]), torch.tensor([1.0, 0.25])
    expected = (x[:, :2] * policy.scale.std + policy.scale.mean).clamp(low, high)
    assert torch.equal(act(policy), expected)


def test_act_plays_the_first_of_the_horizon() -> None:
    """Chunks of 1, 2 and 3 of a horizon of 3 start with the same actions."""
    actions = [act(fresh_policy(chunk)) for chunk in (1, 2, 3)]
    assert [tuple(action.shape) for action in actions] == [(4, 1, 2), (4, 2, 2), (4, 3, 2)]
    assert torch.equal(actions[2][:, :2], actions[1]) and torch.equal(actions[1][:, :1], actions[0])


def test_actions_stay_in_the_box() -> None:
    """Whatever the network says, an action is in its bounds, each entry in its own."""
    policy = fresh_policy()
    actions = policy.to_actions(1e6 * torch.tensor([-1.0, 1.0])[:, None, None].expand(2, 3, 2))
    assert actions[0, 0].tolist() == [-1.0, -0.5]
    assert actions[1, 0].tolist() == [1.0, 0.25]


def test_evaluation_ignores_exploration() -> None:
    """Check 24: the deployed action depends neither on the noise head's weights nor on its bounds."""
    policy = fresh_policy()
    before = act(policy)
    assert isinstance(policy.network, StateNetwork)
    for parameter in policy.network.noise.parameters():
        torch.nn.init.normal_(parameter, std=100)
    policy.network.noise.bounds = (1.0, 2.0)
    assert torch.equal(act(policy), before)
    with torch.no_grad():
        policy.network.leave.bias += 0.1
    assert not torch.equal(act(policy), before)


def test_evaluation_depends_on_its_own_seed_only() -> None:
    """Check 24: the same seed gives the same actions whatever was drawn before; another seed gives others."""
    policy = fresh_policy()
    first = act(policy)
    torch.randn(1000)
    assert torch.equal(act(policy), first)
    assert not torch.equal(act(policy, seed=8), first)


def test_acting_keeps_no_graph_and_no_trace() -> None:
    """Deployment records nothing: no gradient graph, no trace."""
    decision = fresh_policy().act(VIEW)
    assert isinstance(decision.action, torch.Tensor)
    assert not decision.action.requires_grad and decision.action.dtype == torch.float32
    assert not decision.trace


def test_a_checkpoint_carries_all_that_acting_needs() -> None:
    """Weights, statistics and bounds travel in the state dict: another policy that loads it acts the same."""
    policy = fresh_policy()
    policy.scale.fit(torch.tensor([[-0.3, 0.0], [0.5, 0.2]]))
    assert isinstance(policy.network, StateNetwork)
    policy.network.normaliser.fit(torch.randn(50, 5))
    torch.manual_seed(99)
    other = state_policy(
        WorldSpec("other", spaces.Box(-9, 9, (2,)), state=5, chunk=2), horizon=3, steps=4, hidden=32, layers=2
    )
    assert not torch.equal(act(other), act(policy))
    other.load_state_dict(policy.state_dict())
    assert torch.equal(act(other), act(policy))


@pytest.mark.parametrize("chunk", [0, 4])
def test_chunk_must_fit_the_horizon(chunk: int) -> None:
    """Bad input: a chunk that the network does not predict, with the valid ones."""
    with pytest.raises(ValueError, match=rf"chunk is {chunk}; .* take 1 to 3"):
        fresh_policy(chunk)


def test_steps_must_be_positive() -> None:
    """Bad input: a denoising of no transitions."""
    with pytest.raises(ValueError, match="at least 1 transition"):
        fresh_policy(steps=0)


def test_worlds_must_show_a_state() -> None:
    """Bad input: worlds without a state vector are named."""
    with pytest.raises(ValueError, match="toy/test-v0 shows no state"):
        state_policy(spec(state=None), horizon=3)


@pytest.mark.parametrize("action", [spaces.Discrete(3), spaces.Box(-1, 1, (2, 2)), spaces.Text(8)])
def test_worlds_must_take_a_flat_box(action: gymnasium.Space) -> None:
    """Bad input: actions that a flow cannot make, named with what is needed."""
    with pytest.raises(ValueError, match="one-dimensional Box"):
        state_policy(spec(action), horizon=3)
