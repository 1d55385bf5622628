"""VRAG's world: search page images, cut out and zoom, answer (Wang et al. 2025, arXiv:2505.22019), in lock step.

Observations are images alone; one new page a search, the best that was not shown yet, so repeating a query pages down
the ranking. A box refers to the image shown last and is cut from its raw page. All searches of a step are one call of
the retriever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from palaestra.envs.retrieval.actions import Act, parse
from palaestra.envs.retrieval.core import Record, Reply, Turn
from palaestra.envs.retrieval.corpus import Corpus, Question
from palaestra.envs.retrieval.retrievers import Hit, Retriever
from palaestra.envs.retrieval.views import TINY, Budget, View, cut, render, whole

INVALID = "Your previous action is invalid. Please try again."
"""What a world says to an action that it cannot carry out."""


@dataclass(frozen=True)
class PageWorldConfig:
    """The rules of the conversation."""

    turns: int = 4
    """Actions that are carried out; one more may follow, of which only an answer counts."""
    depth: int = 10
    """Ranks that a search looks through for a page that was not shown yet."""
    crop: bool = True
    """Whether boxes may be cut out; else they are invalid."""
    noise: float = 0.15
    """Standard deviation of the noise of what is shown, in shares of full brightness."""


@dataclass(slots=True)
class _Row:
    """A conversation in progress."""

    record: Record
    views: list[View] = field(default_factory=list)
    """What is shown: a box refers to the last."""


class PageWorlds:
    """Conversations about a corpus."""

    live = None

    def __init__(
        self, corpus: Corpus, retriever: Retriever, config: PageWorldConfig | None = None, budget: Budget = TINY
    ) -> None:
        """Take a corpus and a retriever of its pages.

        Raises:
            ValueError: The retriever is of another corpus, or the rules make no sense.
        """
        self.config = PageWorldConfig() if config is None else config
        if retriever.size != len(corpus.pages):
            raise ValueError(f"the retriever knows {retriever.size} pages, the corpus has {len(corpus.pages)}.")
        if self.config.turns < 1 or self.config.depth < 1:
            raise ValueError(f"turns is {self.config.turns} and depth {self.config.depth}; both must be at least 1.")
        self._corpus, self._retriever, self._budget = corpus, retriever, budget
        self._rows: list[_Row] = []
        self._pictures: dict[View, Tensor] = {}

    @property
    def records(self) -> list[Record]:
        """The episodes so far, one a row."""
        return [row.record for row in self._rows]

    def reset(self, tasks: Sequence[Question]) -> list[Turn]:
        """Start an episode a question."""
        self._rows = [_Row(Record(question)) for question in tasks]
        self._pictures.clear()
        return [Turn(question.text, anchor=(question.id,)) for question in tasks]

    def step(self, rows: Sequence[int], actions: Sequence[str]) -> list[Reply]:
        """Carry out one action in each of some rows."""
        acts = [self._take(row, action) for row, action in zip(rows, actions, strict=True)]
        last = [len(self._rows[row].record.actions) > self.config.turns for row in rows]
        asking = [n for n, act in enumerate(acts) if isinstance(act, Act) and act.kind == "search" and not last[n]]
        queries = [acts[n].text for n in asking]  # type: ignore[union-attr]
        found: dict[int, list[Hit]] = {}
        broken = ""
        if queries:
            try:
                found = dict(zip(asking, self._retriever.search(queries, self.config.depth), strict=True))
            except Exception as error:  # whatever a retriever raises is the environment's fault, not the agents'
                broken = f"{type(error).__name__}: {error}"
        replies = []
        for n, (row, act) in enumerate(zip(rows, acts, strict=True)):
            record = self._rows[row].record
            if isinstance(act, Act) and act.kind == "answer":
                record.answer, record.outcome = act.text, "answered"
                replies.append(Reply(None, "answered"))
            elif last[n]:
                record.outcome = "turns"
                replies.append(Reply(None, "turns"))
            elif n in found:
                replies.append(self._show_page(row, found[n]))
            elif isinstance(act, Act) and act.kind == "search":
                record.outcome, record.error = "environment", broken
                replies.append(Reply(None, "environment", broken))
            elif isinstance(act, Act) and act.box is not None and self.config.crop:
                replies.append(self._show_cut(row, act.box))
            else:
                replies.append(self._refuse(row))
        return replies

    def _take(self, row: int, action: str) -> Act | str:
        """Note and read an action."""
        record = self._rows[row].record
        if record.outcome is not None:
            raise ValueError(f"row {row} was told {action[:40]!r}, but its episode is over ({record.outcome}).")
        record.actions.append(action)
        act = parse(action)
        record.searched |= isinstance(act, Act) and act.kind == "search"
        return act

    def _show_page(self, row: int, hits: Sequence[Hit]) -> Reply:
        """Show the best page that was not shown yet."""
        record = self._rows[row].record
        ranked = (self._corpus.pages[hit.page] for hit in hits)
        page = next((one for one in ranked if one.id not in record.shown), None)
        if page is None:
            return self._refuse(row)
        record.shown.append(page.id)
        return self._show(row, whole(page.id, page.pixels, self._budget))

    def _show_cut(self, row: int, box: Sequence[float]) -> Reply:
        """Show a box of the image on top."""
        views = self._rows[row].views
        view = cut(views[-1], box, self._budget) if views else None
        if view is None:
            return self._refuse(row)
        self._rows[row].record.crops += 1
        return self._show(row, view)

    def _show(self, row: int, view: View) -> Reply:
        self._rows[row].views.append(view)
        return Reply(Turn(images=(self._picture(view),), anchor=self._anchor(row)))

    def _refuse(self, row: int) -> Reply:
        self._rows[row].record.invalid += 1
        return Reply(Turn(INVALID, anchor=self._anchor(row), invalid=True))

    def _anchor(self, row: int) -> tuple[object, ...]:
        """Name a state: the question, and what was shown in which order."""
        state = self._rows[row]
        return (state.record.task.id, *((view.page, view.box) for view in state.views))

    def _picture(self, view: View) -> Tensor:
        """Return what a view shows, always with the same noise: what differs between rollouts is what they did."""
        if view not in self._pictures:
            shown = render(view, self._corpus.pages[self._corpus.numbers[view.page]].pixels)
            self._pictures[view] = noisy(shown, self.config.noise, f"{view.page} {view.box}")
        return self._pictures[view]


def noisy(picture: Tensor, level: float, key: str) -> Tensor:
    """Return a picture [H, W, C] uint8 with Gaussian noise, a pure function of the key."""
    if not level:
        return picture
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
    noise = np.random.default_rng(seed).standard_normal(tuple(picture.shape), np.float32)
    return (picture + torch.from_numpy(noise) * (255 * level)).round().clamp(0, 255).to(torch.uint8)
