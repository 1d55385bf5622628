"""Curricula: which groups are kept, how much is given away, and that a batch that cannot be filled says so."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from palaestra.agents.grpo.curriculum import FIRST_HINT, KINDS, CurriculumConfig, Kind, Prompt, even_odds, gather
from palaestra.agents.grpo.rollout import Trajectory
from palaestra.agents.grpo.scores import Scores

GROUP = 4


def scores(solved: Sequence[Sequence[bool]], valid: bool = True) -> Scores:
    flat = torch.tensor(solved).flatten()
    return Scores(flat.float(), torch.full_like(flat, valid), flat, flat[:, None].float(), torch.ones(1))


class Player:
    """Plays prompts: task n is solved by n of four; a hint solves the rest."""

    def __init__(self, valid: bool = True) -> None:
        self.rounds: list[list[Prompt]] = []
        self.valid = valid

    def __call__(self, prompts: Sequence[Prompt]) -> tuple[list[Trajectory], Scores]:
        self.rounds.append(list(prompts))
        solved = [[place < prompt.number + 4 * prompt.hint for place in range(GROUP)] for prompt in prompts]
        return [Trajectory(ids=[prompt.number]) for prompt in prompts for _ in range(GROUP)], scores(solved, self.valid)


def made(kind: Kind, tasks: int = 5, **changes: Any) -> Any:
    return KINDS[kind](tasks, CurriculumConfig(kind, **changes))


def test_dynamic_sampling_replaces_what_says_nothing() -> None:
    """Tasks 0 and 4 are never and always solved: a batch of six holds none of them, and is full."""
    player, generator = Player(), np.random.default_rng(0)
    played, found, metrics = gather(made("dynamic", rounds=9), player, 6, GROUP, generator)
    assert {one.ids[0] for one in played} == {1, 2, 3} and len(played) == 6 * GROUP == len(found)
    assert metrics["curriculum/full"] == 1 and metrics["curriculum/rounds"] == len(player.rounds) > 1
    assert metrics["curriculum/kept"] == pytest.approx(6 / sum(map(len, player.rounds)))


def test_the_band_of_difficulty() -> None:
    """Rates 0, 1/4, 1/2, 3/4, 1; the band's edges belong to it."""
    rate = torch.arange(5) / 4
    assert made("balanced", band=(0.25, 0.5)).keep(rate).tolist() == [False, True, True, False, False]
    assert made("dynamic").keep(rate).tolist() == [False, True, True, True, False]
    assert made("none").keep(rate).all()
    nothing = torch.tensor([math.nan])  # all members void
    assert not made("balanced").keep(nothing).any() and not made("dynamic").keep(nothing).any()


def test_a_batch_that_cannot_be_filled_says_so() -> None:
    """Rounds are bounded, and what is then learnt from is the last round, which the learner reports as equal."""
    player = Player()
    found = gather(made("dynamic", tasks=1, rounds=3), player, 2, GROUP, np.random.default_rng(0))
    assert len(player.rounds) == 3 and found[2]["curriculum/kept"] == 0 == found[2]["curriculum/full"]
    assert len(found[0]) == len(found[1]) == 2 * GROUP
    void = Player(valid=False)
    _, lost, metrics = gather(made("balanced", rounds=2), void, 2, GROUP, np.random.default_rng(0))
    assert metrics["curriculum/kept"] == 0 and not lost.valid.any()


def test_prefixes_are_for_what_was_never_solved() -> None:
    """PrefixRL: 40 to 80 % of a solution for task 0, once it has failed; nothing for the others."""
    curriculum, generator = made("prefix"), np.random.default_rng(0)
    first = gather(curriculum, Player(), 5, GROUP, generator)
    assert first[2]["curriculum/hint"] == 0
    again = Player()
    gather(curriculum, again, 5, GROUP, generator)
    hints = {prompt.number: prompt.hint for prompt in again.rounds[0]}
    assert 0.4 <= hints[0] <= 0.8 and not any(hints[task] for task in (1, 2, 3, 4))
    third = Player()
    gather(curriculum, third, 5, GROUP, generator)
    assert {prompt.number: prompt.hint for prompt in third.rounds[0]}[0] == 0  # with help it was solved


def test_even_odds() -> None:
    """Points of the curve b = 0, k = 8, μ = -0.4 lead back to p = 0.4; easier tasks need less, hopeless ones most."""
    curve = [(hint, 1 / (1 + math.exp(-8 * (hint - 0.4)))) for hint in (0.1, 0.3, 0.6, 0.9)]
    assert even_odds(curve) == pytest.approx(0.4, abs=0.03)
    assert even_odds([(0.9, 1.0), (0.5, 1.0), (0.1, 1.0)]) < 0.1
    assert even_odds([(0.2, 0.0), (0.5, 0.0), (0.95, 0.1)]) > 0.9
    assert even_odds([(0.95, 1.0)]) < 0.95


def test_seele_asks_the_same_again_with_fitting_hints() -> None:
    """Two tasks in four rounds: nearly all is given away first, then less, towards success of one half."""
    player, curriculum = Player(), made("seele", rounds=4)
    played, _, metrics = gather(curriculum, player, 8, GROUP, np.random.default_rng(1))
    assert len(player.rounds) == 4 and len(played) == 8 * GROUP and metrics["curriculum/full"] == 1
    assert len({tuple(prompt.number for prompt in of_round) for of_round in player.rounds}) == 1
    assert all(prompt.hint == FIRST_HINT for prompt in player.rounds[0])
    assert all(after.hint < before.hint for before, after in zip(player.rounds[0], player.rounds[-1], strict=True))
    twin = made("seele", rounds=4)
    twin.load_state_dict(curriculum.state_dict())
    draws = [one.choose(8, np.random.default_rng(2)) for one in (curriculum, twin)]
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"rounds": 0}, "rounds is 0"), ({"band": (0.8, 0.2)}, "band is 0.8"), ({"share": (0, 2)}, "share is 0")],
)
def test_wrong_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CurriculumConfig(**changes)
