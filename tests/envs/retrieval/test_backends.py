"""faiss and qdrant find what exhaustive search finds, ties included."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from palaestra.envs.retrieval.backends import Faiss, Qdrant, settled
from palaestra.envs.retrieval.retrievers import Dense, Hit, MaxSim

faiss = pytest.importorskip("faiss")
qdrant_client = pytest.importorskip("qdrant_client")


def some(pages: int = 300, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return vectors of pages and queries of small whole numbers: products are exact, and equal ones are many."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(-2, 3, (count, 6), generator=generator).float() for count in (pages, 5))  # type: ignore[return-value]


def test_faiss_is_exhaustive_search() -> None:
    pages, asked = some()
    ours, theirs = (kind(pages, lambda queries: asked[: len(queries)]) for kind in (Dense, Faiss))
    for k in (1, 7, 300, 400):
        assert theirs.search(["q"] * 5, k) == ours.search(["q"] * 5, k)
    assert theirs.search([]) == []


def test_an_approximate_index_finds_what_it_finds() -> None:
    """An inverted file that probes one of four cells gives fewer hits, none invented, and never page -1."""
    pages, asked = some()
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(6), 6, 4, faiss.METRIC_INNER_PRODUCT)
    index.train(pages.numpy())
    found = Faiss(pages, lambda _: asked, index).search(["q"] * 5, 200)
    for hits, query in zip(found, asked, strict=True):
        assert 0 < len(hits) < 200 and len({hit.page for hit in hits}) == len(hits)
        assert all(hit.score == pytest.approx(float(pages[hit.page] @ query)) for hit in hits)


def test_qdrant_is_exhaustive_late_interaction(tmp_path: Path) -> None:
    """Ragged pages and queries, in memory and in a folder that is opened again."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 5, (40,), generator=generator).tolist()
    pages = [torch.randint(-2, 3, (length, 6), generator=generator).float() for length in lengths]
    asked = torch.randint(-2, 3, (3, 2, 6), generator=generator).float()
    asked[1, 1] = 0

    def encode(queries: Sequence[str]) -> Tensor:
        return asked[: len(queries)]

    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(length, dtype=torch.bool) for length in lengths], True)
    ours = MaxSim(torch.nn.utils.rnn.pad_sequence(pages, True), mask, encode).search(["q"] * 3, 9)
    assert Qdrant(pages, encode).search(["q"] * 3, 9) == ours
    client = qdrant_client.QdrantClient(path=str(tmp_path / "index"))
    Qdrant(pages, encode, client)
    assert Qdrant(pages, encode, client).search(["q"] * 3, 9) == ours
    with pytest.raises(ValueError, match="holds 40 pages, the corpus 2"):
        Qdrant(pages[:2], encode, client)
    client.close()


def test_ties_are_settled_however_an_index_orders_them() -> None:
    """Fifty equal pages in the worst order, of which three are asked for: the first three."""
    fetched = []

    def fetch(count: int) -> list[list[Hit]]:
        fetched.append(count)
        return [[Hit(page, 1.0) for page in reversed(range(50))][:count]]

    assert settled(fetch, 3, 50) == [[Hit(0, 1.0), Hit(1, 1.0), Hit(2, 1.0)]]
    assert fetched == [14, 50]
    with pytest.raises(ValueError, match="corpus is empty"):
        Faiss(torch.zeros(0, 2), lambda _: torch.zeros(0, 2))
    with pytest.raises(ValueError, match="corpus is empty"):
        Qdrant([], lambda _: torch.zeros(0, 1, 2))
