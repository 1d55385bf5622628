"""Retrievers against plain formulas."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from palaestra.envs.retrieval.retrievers import BM25, Dense, Fusion, Hit, MaxSim, top, words

TEXTS = ["the cat sat on the mat", "a cat and a cat", "dogs and mats", "", "the dog", "a cat and a cat"]


def okapi(texts: Sequence[str], query: str, page: int, k1: float = 1.5, b: float = 0.75) -> float:
    """Lucene's BM25 as its formula: idf ln(1 + (N - n + ½) / (n + ½)), tf / (tf + k1 (1 - b + b L / mean L))."""
    split = [words(text) or [""] for text in texts]
    mean = sum(map(len, split)) / len(split)
    score = 0.0
    for word in words(query):
        holding = sum(word in text for text in split)
        count = Counter(split[page])[word]
        idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        score += idf * count / (count + k1 * (1 - b + b * len(split[page]) / mean))
    return score


@pytest.mark.parametrize("query", ["cat", "the cat and dogs", "cat cat", "unheard of", "", "CAT!", "mat " * 500])
def test_bm25_is_the_formula(query: str) -> None:
    """Every score, and the whole order with ties by page number."""
    query = " ".join(query.split()[:256])
    (hits,) = BM25(TEXTS).search([query], k=10)
    expected = [okapi(TEXTS, query, page) for page in range(len(TEXTS))]
    assert [hit.page for hit in hits] == sorted(range(len(TEXTS)), key=lambda page: (-round(expected[page], 5), page))
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.page], rel=1e-5, abs=1e-6)


def test_bm25_among_many() -> None:
    """Where far more pages are touched than asked for, the best are the same as those of a full sort."""
    generator = torch.Generator().manual_seed(0)
    texts = [" ".join(f"w{i}" for i in torch.randint(0, 30, (8,), generator=generator).tolist()) for _ in range(400)]
    retriever = BM25(texts)
    for query in ("w1", "w1 w2 w3", "w4 w4 w5"):
        (few,), (all_,) = retriever.search([query], 7), retriever.search([query], 400)
        assert few == all_[:7] and len(all_) == 400
        assert all((-a.score, a.page) < (-b.score, b.page) for a, b in pairwise(all_))


def test_searches_do_not_meet() -> None:
    retriever = BM25(TEXTS)
    alone = [retriever.search([query], 6)[0] for query in ("cat", "dog", "the mat")]
    assert retriever.search(["cat", "dog", "the mat"], 6) == alone


def test_top_breaks_ties_by_column() -> None:
    scores = torch.tensor([[1.0, 3, 3, 3, 3, 0], [5, 5, 5, 5, 5, 5], [0, 1, 2, 3, 4, 5]])
    assert [[hit.page for hit in hits] for hits in top(scores, 3)] == [[1, 2, 3], [0, 1, 2], [5, 4, 3]]
    assert [hit.page for hit in top(scores, 9)[0]] == [1, 2, 3, 4, 0, 5]


def test_dense_is_an_inner_product() -> None:
    torch.manual_seed(0)
    pages, asked = torch.randn(50, 8), torch.randn(4, 8)
    found = Dense(pages, lambda queries: asked[[int(query) for query in queries]]).search(["2", "0"], 5)
    for hits, query in zip(found, (2, 0), strict=True):
        order = (pages @ asked[query]).argsort(descending=True)[:5].tolist()
        assert [hit.page for hit in hits] == order
        assert hits[0].score == pytest.approx((pages[order[0]] @ asked[query]).item(), rel=1e-5)


def test_maxsim_is_its_sum() -> None:
    """Σ_i max_j q_i · d_j by loops; padding of pages never wins, padding of queries adds nothing."""
    torch.manual_seed(0)
    pages, lengths = torch.randn(7, 4, 3), [1, 4, 2, 3, 4, 1, 2]
    mask = torch.arange(4) < torch.tensor(lengths)[:, None]
    query = torch.cat([torch.randn(2, 3), torch.zeros(1, 3)])
    (hits,) = MaxSim(pages.masked_fill(~mask[..., None], 100.0), mask, lambda _: query[None], chunk=3).search(["q"], 7)
    for hit in hits:
        own = pages[hit.page, : lengths[hit.page]]
        assert hit.score == pytest.approx(sum(max(float(q @ d) for d in own) for q in query), rel=1e-4)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    with pytest.raises(ValueError, match="page 1 has no vector"):
        MaxSim(pages, torch.tensor([[True] * 4, [False] * 4, *[[True] * 4] * 5]), lambda _: query[None])


class Fixed:
    """A retriever that always finds the same."""

    def __init__(self, pages: Sequence[int], size: int = 5) -> None:
        self.pages, self.size = pages, size

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        return [[Hit(page, -rank) for rank, page in enumerate(self.pages)][:k] for _ in queries]


def test_fusion_by_hand() -> None:
    """1 / (60 + rank): page 1 is first and third, page 0 second twice, page 2 third and first: 1 and 2 tie above 0."""
    (hits,) = Fusion(Fixed([1, 0, 2]), Fixed([2, 0, 1])).search(["q"], 3)
    assert [hit.page for hit in hits] == [1, 2, 0]
    assert hits[0].score == pytest.approx(1 / 61 + 1 / 63)
    with pytest.raises(ValueError, match=r"sizes \[5, 6\]"):
        Fusion(Fixed([0]), Fixed([0], 6))


def test_an_empty_corpus_is_refused() -> None:
    def nothing(queries: Sequence[str]) -> Tensor:
        return torch.zeros(len(queries), 2)

    for make in (lambda: BM25([]), lambda: Dense(torch.zeros(0, 2), nothing)):
        with pytest.raises(ValueError, match="the corpus is empty"):
            make()
    assert BM25(["", ""]).search(["cat"], 5) == [[Hit(0, 0.0), Hit(1, 0.0)]]
    assert Dense(torch.zeros(3, 2), nothing).search([], 5) == []
    assert len(BM25(TEXTS).search(["cat " * 30_000], 2)[0]) == 2  # 120 kB
