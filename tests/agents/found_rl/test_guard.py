"""The guard: good advice is let in, random, useless and harmful advice is kept out."""

from __future__ import annotations

import pytest
import torch

from palaestra.agents.found_rl.config import GuardConfig
from palaestra.agents.found_rl.guard import Guard

WORLDS = 16
CONFIG = GuardConfig(share=0.25, window=4, memory=6, least=8)


def watched(gain: float, foretold: float, windows: int = 8, config: GuardConfig = CONFIG) -> Guard:
    """Return a guard that saw advice earn `gain` more a decision, with labels of which so much can be foretold."""
    guard = Guard(config, WORLDS, "cpu")
    draw = torch.Generator().manual_seed(0)
    for _ in range(windows * config.window):
        known = foretold**0.5 * torch.randn(32, 2, generator=draw)
        guard.hear(known, known + (1 - foretold) ** 0.5 * torch.randn(32, 2, generator=draw))
        reward = torch.randn(WORLDS, generator=draw)
        reward[: guard.probes] += gain
        guard.watch(reward, torch.zeros(WORLDS, dtype=torch.bool))
    return guard


@pytest.mark.parametrize(
    ("gain", "foretold", "trusted"),
    [(2.0, 0.9, True), (2.0, 0.3, True), (2.0, 0.0, False), (0.0, 0.9, False), (-2.0, 0.9, False)],
)
def test_only_advice_that_earns_more_and_can_be_foretold_is_trusted(
    gain: float, foretold: float, trusted: bool
) -> None:
    guard = watched(gain, foretold)
    assert guard.open == trusted
    assert guard.predictability == pytest.approx(foretold, abs=0.1)
    found = guard.advantage()
    assert found is not None and abs(found[0] - gain * CONFIG.window) < 4 * found[1]


def test_nothing_is_trusted_before_there_is_evidence() -> None:
    assert not watched(5.0, 0.9, windows=1).open  # 4 samples of the advice, where 8 are wanted


def test_without_the_guard_everything_is_trusted() -> None:
    assert watched(-2.0, 0.0, config=GuardConfig(on=False, share=0.25, window=4)).open


def test_the_verdict_follows_the_evidence() -> None:
    guard = watched(2.0, 0.9)
    assert guard.open
    for _ in range(40 * CONFIG.window):
        guard.watch(torch.randn(WORLDS), torch.zeros(WORLDS, dtype=torch.bool))
    assert not guard.open  # the policy has caught up


def test_a_window_counts_nothing_after_an_end() -> None:
    guard = Guard(CONFIG, WORLDS, "cpu")
    for number in range(CONFIG.window):
        guard.watch(torch.ones(WORLDS), torch.full((WORLDS,), number == 1))
    assert guard.tensors["samples"][0].tolist() == [2.0] * WORLDS


def test_evidence_survives_a_restart_of_the_program() -> None:
    guard = watched(2.0, 0.9)
    other = Guard(CONFIG, WORLDS, "cpu")
    other.load_state_dict(guard.state_dict())
    assert other.open and other.metrics() == guard.metrics()


def test_too_few_worlds_are_refused() -> None:
    with pytest.raises(ValueError, match="guard needs some of 1"):
        Guard(CONFIG, 1, "cpu")
