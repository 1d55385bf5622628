"""`palaestra bench retrieval`: search beside bm25s and faiss called directly, and conversations in lock step."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

QUERIES = 200
"""Of a batch."""
BEST = 10
"""Pages that a query asks for."""
WIDTH = 128
"""Numbers of a page's vector."""


def retrieval(
    pages: tuple[int, ...] = (1_000, 20_000, 100_000),
    episodes: int = 64,
    rounds: int = 5,
    seed: int = 0,
    output: Path | None = Path("results/bench-retrieval.json"),
) -> dict[str, Any]:
    """Measure seconds of a batch of 200 queries, and of episodes together and one by one; contenders take turns.

    Args:
        pages: Sizes of the corpora: 60 words a page from 20,000 (Zipf), 4 words a query, 128 numbers a vector.
        episodes: Conversations of the small model, untrained, with the tiny corpus.
        rounds: How often each contender has its turn.
        seed: Of everything.
        output: Where the result is written, None for nowhere.

    Returns:
        Medians over rounds in seconds, and ratios of the paired turns: (median, least, greatest), other over ours.
    """
    import torch

    from palaestra.launch.files import write_atomically
    from palaestra.launch.result import provenance

    torch.set_num_threads(1)
    result = {
        "bench": "retrieval", "queries": QUERIES, "rounds": rounds, "seed": seed, "load": os.getloadavg()[0],
        "lexical": {str(size): _lexical(size, rounds, seed) for size in pages},
        "dense": {str(size): _dense(size, rounds, seed) for size in pages},
        "conversations": _conversations(episodes, max(2, rounds // 2), seed),
        **provenance(),
    }  # fmt: skip
    if output is not None:
        write_atomically(output, json.dumps(result, indent=2).encode() + b"\n")
    return result


def _paired(plays: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    """Return each contender's median seconds, and the others' over the first's in paired turns."""
    taken: dict[str, list[float]] = {name: [] for name in plays}
    for play in plays.values():
        play()
    for _ in range(rounds):
        for name, play in plays.items():
            began = time.perf_counter()
            play()
            taken[name].append(time.perf_counter() - began)
    ours = next(iter(plays))
    ratios = {
        name: [other / mine for other, mine in zip(taken[name], taken[ours], strict=True)]
        for name in plays
        if name != ours
    }
    return {
        "seconds": {name: median(seconds) for name, seconds in taken.items()},
        "ratio": {name: (median(some), min(some), max(some)) for name, some in ratios.items()},
    }


def _lexical(size: int, rounds: int, seed: int) -> dict[str, Any]:
    import bm25s
    import numpy as np

    from palaestra.envs.retrieval.retrievers import BM25, words

    generator = np.random.default_rng((seed, size))

    def text(length: int) -> str:
        return " ".join(f"w{number}" for number in generator.zipf(1.3, length) % 20_000)

    texts, queries = [text(60) for _ in range(size)], [text(4) for _ in range(QUERIES)]
    ours, theirs = BM25(texts), bm25s.BM25()
    theirs.index([words(one) for one in texts], show_progress=False)

    def direct() -> object:
        return theirs.retrieve([words(query) for query in queries], k=BEST, show_progress=False)

    return _paired({"palaestra": lambda: ours.search(queries, BEST), "bm25s": direct}, rounds)


def _dense(size: int, rounds: int, seed: int) -> dict[str, Any]:
    import faiss
    import torch

    from palaestra.envs.retrieval.retrievers import Dense

    generator = torch.Generator().manual_seed(seed)
    pages, asked = (torch.randn(count, WIDTH, generator=generator) for count in (size, QUERIES))
    index = faiss.IndexFlatIP(WIDTH)
    index.add(pages.numpy())
    faiss.omp_set_num_threads(1)
    ours, names = Dense(pages, lambda _: asked), [""] * QUERIES

    def direct() -> object:
        return index.search(asked.numpy(), BEST)

    return _paired({"palaestra": lambda: ours.search(names, BEST), "faiss": direct}, rounds)


def _conversations(episodes: int, rounds: int, seed: int) -> dict[str, Any]:
    """Play the same conversations together and one by one.

    The model is untrained, so its words do not matter: whatever it says in eight tokens is taken for a search, which
    makes every conversation four searches, four pages seen, and a fifth turn.
    """
    import torch

    from palaestra.agents.grpo.rollout import SpeakConfig, converse
    from palaestra.agents.grpo.tiny import TinySpeaker
    from palaestra.envs.retrieval.corpus import Question
    from palaestra.envs.retrieval.retrievers import BM25
    from palaestra.envs.retrieval.tiny import tiny_corpus
    from palaestra.envs.retrieval.world import PageWorldConfig, PageWorlds

    class Searcher(TinySpeaker):
        def closed(self, ids: Sequence[int]) -> bool:
            return len(ids) == 8

        def decode(self, ids: Sequence[int]) -> str:
            return "<search> canine urban</search>"

    torch.manual_seed(seed)
    corpus = tiny_corpus(seed)
    speaker, worlds = Searcher(), PageWorlds(corpus, BM25(corpus.texts), PageWorldConfig())
    tasks: Sequence[Question] = corpus.splits["rl"][:episodes]
    config = SpeakConfig()

    def one_by_one() -> None:
        for task in tasks:
            converse(speaker, worlds, [task], config)

    return {"episodes": episodes} | _paired(
        {"together": lambda: converse(speaker, worlds, tasks, config), "one by one": one_by_one}, rounds
    )
