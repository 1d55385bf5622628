"""A retriever behind HTTP that speaks VRAG's search API: `palaestra serve --search`, or VRAG's own server."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import PurePosixPath
from urllib.parse import urlencode, urlsplit

from palaestra.envs.retrieval.corpus import Corpus
from palaestra.envs.retrieval.retrievers import Hit

MOST_QUERIES = 100
"""Of one request, as VRAG's trainer sends."""
MOST_BYTES = 16 << 20
"""Of an answer."""
LONGEST_LINE = 48_000
"""Bytes of a request's path and query: servers refuse longer ones."""


class SearchError(ConnectionError):
    """The server is away, too slow, or does not answer as it should: the environment's failure, not an agent's."""


class HttpRetriever:
    """Finds pages of a corpus by asking a server; a `Retriever`."""

    def __init__(self, address: str, corpus: Corpus, *, seconds: float = 10.0, token: str | None = None) -> None:
        """Take the server's address; nothing is asked yet.

        Args:
            address: Such as http://127.0.0.1:8002.
            corpus: Whose pages the server knows, by their ids.
            seconds: That one request may take, all in all.
            token: Sent as `Authorization: Bearer …`.

        Raises:
            ValueError: The address is none.
        """
        parts = urlsplit(address)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"a search server's address is like http://127.0.0.1:8002, got {address!r}.")
        self.size, self._numbers = len(corpus.pages), corpus.numbers
        self._host, self._port, self._path = parts.hostname, parts.port or 80, parts.path.rstrip("/") + "/search"
        self._name, self._seconds = address, seconds
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]:
        """See `Retriever.search`; the server says how many pages there are at most.

        Raises:
            SearchError: It does not answer in time, or not as it should.
        """
        found: list[list[Hit]] = []
        for some in _batches(queries):
            found += [hits[:k] for hits in self._ask(some)]
        return found

    def _ask(self, queries: Sequence[str]) -> list[list[Hit]]:
        ends = time.monotonic() + self._seconds
        connection = HTTPConnection(self._host, self._port, timeout=self._seconds)
        try:
            connection.request("GET", f"{self._path}?{_encoded(queries)}", headers=self._headers)
            answer = connection.getresponse()
            body = b""
            while part := answer.read1(1 << 16):
                body += part
                if time.monotonic() > ends or len(body) > MOST_BYTES:
                    what = f"more than {self._seconds:g} s" if len(body) <= MOST_BYTES else f"over {MOST_BYTES} bytes"
                    raise SearchError(f"{self._name} sends for {what}.")
        except (OSError, HTTPException) as error:
            if isinstance(error, SearchError):
                raise
            raise SearchError(f"{self._name} does not answer: {type(error).__name__}: {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise SearchError(f"{self._name} answered {answer.status}: {body[:200].decode('utf-8', 'replace')}")
        return self._read(body, len(queries))

    def _read(self, body: bytes, count: int) -> list[list[Hit]]:
        """Read the answer to so many queries."""
        try:
            lists = json.loads(body)
            if len(lists) != count:
                raise ValueError(f"{count} queries were answered with {len(lists)} lists")
            return [
                [self._hit(entry, rank) for rank, entry in enumerate(entries, start=1)] for entries in lists
            ]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SearchError(f"{self._name} does not speak VRAG's search API: {error!r}") from error

    def _hit(self, entry: dict[str, object], rank: int) -> Hit:
        """Read one page; its number is that of its name here, whatever the server counts."""
        name = PurePosixPath(str(entry["image_file"])).stem
        score = entry.get("score", 1 / rank)
        return Hit(self._numbers[name], float(score) if isinstance(score, int | float) else 1 / rank)


def _encoded(queries: Sequence[str]) -> str:
    """Return queries as a URL takes them."""
    return urlencode([("queries", query) for query in queries], errors="replace")


def _batches(queries: Sequence[str]) -> list[list[str]]:
    """Return queries in requests of at most `MOST_QUERIES`, and of a length that servers take; one alone is cut."""
    batches: list[list[str]] = []
    length = LONGEST_LINE
    for query in queries:
        while len(_encoded([query])) > LONGEST_LINE:
            query = query[: len(query) // 2]
        more = len(_encoded([query])) + 1
        if not batches or length + more > LONGEST_LINE or len(batches[-1]) == MOST_QUERIES:
            batches.append([])
            length = 0
        batches[-1].append(query)
        length += more
    return batches
