"""A world of text alone, learnt by the same small model without its eyes: look prices up, calculate, answer.

The teacher adds where it should multiply in a share of its demonstrations, so imitation is wrong about as often, and
reinforcement finds out which way pays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from palaestra.agents.grpo.scores import Scores
from palaestra.agents.grpo.tiny import ROLES, UNKNOWN, Surfaces, TinySpeaker
from palaestra.envs.retrieval.core import VOID, Record
from palaestra.envs.retrieval.ledger import ITEMS, Ledger, calculate, ledger_tasks
from palaestra.envs.retrieval.tools import ToolWorlds
from palaestra.launch.config_conversation import LedgerRecipe
from palaestra.launch.conversation import ConversationRun

TASKS = {"sft": (2000, 1), "rl": (2000, 2), "test": (1000, 3)}
"""Of each split, how many and from which seed."""


class LedgerRun(ConversationRun):
    """A run in the ledger's world."""

    recipe: LedgerRecipe
    success = "the answer is the right number"

    @property
    def world(self) -> str:
        """The worlds' id."""
        return "retrieval/ledger"

    def open(self) -> None:
        """Make worlds of a plain class."""
        self.worlds = ToolWorlds(Ledger, self.recipe.turns)
        self.tasks = {name: ledger_tasks(count, seed) for name, (count, seed) in TASKS.items()}
        self.speaker = TinySpeaker(words=vocabulary(), closings=tuple(f"</{tool}>" for tool in _TAGS))

    def pretrain(self) -> None:
        """Bring nothing along: there is nothing to see."""

    def demonstration(self, task: Mapping[str, Any], generator: np.random.Generator) -> list[str]:
        """Return what a teacher says that does not always know when to multiply."""
        return _say(task, "+" if generator.random() < self.recipe.mistakes else "*")

    def solution(self, task: Mapping[str, Any]) -> list[str]:
        """Return what solves a task."""
        return _say(task, "*")

    def scores(self, records: Sequence[Record], learning: bool) -> Scores:
        """Return what the world pays."""
        paid = torch.tensor([record.reward or 0.0 for record in records])
        valid = torch.tensor([record.outcome not in VOID for record in records])
        return Scores(paid, valid, paid == 1, paid[:, None], torch.ones(1))


_TAGS = ("price", "calculate", "answer")


def _say(task: Mapping[str, Any], operator: str) -> list[str]:
    """Return a whole episode."""
    pieces, first, others, second = (task["question"].split()[place] for place in (2, 4, 6, 8))
    prices = task["prices"]
    expression = f"{pieces}{operator}{prices[first]}+{others}{operator}{prices[second]}"
    return [
        f"<price>{first}</price>", f"<price>{second}</price>", f"<calculate>{expression}</calculate>",
        f"<answer>{calculate(expression):g}</answer>",
    ]  # fmt: skip


def vocabulary() -> Surfaces:
    """Return the surfaces of the ledger: a number is one of them."""
    tags = [f"<{slash}{name}>" for name in _TAGS for slash in ("", "/")]
    asked = ["What do ", " x ", " and ", " cost together?"]
    return Surfaces([*ROLES, UNKNOWN, *tags, *map(str, range(400)), *ITEMS, *asked, "*", "+", "-", "/"], UNKNOWN)
