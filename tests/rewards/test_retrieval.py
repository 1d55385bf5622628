"""VRAG's reward by hand."""

import pytest

from palaestra.envs.retrieval.core import Record
from palaestra.envs.retrieval.corpus import Question
from palaestra.rewards.answers import anls, exact, numeric
from palaestra.rewards.retrieval import RetrievalReward, RetrievalRewardConfig, in_form, ndcg


def record(**changes: object) -> Record:
    one = Record(
        Question("q", "what?", "Forty-two", ("g1", "g2")), searched=True, answer="forty-two", outcome="answered"
    )
    for name, value in changes.items():
        setattr(one, name, value)
    return one


@pytest.mark.parametrize(
    ("shown", "gold", "value"),
    [
        (["g"], ["g"], 1.0),
        (["x", "g"], ["g"], 0.6309),
        (["g1", "x", "g2"], ["g1", "g2"], 0.9197),  # (1 + .5) / (1 + .6309)
        (["x", "y"], ["g"], 0.0),
        ([], ["g"], 0.0),
        (["g"], [], 0.0),
        (["g", "x", "y", "z"], ["g"], 1.0),  # appended pages cost nothing
        (["g2", "g1"], ["g1", "g2"], 1.0),
        (["g", "g", "g"], ["g"], 1.0),  # never more than 1
    ],
)
def test_ndcg(shown: list[str], gold: list[str], value: float) -> None:
    assert ndcg(shown, gold) == pytest.approx(value, abs=1e-4)


def test_weights_by_hand() -> None:
    """0.2 NDCG + 0.7 answer + 0.1 form."""
    score = RetrievalReward()(record(shown=["g1", "x", "g2"]))
    assert score is not None and score.total == pytest.approx(0.2 * 0.91972 + 0.7 + 0.1, abs=1e-5)
    wrong = RetrievalReward()(record(shown=["x"], answer="7"))
    assert wrong is not None and wrong.total == pytest.approx(0.1)


@pytest.mark.parametrize("changes", [{"searched": False}, {"answer": None, "outcome": "turns"}])
def test_form_is_a_gate_and_its_judge_is_not_asked(changes: dict[str, object]) -> None:
    """(e): an answer without a search earns nothing, nor does a search without an answer."""

    def never(question: str, reference: str, prediction: str) -> float:
        raise AssertionError("asked")

    one = record(shown=["g1", "g2"], **changes)
    score = RetrievalReward(judge=never)(one)
    assert in_form(one) == 0 and score is not None and score.total == 0 and score.retrieval == 1


def test_broken_worlds_and_judges_are_no_reward_of_zero() -> None:
    def broken(question: str, reference: str, prediction: str) -> float:
        raise TimeoutError("no verdict")

    assert RetrievalReward()(record(outcome="environment")) is None
    one = record()
    assert RetrievalReward(judge=broken)(one) is None
    assert one.outcome == "judge" and "no verdict" in one.error
    assert RetrievalReward(judge=lambda *_: float("nan"))(record()) is None
    assert RetrievalReward(judge=lambda *_: 7.0)(record()) is None


def test_weights_sum_to_one() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        RetrievalRewardConfig(retrieval=0.5)


@pytest.mark.parametrize(
    ("reference", "said", "value"),
    [
        ("Beijing", " beijing. ", 1),
        ("the Cat", "cat", 1),
        ("42", "42", 1),
        ("42", "24", 0),
        ("4.5", "45", 0),
        ("a", "an", 0),
    ],
)
def test_exact(reference: str, said: str, value: float) -> None:
    assert exact("", reference, said) == value


@pytest.mark.parametrize(
    ("reference", "said", "value"),
    [("100", "about 104", 1), ("100", "106", 0), ("1,200", "1200", 1), ("12 %", "12", 1), ("0", "0.01", 0),
     ("-5", "5", 0), ("5", "4 or 5", 0), ("cat", "the cat", 1)],
)  # fmt: skip
def test_numeric(reference: str, said: str, value: float) -> None:
    """ChartQA's 5 %; two numbers are no number, and texts are compared as texts."""
    assert numeric("", reference, said) == value


@pytest.mark.parametrize(
    ("reference", "said", "value"),
    [
        ("kitten", "sitting", 1 - 3 / 7),
        ("abcd", "abcd", 1),
        ("abcd", "wxyz", 0),
        ("ab", "ac", 0.5),
        ("abc", "x", 0),
        ("", "", 1),
    ],
)
def test_anls(reference: str, said: str, value: float) -> None:
    """Levenshtein by hand: kitten to sitting is 3 edits of 7 characters; below one half nothing counts."""
    assert anls("", reference, said) == pytest.approx(value)
