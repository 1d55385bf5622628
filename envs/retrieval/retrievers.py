"""Retrievers: lexical (BM25), dense, late interaction (MaxSim), and their fusion by ranks.

All search a batch of queries at once, and break ties by the lower page number: the rollouts of a group are compared
with one another, so equal queries must see equal pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LONGEST = 256
"""Words of a query that are read; the rest of a longer one is ignored."""

SPARSE = 32
"""A query whose words occur on fewer pages than a share of 1 / 32 of all looks at those alone."""

Encode = Callable[[Sequence[str]], Tensor]
"""Queries to vectors: [Q, D] for `Dense`, [Q, W, D] for `MaxSim` (rows of zeros where a query is shorter)."""


class Hit(NamedTuple):
    """A page that was found."""

    page: int
    """Its number in the corpus."""
    score: float
    """The higher, the better; comparable within one query."""


class Retriever(Protocol):
    """Finds pages."""

    size: int
    """How many pages there are."""

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """Return the best `k` pages (all, where there are fewer) of each query, best first, ties by page number."""
        ...


def words(text: str, most: int | None = None) -> list[str]:
    """Return the lower-case words of a text, at most so many."""
    if most is None:
        return re.findall(r"\w+", text.lower())
    return [match.group() for _, match in zip(range(most), re.finditer(r"\w+", text.lower()), strict=False)]


def check_size(size: int) -> int:
    """Return how many pages there are; an empty corpus is refused."""
    if not size:
        raise ValueError("the corpus is empty: a retriever needs at least one page.")
    return size


class BM25:
    """Okapi BM25 as in Lucene: bm25s's index (Lù 2024, arXiv:2407.03618), of which only the postings are touched.

    bm25s itself adds up and partitions a score for every page; here a query costs what its words' postings do.
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.5, b: float = 0.75) -> None:
        """Index texts, one a page.

        Raises:
            ImportError: The package bm25s is not installed.
            ValueError: There is no text.
        """
        try:
            import bm25s
        except ImportError as error:
            raise ImportError("BM25 needs bm25s: pip install 'palaestra[retrieval]'.") from error
        self.size = check_size(len(texts))
        # A page of no words at all is nobody's hit, but an index of nothing else could not be built.
        index = bm25s.BM25(k1=k1, b=b)
        index.index([words(text) or [""] for text in texts], show_progress=False)
        scores: Any = index.scores
        self._weight: NDArray[np.float32] = scores["data"]
        # np.add.at is several times as fast as indexing, but only with indices of the machine's own width.
        self._page: NDArray[np.intp] = scores["indices"].astype(np.intp)
        starts: list[int] = scores["indptr"].tolist()
        self._postings = {word: (starts[i], starts[i + 1]) for word, i in index.vocab_dict.items() if word}
        self._scores = np.zeros(self.size, np.float32)

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """See `Retriever.search`. Pages that share no word with a query come last, with a score of 0."""
        return [self._one(query, min(k, self.size)) for query in queries]

    def _one(self, query: str, k: int) -> list[Hit]:
        spans = [self._postings[word] for word in words(query, LONGEST) if word in self._postings]
        scores = self._scores
        for start, end in spans:
            np.add.at(scores, self._page[start:end], self._weight[start:end])
        few = sum(end - start for start, end in spans) < self.size // SPARSE
        if few:
            touched = [self._page[start:end] for start, end in spans]
            pages = np.unique(np.concatenate(touched)) if touched else np.empty(0, np.intp)
        else:
            least = np.partition(scores, self.size - k)[self.size - k]
            pages = np.flatnonzero(scores >= least if least > 0 else scores)
        best = pages[np.argsort(-scores[pages], kind="stable")[:k]]
        hits = [Hit(page, score) for page, score in zip(best.tolist(), scores[best].tolist(), strict=True)]
        if len(hits) < k:  # then fewer than k pages score at all, and the first others are among the first 2 k
            rest = np.flatnonzero(scores[: 2 * k] == 0)[: k - len(hits)]
            hits += [Hit(page, 0.0) for page in rest.tolist()]
        if few:
            scores[pages] = 0
        else:
            scores.fill(0)
        return hits


