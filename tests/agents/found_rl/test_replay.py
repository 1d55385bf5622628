"""Replay: every transition against a plain list of what happened, under restarts, cuts, faults and overwriting."""

from __future__ import annotations

import random

import pytest
import torch
from gymnasium import spaces

from palaestra.agents.found_rl.replay import Replay
from palaestra.envs.core import Observation, WorldSpec
from palaestra.envs.driving.world import DrivingEnv
from palaestra.envs.lockstep import LockstepWorlds

SPEC = WorldSpec(id="test", action=spaces.Box(-1, 1, (2,)), state=1)


def view(numbers: list[int]) -> Observation:
    return Observation(state=torch.tensor(numbers, dtype=torch.float32)[:, None])


class Play:
    """Worlds whose views are numbers never shown before, and the list of what happened in them."""

    def __init__(self, worlds: int, capacity: int, seed: int) -> None:
        self.replay = Replay(SPEC, worlds, capacity, 2, "cpu")
        self.worlds, self.shown, self.random = worlds, 0, random.Random(seed)
        self.happened: dict[int, tuple[float, bool, int | None]] = {}
        self.now = self.new()
        self.replay.begin(view(self.now))

    def new(self) -> list[int]:
        self.shown += self.worlds
        return list(range(self.shown - self.worlds + 1, self.shown + 1))

    def step(self) -> None:
        """Do something at every view: go on, end, be cut off or break."""
        kinds = [self.random.choice(["on", "on", "on", "end", "cut", "both", "fault"]) for _ in range(self.worlds)]
        following, finals = self.new(), self.new()
        terminated = torch.tensor([kind in ("end", "both") for kind in kinds])
        truncated = torch.tensor([kind in ("cut", "both") for kind in kinds])
        good = torch.tensor([kind != "fault" for kind in kinds])
        ended = [row for row, kind in enumerate(kinds) if kind in ("end", "cut", "both")]
        final = view([finals[row] for row in ended]) if ended else None
        reward = torch.rand(self.worlds)
        action = torch.tensor(self.now, dtype=torch.float32)[:, None].expand(-1, 2)
        self.replay.close(action, reward, terminated, truncated, good, final, view(following))
        for row, kind in enumerate(kinds):
            if kind != "fault":
                then = {"on": following[row], "cut": finals[row]}.get(kind)
                self.happened[self.now[row]] = (float(reward[row]), kind in ("end", "both"), then)
        self.now = following

    def restart(self) -> None:
        self.now = self.new()
        self.replay.begin(view(self.now))


@pytest.mark.parametrize("seed", range(4))
def test_every_transition_is_one_that_happened(seed: int) -> None:
    play = Play(worlds=3, capacity=30, seed=seed)
    for number in range(60):
        play.step()
        if number % 13 == 12:
            play.restart()
        slots = play.replay.tensors["ready"].nonzero().flatten()
        batch = play.replay.at(slots)
        assert batch.observation.state is not None and batch.following.state is not None
        for place, seen in enumerate(batch.observation.state[:, 0].int().tolist()):
            reward, terminated, then = play.happened[seen]
            assert batch.action[place].tolist() == [seen, seen]
            assert batch.reward[place].item() == pytest.approx(reward)
            assert bool(batch.terminated[place]) == terminated
            if not terminated:
                assert batch.following.state[place, 0].item() == then
        assert len(slots) <= 30 - 3  # each world's present view holds a slot


def test_a_plain_run_fills_all_slots_but_the_present_ones() -> None:
    replay = Replay(SPEC, 2, 20, 2, "cpu")
    replay.begin(view([0, 0]))
    nothing = torch.zeros(2, dtype=torch.bool)
    for number in range(25):
        replay.close(torch.zeros(2, 2), torch.zeros(2), nothing, nothing, ~nothing, None, view([number, number]))
    assert replay.ready == 2 * 9


def test_a_label_lands_only_in_the_generation_it_was_asked_for() -> None:
    play = Play(worlds=2, capacity=8, seed=0)
    slot, generation = play.replay.current, play.replay.generation[play.replay.current].clone()
    for _ in range(9):
        play.step()
    fresh = play.replay.label(slot, generation, torch.ones(2, 2))
    assert not bool(fresh.any())
    assert not bool(play.replay.tensors["advised"].any())
    now = play.replay.current
    assert bool(play.replay.label(now, play.replay.generation[now], torch.full((2, 2), 0.5)).all())
    play.step()
    assert play.replay.tensors["advice"][now].tolist() == [[0.5, 0.5]] * 2
    for _ in range(5):
        play.step()
    assert not bool(play.replay.tensors["advised"].any())  # overwritten, and its label with it


