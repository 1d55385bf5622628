"""Retrievers over other people's indexes: faiss for dense vectors, qdrant for late interaction.

Both leave open which of several equal pages they return; here ties go to the lower page number, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from palaestra.envs.retrieval.retrievers import Encode, Hit, check_size

Fetch = Callable[[int], list[list[Hit]]]
"""Returns so many hits of each query, best first, equal ones in any order."""


class Faiss:
    """Dense vectors in a faiss index, by default an exhaustive one over inner products."""

    def __init__(self, pages: Tensor, encode: Encode, index: Any = None) -> None:
        """Add page vectors to an index.

        Args:
            pages: [N, D].
            encode: Queries to [Q, D].
            index: An empty, trained faiss index of width D whose scores are the higher the better; approximate ones
                find what they find.

        Raises:
            ImportError: faiss is not installed.
        """
        try:
            import faiss
        except ImportError as error:
            raise ImportError("Faiss needs faiss: pip install 'palaestra[faiss]'.") from error
        self.size = check_size(len(pages))
        self._encode, self._index = encode, faiss.IndexFlatIP(pages.shape[1]) if index is None else index
        self._index.add(pages.detach().cpu().float().contiguous().numpy())

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """See `Retriever.search`."""
        if not queries:
            return []
        with torch.inference_mode():
            asked = self._encode(queries).detach().cpu().float().contiguous().numpy()

        def fetch(count: int) -> list[list[Hit]]:
            scores, numbers = self._index.search(asked, count)
            pairs = zip(numbers.tolist(), scores.tolist(), strict=True)
            return [[Hit(*hit) for hit in zip(*row, strict=True) if hit[0] >= 0] for row in pairs]

        return settled(fetch, k, self.size)


class Qdrant:
    """Vectors of late interaction in a qdrant collection: in memory, in a folder, or on a server."""

    def __init__(self, pages: Sequence[Tensor], encode: Encode, client: Any = None, collection: str = "pages") -> None:
        """Fill a collection, unless it already holds as many pages.

        Args:
            pages: Each [P, D], as many vectors as the page has.
            encode: Queries to [Q, W, D] (rows of zeros where a query is shorter).
            client: A `QdrantClient`; by default one in memory.
            collection: Its name.

        Raises:
            ImportError: qdrant-client is not installed.
            ValueError: The collection exists and holds another number of pages.
        """
        try:
            from qdrant_client import QdrantClient, models
        except ImportError as error:
            raise ImportError("Qdrant needs qdrant-client: pip install 'palaestra[qdrant]'.") from error
        self.size = check_size(len(pages))
        self._encode, self._client, self._name = encode, client or QdrantClient(":memory:"), collection
        if self._client.collection_exists(collection):
            count = self._client.count(collection).count
            if count != self.size:
                raise ValueError(f"the collection {collection!r} holds {count} pages, the corpus {self.size}.")
            return
        several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        width = models.VectorParams(size=pages[0].shape[1], distance=models.Distance.DOT, multivector_config=several)
        self._client.create_collection(collection, vectors_config=width)
        points = [models.PointStruct(id=number, vector=page.tolist()) for number, page in enumerate(pages)]
        for start in range(0, len(points), 256):
            self._client.upsert(collection, points[start : start + 256])

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """See `Retriever.search`."""
        from qdrant_client import models

        if not queries:
            return []
        with torch.inference_mode():
            asked = [_words(query) for query in self._encode(queries).detach().cpu().float()]

        def fetch(count: int) -> list[list[Hit]]:
            requests = [models.QueryRequest(query=query, limit=count) for query in asked]
            answers = self._client.query_batch_points(self._name, requests)
            return [[Hit(int(point.id), point.score) for point in answer.points] for answer in answers]

        return settled(fetch, k, self.size)


def settled(fetch: Fetch, k: int, size: int) -> list[list[Hit]]:
    """Return the best `k` hits of each query with ties by page number, whichever of equal ones an index returns.

    More and more are fetched until the score at the edge is a different one from the k-th, or there are no more.
    """
    k, count = min(k, size), min(2 * k + 8, size)
    while True:
        found = fetch(count)
        open_ends = any(len(hits) >= count and hits[k - 1].score == hits[-1].score for hits in found)
        if count == size or not open_ends:
            return [sorted(hits, key=lambda hit: (-hit.score, hit.page))[:k] for hits in found]
        count = min(4 * count, size)


def _words(query: Tensor) -> list[list[float]]:
    """Return a query's vectors [W, D] without the padding; one of zeros where nothing else is left."""
    kept = query[query.abs().sum(1) > 0]
    listed: list[list[float]] = (kept if len(kept) else query[:1]).tolist()
    return listed
