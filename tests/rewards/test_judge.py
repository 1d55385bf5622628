"""Judges: the truth, errors at set rates, a model behind a client, and their agreement by hand."""

from collections.abc import Sequence

import pytest
import torch

from palaestra.agents.vlm.client import connect
from palaestra.agents.vlm.core import Answer, Ask, Generate, Picture, Text
from palaestra.agents.vlm.engines.echo import EchoEngine
from palaestra.rewards.judge import Agreement, Evidence, ModelJudge, NoisyJudge, StateJudge, agreement


def shown(truth: bool, brightness: int = 0) -> Evidence:
    return Evidence("Open the clock", torch.full((2, 4, 4, 3), brightness, dtype=torch.uint8), truth)


class SeesBright(EchoEngine):
    """Calls what is bright in the end a success; chokes on what is grey."""

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        found: list[Answer | Exception] = []
        for ask in asks:
            assert isinstance(ask, Generate) and ask.choices == ("success", "failure")
            pictures = [part for part in ask.messages[-1].content if isinstance(part, Picture)]
            level = int(pictures[-1].pixels.max())
            said = "bananas" if level == 100 else "success" if level > 128 else "failure"
            found.append(ValueError("grey") if level == 128 else Text(said))
        return found


def test_the_state_is_the_truth() -> None:
    assert StateJudge().judge([shown(True), shown(False)]) == [True, False]


def test_errors_come_at_their_rates_and_by_their_seed() -> None:
    episodes = [shown(index % 2 == 0) for index in range(4000)]
    torch.manual_seed(1)
    verdicts = NoisyJudge(0.1, 0.3).judge(episodes)
    assert sum(v is True for v in verdicts[1::2]) / 2000 == pytest.approx(0.1, abs=0.02)
    assert sum(v is False for v in verdicts[::2]) / 2000 == pytest.approx(0.3, abs=0.03)
    torch.manual_seed(1)
    assert verdicts == NoisyJudge(0.1, 0.3).judge(episodes)
    assert NoisyJudge(0.0, 0.0).judge(episodes) == StateJudge().judge(episodes)


def test_a_rate_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"false_negative is 1\.5"):
        NoisyJudge(0.1, 1.5)


def test_a_model_judges_and_what_it_cannot_judge_is_no_failure() -> None:
    with connect({"judge": SeesBright()}) as client:
        judge = ModelJudge(client, "judge", examples=[(shown(True, 255), True)])
        assert judge.judge([shown(False, 255), shown(True, 0), shown(True, 128)]) == [True, False, None]
        assert judge.missed == 1
        assert judge.judge([shown(True, 100)]) == [None] and judge.missed == 2  # nonsense


def test_a_model_that_is_away_gives_no_verdict() -> None:
    with connect("http://127.0.0.1:9") as client:
        judge = ModelJudge(client, "judge")
        assert judge.judge([shown(True), shown(False)]) == [None, None]
        assert judge.missed == 2


def test_agreement_by_hand() -> None:
    verdicts = [True, True, False, False, None]
    assert agreement(verdicts, [True, False, True, False, True]) == Agreement(4, 0.5, 0.5, 0.5)
    assert agreement([False], [False]) == Agreement(1, None, None, 1.0)
    assert agreement([], []) == Agreement(0, None, None, None)
    with pytest.raises(ValueError, match="1 verdicts"):
        agreement([True], [])
