"""Networks: shapes, bounds, and laws."""

from __future__ import annotations

import pytest
import torch
from gymnasium import spaces

from palaestra.agents.found_rl.networks import Actor, Critics, Encoder, follow, shifted
from palaestra.agents.found_rl.policy import DrivingPolicy
from palaestra.envs.core import Observation, WorldSpec

BOX = spaces.Box(-1, 1, (2,))
BOTH = WorldSpec(id="test", action=BOX, state=5, images={"bev": (32, 32, 15)}, chunk=3)


def seen(count: int = 4) -> Observation:
    return Observation({"bev": torch.randint(0, 256, (count, 32, 32, 15), dtype=torch.uint8)}, torch.randn(count, 5))


def test_pictures_and_states_become_features() -> None:
    encoder = Encoder(BOTH)
    observation = seen()
    features = encoder(observation)
    assert features.shape == (4, encoder.width) and encoder.width == 5 + 64
    assert features[:, 5:].abs().max() <= 1
    other = Observation({"bev": observation.images["bev"].flip(0)}, observation.state)
    torch.testing.assert_close(encoder(other)[:, 5:], features[:, 5:].flip(0))


def test_an_untrained_policy_does_next_to_nothing_and_holds_it() -> None:
    action = DrivingPolicy(BOTH, 32).act(seen()).action
    assert isinstance(action, torch.Tensor)
    assert action.shape == (4, 3, 2)
    assert action.abs().max() < 0.05
    assert torch.equal(action[:, 0], action[:, 2])


@pytest.mark.parametrize("action", [spaces.Discrete(3), spaces.Box(0, 1, (2,)), spaces.Box(-1, 2, (2,))])
def test_other_actions_are_refused(action: spaces.Space[object]) -> None:
    with pytest.raises(ValueError, match="Box of numbers"):
        DrivingPolicy(WorldSpec(id="test", action=action, state=5), 32)  # type: ignore[arg-type]


def test_worlds_that_show_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="neither a state"):
        Encoder(WorldSpec(id="test", action=BOX))


def test_critics_of_an_ensemble_do_not_see_each_other() -> None:
    critics = Critics(6, 2, 16)
    features, action = torch.randn(5, 6), torch.randn(5, 2)
    values = critics(features, action)
    assert values.shape == (2, 5)
    values[0].sum().backward()
    for weight in critics.weights:
        assert weight.grad is not None
        assert bool((weight.grad[0] != 0).any()) and not bool((weight.grad[1] != 0).any())


def test_an_actors_standard_deviation_keeps_its_bounds() -> None:
    actor = Actor(6, 2, 16)
    _, log_std = actor(1e6 * torch.randn(50, 6))
    assert log_std.min() >= -5 and log_std.max() <= 1


def test_a_shift_moves_a_picture_as_a_whole_and_by_no_more_than_the_pad() -> None:
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    picture = torch.stack((rows, columns), 2).to(torch.uint8).expand(32, -1, -1, -1)
    moved = shifted(picture, 3).int()
    middle = moved[:, 8, 8] - torch.tensor([8, 8])
    assert middle.abs().max() == 3 and middle.min() == -3
    expected = torch.stack((rows, columns), 2) + middle[:, None, None]
    assert torch.equal(moved, expected.clamp(0, 15).int())
    assert torch.equal(shifted(picture, 0), picture)


def test_a_target_follows_by_its_rate() -> None:
    source, target = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    with torch.no_grad():
        source.weight.fill_(1.0)
        target.weight.fill_(0.0)
    follow(target, source, 0.25)
    follow(target, source, 0.25)
    assert target.weight.item() == pytest.approx(1 - 0.75**2)