class Dense:
    """One vector a page, compared by inner product, exhaustively."""

    def __init__(self, pages: Tensor, encode: Encode) -> None:
        """Take page vectors [N, D], on the device where the search shall run, and what makes such of queries."""
        self.size = check_size(len(pages))
        self._pages, self._encode = pages, encode

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """See `Retriever.search`."""
        if not queries:
            return []
        with torch.inference_mode():
            return top(self._encode(queries).to(self._pages) @ self._pages.T, k)


class MaxSim:
    """Late interaction (Khattab & Zaharia 2020; ColPali, Faysse et al. 2024): Σ_i max_j q_i · d_j over vectors."""

    def __init__(self, pages: Tensor, mask: Tensor, encode: Encode, chunk: int = 512) -> None:
        """Take the pages' vectors and which of them there are.

        Args:
            pages: [N, P, D], on the device where the search shall run.
            mask: [N, P] bool: False for vectors that only pad.
            encode: Queries to [Q, W, D].
            chunk: Pages that are scored at once: bounds the memory.
        """
        self.size = check_size(len(pages))
        if not bool(mask.any(1).all()):
            raise ValueError(f"page {int((~mask.any(1)).nonzero()[0])} has no vector: mask leaves all of it out.")
        self._pages, self._mask, self._encode, self._chunk = pages, mask, encode, chunk

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """See `Retriever.search`."""
        if not queries:
            return []
        with torch.inference_mode():
            vectors = self._encode(queries).to(self._pages)
            parts = []
            for start in range(0, self.size, self._chunk):
                pages, mask = self._pages[start : start + self._chunk], self._mask[start : start + self._chunk]
                similar = vectors.flatten(0, 1) @ pages.flatten(0, 1).T
                similar = similar.view(len(vectors), -1, *mask.shape).masked_fill(~mask, -torch.inf)
                parts.append(similar.amax(-1).sum(1))
            return top(torch.cat(parts, 1), k)


class Fusion:
    """Reciprocal-rank fusion (Cormack et al. 2009): Σ 1 / (60 + rank) over retrievers of the same pages."""

    def __init__(self, *retrievers: Retriever, depth: int = 100, constant: float = 60.0) -> None:
        """Take at least two retrievers; each contributes its best `depth` pages."""
        if len(retrievers) < 2 or len({retriever.size for retriever in retrievers}) > 1:
            sizes = [retriever.size for retriever in retrievers]
            raise ValueError(f"fusion needs two or more retrievers of the same pages, got sizes {sizes}.")
        self.size = retrievers[0].size
        self._retrievers, self._depth, self._constant = retrievers, depth, constant

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """See `Retriever.search`."""
        rankings = [retriever.search(queries, max(k, self._depth)) for retriever in self._retrievers]
        fused = []
        for of_query in zip(*rankings, strict=True):
            scores: dict[int, float] = {}
            for ranking in of_query:
                for rank, hit in enumerate(ranking, start=1):
                    scores[hit.page] = scores.get(hit.page, 0.0) + 1 / (self._constant + rank)
            best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]
            fused.append([Hit(*item) for item in best])
        return fused


def top(scores: Tensor, k: int) -> list[list[Hit]]:
    """Return the best `k` columns of each row of scores [Q, N], best first, ties by the lower column."""
    k = min(k, scores.shape[1])
    values, pages = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if not bool((values[:, 1:] == values[:, :-1]).any()):
        return _hits(values[:, :k], pages[:, :k])
    if values.shape[1] > k:
        # Which of several equal columns `topk` takes at its edge is left open: such rows are sorted whole.
        for row in (values[:, k - 1] == values[:, k]).nonzero().flatten().tolist():
            values[row], pages[row] = (part[: k + 1] for part in scores[row].sort(descending=True, stable=True))
        values, pages = values[:, :k], pages[:, :k]
    ascending = pages.sort(dim=1).indices
    values, pages = values.gather(1, ascending), pages.gather(1, ascending)
    order = values.sort(dim=1, descending=True, stable=True).indices
    return _hits(values.gather(1, order), pages.gather(1, order))


def _hits(values: Tensor, pages: Tensor) -> list[list[Hit]]:
    """Return scores and pages [Q, K] as hits."""
    made = partial(tuple.__new__, Hit)  # as Hit._make, without its call of Python
    rows = zip(pages.tolist(), values.tolist(), strict=True)
    return [[*map(made, zip(numbers, found, strict=True))] for numbers, found in rows]
