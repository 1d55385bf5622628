"""VRAG's reward: was it found (NDCG), was it answered, was it asked in form; and how answers are compared.

Wang et al. 2025 (arXiv:2505.22019): r = α r_Ret + β r_Ans + γ r_Pat, and nothing at all without the form. α, β and γ
are those of the released code; the paper does not print them.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from palaestra.envs.retrieval.core import VOID, Record

Judge = Callable[[str, str, str], float]
"""Question, reference and prediction to a score in [0, 1]; it raises where it has no verdict."""


def ndcg(shown: Sequence[str], gold: Sequence[str]) -> float:
    """Return DCG / IDCG of pages in the order in which they were shown, in [0, 1].

    DCG = Σ_i s_i / log2(i + 1) with s_i = 1 for a gold page, over all that was shown: there is no cut-off, and a page
    that is not gold costs only by its place. 0 where nothing is gold.
    """
    wanted, found = set(gold), 0.0
    for rank, page in enumerate(dict.fromkeys(shown), start=1):
        if page in wanted:
            found += 1 / math.log2(rank + 1)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, len(wanted) + 1))
    return found / ideal if ideal else 0.0


def in_form(record: Record) -> float:
    """Return 1 where the agent searched and answered, else 0 (VRAG's r_Pat)."""
    return float(record.searched and record.answer is not None)


def normal_form(text: str) -> str:
    """Return a text without case, articles, punctuation and needless space, as SQuAD's scorer compares it."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[^\w\s.%-]", " ", plain).split()
    kept = [word for word in words if word not in ("a", "an", "the")] or words
    return " ".join(kept).strip(" .")


def exact(question: str, reference: str, prediction: str) -> float:
    """Return 1 where prediction and reference have the same normal form, else 0."""
    return float(normal_form(reference) == normal_form(prediction))


def numeric(question: str, reference: str, prediction: str, tolerance: float = 0.05) -> float:
    """Return 1 where the only number of each is equal up to a relative tolerance, else `exact`.

    ChartQA's relaxed accuracy (Masry et al. 2022); 12 % and 12 are taken to be one number.
    """
    wanted, said = _number(reference), _number(prediction)
    if wanted is None or said is None:
        return exact(question, reference, prediction)
    return float(abs(said - wanted) <= tolerance * abs(wanted))


def anls(question: str, reference: str, prediction: str, threshold: float = 0.5) -> float:
    """Return 1 - the Levenshtein distance over the longer length, 0 where that is below the threshold.

    Average normalised Levenshtein similarity (Biten et al. 2019), of one answer.
    """
    left, right = normal_form(reference), normal_form(prediction)
    longer = max(len(left), len(right))
    similar = 1 - _distance(left, right) / longer if longer else 1.0
    return similar if similar >= threshold else 0.0


@dataclass(frozen=True)
class RetrievalRewardConfig:
    """Weights of the parts; they sum to 1."""

    retrieval: float = 0.2
    """α, of the NDCG."""
    answer: float = 0.7
    """β, of the judge's score."""
    form: float = 0.1
    """γ, of the form."""

    def __post_init__(self) -> None:
        weights = (self.retrieval, self.answer, self.form)
        if min(weights) < 0 or not math.isclose(sum(weights), 1):
            raise ValueError(
                f"the weights are {weights}; they must be at least 0 and sum to 1, such as (0.2, 0.7, 0.1)."
            )


@dataclass(frozen=True, slots=True)
class Score:
    """What an episode earned."""

    total: float
    retrieval: float
    answer: float
    form: float


@dataclass(frozen=True)
class RetrievalReward:
    """Scores an episode of VRAG's world."""

    config: RetrievalRewardConfig = RetrievalRewardConfig()
    judge: Judge = exact

    def __call__(self, record: Record) -> Score | None:
        """Return the score, or None where the world broke or the judge did: that is no reward of 0.

        A judge that raises is noted in the record: its outcome becomes "judge". It is asked only where the form is
        kept. Every search of a void episode is void with it.
        """
        if record.outcome in VOID:
            return None
        form, found = in_form(record), ndcg(record.shown, record.task.gold)
        answered = 0.0
        if form:
            assert record.answer is not None
            try:
                answered = self.judge(record.task.text, record.task.answer, record.answer)
                if not 0 <= answered <= 1:
                    raise ValueError(f"a judge's score lies in [0, 1], got {answered}")
            except Exception as error:  # a judge may be anybody's code or a server: whatever it raises is its own fault
                record.outcome, record.error = "judge", f"{type(error).__name__}: {error}"
                return None
        weights = self.config
        total = form * (weights.retrieval * found + weights.answer * answered + weights.form)
        return Score(total, found, answered, form)


def _number(text: str) -> float | None:
    """Return the only number in a text, thousands separators understood; None where there is none or several."""
    found = re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3}\b)", "", text))
    return float(found[0]) if len(found) == 1 else None


def _distance(left: str, right: str) -> int:
    """Return the Levenshtein distance."""
    row = list(range(len(right) + 1))
    for number, one in enumerate(left, start=1):
        before, row[0] = row[0], number
        for place, other in enumerate(right, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (one != other))
    return row[-1]