def test_a_bonus_is_added_when_sampled_and_nothing_where_there_is_none() -> None:
    replay = Replay(SPEC, 2, 8, 2, "cpu")
    replay.begin(view([1, 2]))
    slot = replay.current
    replay.score(slot[:1], replay.generation[slot[:1]], torch.tensor([0.25]))
    nothing = torch.zeros(2, dtype=torch.bool)
    replay.close(torch.zeros(2, 2), torch.ones(2), nothing, nothing, ~nothing, None, view([3, 4]))
    assert replay.at(slot).reward.tolist() == [1.25, 1.0]


def test_sampling_is_uniform_over_what_is_ready_and_can_ask_for_labels() -> None:
    play = Play(worlds=4, capacity=64, seed=1)
    for _ in range(10):
        play.step()
    ready = play.replay.tensors["ready"]
    drawn = torch.bincount(play.replay.sample(20_000).slot, minlength=len(ready))
    assert bool((drawn[~ready] == 0).all())
    expected = 20_000 / int(ready.sum())
    assert bool(((drawn[ready] - expected).abs() < 6 * expected**0.5).all())
    with pytest.raises(RuntimeError, match="no labelled transition"):
        play.replay.sample(1, labelled=True)
    chosen = ready.nonzero()[:1, 0]
    play.replay.label(chosen, play.replay.generation[chosen], torch.ones(1, 2))
    assert play.replay.sample(5, labelled=True).slot.unique().tolist() == chosen.tolist()


def test_a_saved_replay_goes_on_exactly() -> None:
    play = Play(worlds=3, capacity=60, seed=2)
    for _ in range(7):
        play.step()
    saved = play.replay.state_dict()
    assert saved["state"].shape[1] < 20  # slots that were never written are left out
    other = Replay(SPEC, 3, 60, 2, "cpu")
    other.begin(view([7, 8, 9]))
    other.load_state_dict(saved)
    for name, tensor in play.replay.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name
    with pytest.raises(ValueError, match="of another replay"):
        other.load_state_dict({"cursor": saved["cursor"]})
    with pytest.raises(ValueError, match="has shape"):
        Replay(SPEC, 2, 60, 2, "cpu").load_state_dict(saved)


def test_too_small_a_replay_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 6"):
        Replay(SPEC, 3, 5, 2, "cpu")


def test_birds_eye_views_are_kept_packed_and_come_back_as_they_were() -> None:
    env = DrivingEnv(3, maps="signalised", vehicles=5, walkers=3, map_count=1, view="bev", pixels=32)
    spec = LockstepWorlds(env, id="driving/test").spec
    replay = Replay(spec, 3, 24, 2, "cpu")
    first, _ = env.reset(seed=[1, 2, 3])
    assert isinstance(first, dict)
    views = [first["bev"].clone()]
    slots = []
    replay.begin(Observation({"bev": first["bev"]}, first["state"]))
    nothing = torch.zeros(3, dtype=torch.bool)
    for _ in range(4):
        slots.append(replay.current)
        shown = env.step(torch.full((3, 2), 0.5))[0]
        assert isinstance(shown, dict)
        views.append(shown["bev"].clone())
        now = Observation({"bev": shown["bev"]}, shown["state"])
        replay.close(torch.zeros(3, 2), torch.zeros(3), nothing, nothing, ~nothing, None, now)
    for number, slot in enumerate(slots):
        batch = replay.at(slot)
        assert torch.equal(batch.observation.images["bev"], views[number])
        assert torch.equal(batch.following.images["bev"], views[number + 1])
    assert replay.tensors["image.bev"][0].numel() * 6 == views[0][0].numel()


def test_a_hundred_and_fifty_thousand_views_of_96_pixels_take_less_than_four_and_a_half_gigabytes() -> None:
    spec = WorldSpec(id="test", action=SPEC.action, state=10, images={"bev": (96, 96, 15)})
    replay = Replay(spec, 4, 400, 2, "cpu")
    assert replay.bytes / 400 * 150_000 < 4.5e9
