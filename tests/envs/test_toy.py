from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from palaestra.envs.toy import GOAL_RADIUS, REST_SPEED, SKIN, ReachEnv, expert_action, frame, way_to_goal

Act = Callable[[Tensor], Tensor]


def state(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float32)


def place(world: ReachEnv, values: tuple[float, ...]) -> None:
    """Put all worlds in one state."""
    world.reset(seed=0)
    world._state = state(*values).expand(world.num_envs, 6).clone()
    world._way = way_to_goal(world._state)


def play(world: ReachEnv, seeds: list[int], act: Act) -> tuple[Tensor, ...]:
    """Play one episode of every world and return (success, steps, return, first way, last way)."""
    observation, _ = world.reset(seed=seeds)
    alive = torch.ones(world.num_envs, dtype=torch.bool)
    won, steps, total = torch.zeros(3, world.num_envs)
    first, last = way_to_goal(observation), way_to_goal(observation)
    for _ in range(32):
        observation, reward, terminated, truncated, info = world.step(act(observation))
        total += reward * alive
        steps += alive
        last = torch.where(alive, way_to_goal(observation), last)
        won += (info["success"] & alive).float()
        assert torch.equal(terminated, info["success"])
        alive &= ~(terminated | truncated)
    assert not alive.any()
    return won, steps, total, first, last


def test_expert_always_succeeds_well_within_the_limit() -> None:
    won, steps, *_ = play(ReachEnv(2000), list(range(2000)), expert_action)
    assert won.mean() == 1
    assert steps.max() <= 24


def test_random_actions_hardly_ever_succeed() -> None:
    torch.manual_seed(0)
    won, *_ = play(ReachEnv(500), list(range(500)), lambda view: torch.rand(500, 2) * 2 - 1)
    assert won.mean() < 0.02


@pytest.mark.parametrize("act", [expert_action, lambda view: torch.full((200, 2), 0.3)])
def test_return_is_the_way_covered_plus_success(act: Act) -> None:
    won, _, total, first, last = play(ReachEnv(200), list(range(200)), act)
    torch.testing.assert_close(total, first - last + won, atol=2e-5, rtol=0)


def test_way_round_the_wall_by_hand() -> None:
    # From (-0.3, 0.1) to (0.3, 0.1) over the tip (0, 0.5): two hypotenuses of 0.3 and 0.4.
    torch.testing.assert_close(way_to_goal(state(-0.3, 0.1, 0, 0, 0.3, 0.1)), torch.tensor([1.0]))
    torch.testing.assert_close(way_to_goal(state(-0.3, -0.1, 0, 0, 0.3, -0.1)), torch.tensor([1.0]))
    # In sight: the straight line, also above the wall.
    torch.testing.assert_close(way_to_goal(state(-0.3, 0.6, 0, 0, 0.3, 0.6)), torch.tensor([0.6]))
    torch.testing.assert_close(way_to_goal(state(0.3, 0, 0, 0, 0.3, 0.4)), torch.tensor([0.4]))


def test_one_free_step_by_hand() -> None:
    world = ReachEnv(1)
    place(world, (-0.5, 0.0, 0.1, 0.0, 0.5, 0.0))
    observation, *_ = world.step(torch.tensor([[0.5, -1.0]]))
    # v = 0.6 · (0.1, 0) + 0.08 · (0.5, -1) = (0.1, -0.08); p = (-0.4, -0.08).
    torch.testing.assert_close(observation, state(-0.4, -0.08, 0.1, -0.08, 0.5, 0.0))


def test_wall_stops_the_fingertip_where_it_was_met() -> None:
    world = ReachEnv(1)
    place(world, (-0.06, 0.1, 0.1, 0.1, 0.5, 0.0))
    observation, reward, *_ = world.step(torch.tensor([[0.75, 0.75]]))
    # v = 0.06 + 0.06 = 0.12 a side: half of the step is before the wall, so y = 0.1 + 0.06.
    torch.testing.assert_close(observation, state(-SKIN, 0.16, 0.0, 0.0, 0.5, 0.0))
    assert reward.item() == pytest.approx((np.hypot(0.06, 0.4) - np.hypot(SKIN, 0.34)), abs=1e-6)


def test_nothing_passes_through_the_wall_or_out_of_the_square() -> None:
    torch.manual_seed(1)
    world = ReachEnv(1000)
    before, _ = world.reset(seed=5)
    push = torch.rand(1000, 2) * 2 - 1
    for _ in range(60):
        after, *_ = world.step((push + 0.3 * torch.randn(1000, 2)) * 1.5)
        share = before[:, 0] / (before[:, 0] - after[:, 0])
        meets = before[:, 1] + share * (after[:, 1] - before[:, 1])
        assert not ((before[:, 0] * after[:, 0] < 0) & (meets.abs() < 0.499)).any()
        high = torch.from_numpy(world.single_observation_space.high) + 1e-6
        assert (after.abs() <= high).all()
        before = after


