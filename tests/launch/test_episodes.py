"""Whole episodes of agents that act in words: what a fault voids is played once more, and experts slip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from palaestra.envs.core import Fault, Observation, episode_seeds, same_tensors
from palaestra.envs.pool import PoolWorlds
from palaestra.launch.config import DigiRLRecipe, WorldConfig
from palaestra.launch.episodes import Played, demonstrate, play
from tests.envs.scripted_worlds import Scripted


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SEED, BROKEN = 5, 1
"""Of the round, and the row that breaks in it."""


def played(once: Path | None, faulty: bool = True) -> tuple[list[Played], list[Fault]]:
    seed = int(episode_seeds(SEED, np.arange(3))[BROKEN])
    faults = {seed: ("raise", 2)} if faulty else {}
    script = Scripted(shows="dict", takes="text", faults=faults, once=once, length=3)
    worlds = PoolWorlds(script, 3, id="scripted", workers=1, backoff=0.01)
    try:
        return play(worlds, lambda view, rows: ["go"] * len(rows), SEED)
    finally:
        worlds.close()


@pytest.mark.filterwarnings("ignore:scripted")
def test_an_episode_that_breaks_in_its_middle_is_played_once_more_from_its_own_seed(tmp_path: Path) -> None:
    marker = tmp_path / "once"
    marker.touch()
    mended, faults = played(marker)
    assert [(fault.row, fault.boundary) for fault in faults] == [(BROKEN, "step")]
    whole, none = played(None, faulty=False)
    assert not none and len(mended) == len(whole) == 3
    for one, other in zip(mended, whole, strict=True):
        assert one.actions == other.actions and same_tensors(one.observation, other.observation)
        assert same_tensors(one.last, other.last) and one.success == other.success


@pytest.mark.filterwarnings("ignore:scripted")
def test_an_episode_that_breaks_twice_is_given_up_and_the_others_are_kept() -> None:
    found, faults = played(None)
    assert len(found) == 2 and [fault.row for fault in faults] == [BROKEN, BROKEN]


LADDER = DigiRLRecipe(
    world=WorldConfig(id="android/ladder-v0", count=16, chunk=1, options={"preset": "calm", "max_steps": 12}),
    demonstrations=16, live_demonstrations=0, slips=0.3,
)  # fmt: skip


def test_demonstrations_show_the_way_back_and_every_kind_of_task() -> None:
    straight, astray = demonstrate(replace(LADDER, slips=0.0)), demonstrate(LADDER)
    backs = [sum("PRESS_BACK" in said for one in found for said in one.actions) for found in (straight, astray)]
    assert backs[0] == 0 < backs[1]  # on a calm phone an expert that does not slip never goes back
    assert all(one.success for one in astray) and len(astray) == 16
    kinds = [one.kind for one in astray]
    assert max(map(kinds.count, set(kinds))) <= 3 and len(set(kinds)) >= 7
    again = demonstrate(LADDER)
    assert [one.actions for one in again] == [one.actions for one in astray]


def test_what_was_done_by_a_slip_is_seen_next_and_what_was_chosen_is_learnt() -> None:
    from palaestra.envs.registry import make

    worlds = make("android/ladder-v0", 2, max_steps=3)
    wait = '"action_type": "WAIT"'

    def slip(chosen: Sequence[str], rows: Sequence[int]) -> list[str]:
        return [wait] * len(rows)

    def act(view: Observation, rows: Sequence[int]) -> list[str]:
        return ['"action_type": "PRESS_BACK"'] * len(rows)

    try:
        found, _ = play(worlds, act, 3, slip)
    finally:
        worlds.close()
    for one in found:
        assert all("PRESS_BACK" in said for said in one.actions)
        assert all("WAIT" in text.split("\n")[1] for text in one.observation.text[1:])


def test_slips_need_a_world_that_knows_what_can_be_tapped(monkeypatch: pytest.MonkeyPatch) -> None:
    from palaestra.envs.android.world import PhoneEnv

    monkeypatch.delattr(PhoneEnv, "stray")
    with pytest.raises(ValueError, match=r"slips is 0.3, but PhoneEnv has no `stray"):
        demonstrate(LADDER)

