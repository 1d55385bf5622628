"""VRAG's search API: `GET /search?queries=a&queries=b` gives each query's best pages, best first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

from palaestra.envs.retrieval.corpus import Corpus, read_folder
from palaestra.envs.retrieval.documents import document_corpus
from palaestra.envs.retrieval.http import MOST_QUERIES
from palaestra.envs.retrieval.retrievers import BM25, Retriever
from palaestra.envs.retrieval.tiny import tiny_corpus
from palaestra.launch.server.app import Answer, App, Call, HttpError, Route, as_json

BEST = 10
"""Pages of a query, as VRAG's server gives."""
RENDERED: dict[str, Callable[[], Corpus]] = {"tiny": tiny_corpus, "documents": document_corpus}
"""Corpora by name."""


def open_search(source: str) -> Route:
    """Read a corpus and index it; return what answers searches.

    Raises:
        ValueError: The folder holds no pages, or something that is none.
        FileNotFoundError: There is no such folder.
    """
    if source not in RENDERED and not Path(source).is_dir():
        raise FileNotFoundError(f"--search {source!r} is no folder, and none of {', '.join(RENDERED)}.")
    corpus = RENDERED[source]() if source in RENDERED else read_folder(Path(source))
    return searching(corpus, BM25(corpus.texts))


def searching(corpus: Corpus, retriever: Retriever) -> Route:
    """Return what answers searches with a retriever, one request at a time."""
    turn = threading.Lock()

    def search(queries: list[str]) -> list[list[dict[str, object]]]:
        with turn:
            found = retriever.search(queries, BEST)
        return [
            [{"idx": hit.page, "image_file": f"{corpus.pages[hit.page].id}.png", "score": hit.score} for hit in hits]
            for hits in found
        ]

    async def answer(app: App, call: Call) -> Answer:
        return as_json(await asyncio.to_thread(search, _queries(call.query)))

    return Route(answer)


def _queries(query: bytes) -> list[str]:
    """Return the queries of a request."""
    try:
        given = parse_qs(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_QUERIES)
    except ValueError as error:
        problem = f"/search takes up to {MOST_QUERIES} queries, percent-encoded UTF-8: {error}"
        raise HttpError(400, problem, "queries") from None
    if set(given) != {"queries"}:
        raise HttpError(400, f"/search takes ?queries=TEXT&queries=TEXT…, got {sorted(given)[:5]}.", "queries")
    return given["queries"]
