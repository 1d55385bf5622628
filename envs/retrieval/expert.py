"""A teacher of VRAG's world: always right, and not the best.

Its eyes are better than its student's: it often answers from a page on which the student can read nothing. And it
often searches in the user's own words first. So the mode of an imitated policy is wrong, and reinforcement has
something to find (VRAG's own trajectories come from models ten times the student's size).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from palaestra.envs.retrieval.corpus import Page, Question
from palaestra.envs.retrieval.views import Budget, to_shown, whole


@dataclass(frozen=True)
class ExpertConfig:
    """How far the teacher is from the best."""

    naive: float = 0.6
    """Share of episodes that begin with a search in the user's own words."""
    skip: float = 0.55
    """Share of episodes that answer without cutting out: 0.55 is "weak-eyed student", 0.4 is "mild"."""


def plan(
    question: Question, pages: dict[str, Page], budget: Budget, config: ExpertConfig, generator: np.random.Generator
) -> list[str]:
    """Return the actions of a teacher, in order, as the agent would say them."""
    actions = []
    if question.naive and generator.random() < config.naive:
        actions.append(search(question.naive))
    skip = generator.random() < config.skip
    for query, gold in zip(question.queries, question.gold, strict=True):
        actions.append(search(query))
        for region in question.regions:
            if region.page == gold and not skip:
                view = whole(gold, pages[gold].pixels, budget)
                box = to_shown(region.box, view)
                actions.append(zoom(question.thought, box, view.size))
    actions.append(f"<think> got</think><answer>{question.answer}</answer>")
    return actions


def search(query: str) -> str:
    """Return the teacher's search."""
    return f"<think> need</think><search> {query}</search>"


def zoom(thought: str, box: tuple[float, ...], size: tuple[int, int]) -> str:
    """Return the teacher's box, in even pixels that hold all of it."""
    height, width = size
    low = [2 * int(value // 2) for value in box[:2]]
    high = [min(2 * int(-(-value // 2)), limit) for value, limit in zip(box[2:], (width, height), strict=True)]
    return f"<think> look {thought}</think><bbox> {' '.join(map(str, low + high))}</bbox>"
