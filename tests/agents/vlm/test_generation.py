"""Tokens are drawn from the distribution that was asked for, each row's from its own noise; no piece is taken back."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palaestra.agents.vlm.generation import certain, choose

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])
DRAWS = 20_000


def draw(temperature: float, top_p: float, seed: int = 0) -> torch.Tensor:
    """Return how often each token is drawn."""
    noise = torch.empty(DRAWS, len(LOGITS)).exponential_(generator=torch.Generator().manual_seed(seed))
    ones = torch.ones(DRAWS)
    tokens = choose(LOGITS.expand(DRAWS, -1), temperature * ones, top_p * ones, noise)
    return tokens.bincount(minlength=len(LOGITS)).float()


def chi_square(counts: torch.Tensor, p: torch.Tensor) -> float:
    possible = p > 0
    assert counts[~possible].sum() == 0
    return float(((counts - DRAWS * p) ** 2 / (DRAWS * p))[possible].sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_the_softmax(temperature: float) -> None:
    """Chi-square with 3 degrees of freedom stays under 16.3 in 999 of 1000 samples."""
    assert chi_square(draw(temperature, 1.0), (LOGITS / temperature).softmax(-1)) < 16.3
    assert chi_square(draw(temperature, 1.0), (LOGITS / temperature / 1.1).softmax(-1)) > 16.3


def test_top_p_keeps_the_fewest_likeliest_tokens_that_reach_it() -> None:
    """p = 0.644, 0.237, 0.087, 0.032: 0.7 keeps two of them, 0.64 one; 1 degree of freedom stays under 10.8."""
    p = LOGITS.softmax(-1)
    assert chi_square(draw(1.0, 0.7), torch.where(p > 0.2, p, 0.0) / p[:2].sum()) < 10.8
    assert draw(1.0, 0.64)[0] == draw(1.0, 1e-6)[0] == DRAWS
    assert draw(1.0, float(p[0]) + 1e-3)[1] > 0


def test_zero_temperature_is_greedy_and_reads_no_noise() -> None:
    noise = torch.full((1, 5), torch.nan)
    assert choose(LOGITS[None], torch.zeros(1), torch.ones(1), noise).item() == 0


def test_rows_do_not_depend_on_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, noise = torch.randn(64, 50, generator=generator), torch.empty(64, 50).exponential_(generator=generator)
    temperature = torch.tensor([0.0, 0.3, 1.0, 5.0]).repeat(16)
    top_p = torch.tensor([1.0, 0.9, 0.5]).repeat(22)[:64]
    together = choose(logits, temperature, top_p, noise)
    alone = [choose(logits[i : i + 1], temperature[i : i + 1], top_p[i : i + 1], noise[i : i + 1]) for i in range(64)]
    assert together.tolist() == torch.cat(alone).tolist()


@pytest.mark.parametrize(
    ("text", "stops", "sure"),
    [
        ("go left", (), "go left"),
        ("go left<", ("<end>",), "go left"),
        ("go left<en", ("<end>", "n"), "go left"),
        ("go left <e", ("end",), "go left <"),
        ("abab", ("abac",), "ab"),
        ("caf\ufffd", (), "caf"),
        ("STOP\ufffd", ("OP!",), "ST"),
    ],
)
def test_what_may_still_become_a_stop_string_is_held_back(text: str, stops: tuple[str, ...], sure: str) -> None:
    assert certain(text, stops) == sure


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_no_piece_is_ever_taken_back(text: str, stops: list[str]) -> None:
    """However a text grows, what was certain of it is the beginning of the answer, which ends before a stop string."""
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    grown = text[: min(ends, default=len(text))]
    answer = grown[: min((grown.find(stop) for stop in stops if stop in grown), default=len(grown))]
    before = ""
    for end in range(len(grown) if ends else len(grown) + 1):
        sure = certain(grown[:end], stops)
        assert answer.startswith(sure) and sure.startswith(before)
        before = sure