def test_success_needs_nearness_and_rest() -> None:
    for values, expected in (
        ((0.5, 0.0, 0.0, 0.0, 0.5 + 0.9 * GOAL_RADIUS, 0.0), True),
        ((0.5, 0.0, 0.0, 0.0, 0.5 + 1.1 * GOAL_RADIUS, 0.0), False),
        ((0.42, 0.0, 1.1 * REST_SPEED / 0.6, 0.0, 0.5, 0.0), False),
    ):
        world = ReachEnv(1)
        place(world, values)
        _, _, terminated, truncated, info = world.step(torch.zeros(1, 2))
        assert info["success"].item() is expected
        assert terminated.item() is expected
        assert not truncated.item()


def test_truncation_after_exactly_32_steps() -> None:
    world = ReachEnv(2)
    world.reset(seed=0)
    for step in range(1, 33):
        _, _, terminated, truncated, _ = world.step(torch.zeros(2, 2))
        assert truncated.tolist() == [step == 32] * 2
        assert not terminated.any()


def test_start_is_a_function_of_the_seed_alone() -> None:
    many, _ = ReachEnv(8).reset(seed=[3, 1, 4, 1, 5, 9, 2, 6])
    one, _ = ReachEnv(1).reset(seed=[4])
    assert torch.equal(many[2], one[0])
    assert torch.equal(many[1], many[3])
    distinct, _ = ReachEnv(1000).reset(seed=list(range(1000)))
    assert len(torch.unique(distinct, dim=0)) == 1000


def test_starts_fill_their_ranges_evenly() -> None:
    view, _ = ReachEnv(20_000).reset(seed=0)
    for column, low, high in ((0, -0.9, -0.4), (1, -0.6, 0.6), (4, 0.4, 0.9), (5, -0.6, 0.6)):
        values = (view[:, column] - low) / (high - low)
        assert values.min() >= 0 and values.max() <= 1
        # A uniform's mean has a standard error of 0.29 / sqrt(20000) = 0.002.
        assert values.mean().item() == pytest.approx(0.5, abs=0.01)
        assert values.std().item() == pytest.approx(12**-0.5, abs=0.01)
    correlation = torch.corrcoef(view[:, [0, 1, 4, 5]].T) - torch.eye(4)
    assert correlation.abs().max() < 0.04


def test_masked_reset_leaves_the_others_as_they_are() -> None:
    world = ReachEnv(4)
    world.reset(seed=0)
    before, *_ = world.step(torch.full((4, 2), 0.5))
    mask = np.array([False, True, False, True])
    after, _ = world.reset(seed=[10, 11, 12, 13], options={"reset_mask": mask})
    fresh, _ = ReachEnv(4).reset(seed=[10, 11, 12, 13])
    assert torch.equal(after[~mask], before[~mask])
    assert torch.equal(after[mask], fresh[mask])
    for _ in range(31):
        *_, truncated, _ = world.step(torch.zeros(4, 2))
    assert truncated.tolist() == [True, False, True, False]


def test_unseeded_resets_go_on_to_new_starts_the_same_on_every_run() -> None:
    def starts() -> Tensor:
        world = ReachEnv(3)
        views = [world.reset(seed=7)[0]] + [world.reset()[0] for _ in range(3)]
        return torch.cat(views)

    assert torch.equal(starts(), starts())
    assert len(torch.unique(starts(), dim=0)) == 12


def test_wrong_number_of_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one seed a world, 4; got 3"):
        ReachEnv(4).reset(seed=[1, 2, 3])


def test_frame_shows_fingertip_goal_and_wall() -> None:
    picture = frame(np.array([-0.5, 0.5, 0, 0, 0.5, -0.5], dtype=np.float32), size=64)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert tuple(picture[16, 16]) == (40, 90, 220)
    assert tuple(picture[48, 48]) == (120, 200, 120)
    assert tuple(picture[32, 32]) == (60, 60, 70)
    assert len(ReachEnv(2).render()) == 2


@pytest.mark.gpu
def test_cuda_steps_as_the_cpu_does() -> None:
    worlds = [ReachEnv(256, device) for device in ("cpu", "cuda")]
    views = [world.reset(seed=1)[0].cpu() for world in worlds]
    assert torch.equal(*views)
    for _ in range(32):
        action = expert_action(views[0])
        views = [world.step(action)[0].cpu() for world in worlds]
        torch.testing.assert_close(*views, atol=1e-4, rtol=0)
