"""VRAG's search API, served and spoken over real HTTP; a server that is away or slow is nobody's merit or fault."""

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import torch
from PIL import Image

from palaestra.envs.retrieval.corpus import Corpus, Page, Question
from palaestra.envs.retrieval.http import HttpRetriever, SearchError
from palaestra.envs.retrieval.retrievers import BM25
from palaestra.envs.retrieval.world import PageWorlds
from palaestra.launch.serve import ServeOptions, open_app
from palaestra.launch.server.app import App
from palaestra.launch.server.routes import ROUTES
from palaestra.launch.server.run import background
from palaestra.launch.server.search import open_search, searching
from palaestra.rewards.retrieval import RetrievalReward

WORDS = ("cat", "dog", "cat dog", "bird & fish?", "große Straße", "cat dog bird")
PAGES = tuple(Page(f"d_{n}", text, torch.zeros(8, 8, 1, dtype=torch.uint8), "d") for n, text in enumerate(WORDS))
CORPUS = Corpus(PAGES, {"test": (Question("q", "what?", "7", ("d_1",)),)})


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    app = App({}, dict(ROUTES) | {"/search": {"GET": searching(CORPUS, BM25(CORPUS.texts))}})
    with background(app) as url:
        yield url


def test_it_finds_what_its_retriever_finds(address: str) -> None:
    """Scores and order of 250 queries in three requests; reserved characters and other scripts arrive whole."""
    queries = ["cat", "bird & fish?", "straße", "dog+cat=100%", "日本", ""] + ["cat dog"] * 244
    assert HttpRetriever(address, CORPUS).search(queries, 4) == BM25(CORPUS.texts).search(queries, 4)
    assert HttpRetriever(address, CORPUS).search([]) == []
    long = HttpRetriever(address, CORPUS).search(["dog " + "é " * 50_000, "cat"], 1)  # 150 kB
    assert [hits[0].page for hits in long] == [1, 0]


def test_the_protocol_is_vrags(address: str) -> None:
    with urlopen(f"{address}/search?queries=dog&queries=cat") as answer:
        found = json.load(answer)
    assert [[entry["image_file"] for entry in hits][:2] for hits in found] == [
        ["d_1.png", "d_2.png"], ["d_0.png", "d_2.png"],
    ]  # fmt: skip
    assert found[0][0]["idx"] == 1


@pytest.mark.parametrize("query", ["", "?query=cat", "?queries=%FF", "?" + "&".join(["queries=a"] * 101)])
def test_wrong_requests(address: str, query: str) -> None:
    with pytest.raises(HTTPError) as error:
        urlopen(f"{address}/search{query}")
    assert error.value.code == 400 and "queries" in error.value.read().decode()


@contextmanager
def server(reply: bytes, wait: float = 0.0, status: int = 200, drip: bool = False) -> Iterator[str]:
    """Serve one answer to everything, perhaps slowly."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            over.wait(wait)
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            for byte in [bytes([one]) for one in reply] if drip else [reply]:
                try:
                    self.wfile.write(byte)
                    self.wfile.flush()
                except OSError:
                    return
                if drip and over.wait(0.05):
                    return

        def log_message(self, *args: Any) -> None:
            pass

    serving = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{serving.server_port}"
    finally:
        over.set()
        serving.shutdown()
        serving.server_close()


def outcome(address: str) -> tuple[Any, float]:
    """Return the record of an episode that searches there, and the seconds that it took."""
    worlds = PageWorlds(CORPUS, HttpRetriever(address, CORPUS, seconds=0.4))
    worlds.reset(CORPUS.splits["test"])
    began = time.monotonic()
    worlds.step([0], ["<search>cat</search>"])
    return worlds.records[0], time.monotonic() - began


def test_a_server_that_is_down_or_slow_voids_the_episode() -> None:
    """Refused, hanging, dripping: an environment error within the time-out, and no reward at all, not one of 0."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        free = bound.getsockname()[1]
    slow, dripping = server(b"[]", wait=5), server(b" " * 200, drip=True)
    found = [outcome(f"http://127.0.0.1:{free}")]
    with slow as address:
        found.append(outcome(address))
    with dripping as address:
        found.append(outcome(address))
    for record, seconds in found:
        assert record.outcome == "environment" and "SearchError" in record.error and seconds < 3
        assert RetrievalReward()(record) is None


@pytest.mark.parametrize(
    "reply",
    [
        b"nonsense", b"{}", b"[]", b"[[], []]", b"[7]", b'[["d_1"]]', b'[[{"idx": 1}]]',
        b'[[{"image_file": "unknown.png"}]]', b"[" * 100_000,
    ],
)  # fmt: skip
def test_answers_that_are_none(reply: bytes) -> None:
    with server(reply) as address, pytest.raises(SearchError, match="VRAG's search API"):
        HttpRetriever(address, CORPUS).search(["cat"])


def test_errors_of_the_server_are_passed_on() -> None:
    with server(b"out of memory", status=500) as address, pytest.raises(SearchError, match="answered 500: out of mem"):
        HttpRetriever(address, CORPUS).search(["cat"])
    for wrong in ("127.0.0.1:80", "https://a", "http://"):
        with pytest.raises(ValueError, match="address is like"):
            HttpRetriever(wrong, CORPUS)


def test_serve_opens_folders(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "report_1.png")
    (tmp_path / "report_1.txt").write_text("annual figures")
    app = open_app(ServeOptions(search=str(tmp_path)), [], None)
    with background(app) as url, urlopen(f"{url}/search?queries=annual") as answer:
        assert json.load(answer)[0][0]["image_file"] == "report_1.png"
    with pytest.raises(FileNotFoundError, match="none of tiny, documents"):
        open_search("nowhere")
    with pytest.raises(ValueError, match="--search FOLDER"):
        ServeOptions()


def test_scores_are_optional() -> None:
    """VRAG's own server sends none: ranks stand in."""
    with server(b'[[{"idx": 9, "image_file": "img/d_3.jpg"}, {"idx": 8, "image_file": "d_0.png"}]]') as address:
        found: Sequence[Any] = HttpRetriever(address, CORPUS).search(["cat"])[0]
    assert [(hit.page, hit.score) for hit in found] == [(3, 1.0), (0, 0.5)]
