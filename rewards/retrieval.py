"""VRAG's reward: was it found (NDCG), was it answered, was it asked in form.

Wang et al. 2025 (arXiv:2505.22019): r = α r_Ret + β r_Ans + γ r_Pat, and nothing at all without the form. α, β and γ
are those of the released code; the paper does not print them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from palaestra.envs.retrieval.core import VOID, Record
from palaestra.rewards.answers import AnswerJudge, Judge, exact


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

    def many(self, records: Sequence[Record]) -> list[Score | None]:
        """Return the score of each episode; a model that judges is asked about all of them at once."""
        if not isinstance(self.judge, AnswerJudge):
            return [self(record) for record in records]
        for record in records:
            if record.outcome not in VOID and in_form(record):
                self.judge.begin(record.task.text, record.task.answer, record.answer or "")
        scores = [self(record) for record in records]
        self.judge.forget()
        return scores

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
