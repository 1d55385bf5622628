"""Our server beside LitServe and Ray Serve: the same model function, batch limit, wait and load."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from statistics import median
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from palaestra.launch.benches.echo import BATCH, DELAY, WAIT

BODY = {"model": "model", "messages": [{"role": "user", "content": "What is in the way?"}], "max_tokens": 16}
SERVERS = ("palaestra", "litserve", "ray_serve")


OFFERED = (100, 200, 400, 800, 1600, 2500)
"""Requests a second under which the most answers a second are sought: too much load makes some servers collapse."""


def peers_part(rounds: int = 2, seconds: float = 3.0) -> dict[str, Any]:
    """Measure saturated throughput, then latency at half of what saturates the slowest server.

    Args:
        rounds: How often each server has its turn.
        seconds: How long each load lasts.

    Returns:
        Answers a second of each server at its best and under each load, latencies, and ratios of ours to each peer.
        The ideal is `BATCH / DELAY` answers a second.
    """
    under: dict[str, list[dict[str, float]]] = {name: [] for name in SERVERS}
    for _ in range(rounds):
        for name in SERVERS:
            turns = _turn(name, OFFERED, seconds)
            under[name].append({str(rate): turn["rate"] for rate, turn in zip(OFFERED, turns, strict=True)})
    best = {name: median(max(each.values()) for each in found) for name, found in under.items()}
    half = min(best.values()) / 2
    latencies: dict[str, list[dict[str, float]]] = {name: [] for name in SERVERS}
    for _ in range(rounds):
        for name in SERVERS:
            latencies[name] += _turn(name, (half, half), 2 * seconds)[1:]
    at_half = {
        name: {key: median(turn.get(key, math.nan) for turn in turns) for key in ("p50", "p90", "p99", "failed")}
        for name, turns in latencies.items()
    }
    ours, peers = SERVERS[0], SERVERS[1:]
    return {
        "ideal": BATCH / DELAY,
        "best": best,
        "under": under,
        "half": half,
        "latency": at_half,
        "throughput over": {name: best[ours] / best[name] for name in peers},
        "p50 of": {name: at_half[ours]["p50"] / at_half[name]["p50"] for name in peers},
        "p99 of": {name: at_half[ours]["p99"] / at_half[name]["p99"] for name in peers},
    }


def _turn(name: str, rates: Sequence[float], seconds: float) -> list[dict[str, float]]:
    """Start a server, load it from another process at one rate after the other, and return what that saw."""
    found: list[dict[str, float]] = []
    with _running(name) as url, tempfile.NamedTemporaryFile(suffix=".json") as body:
        body.write(json.dumps(BODY).encode())
        body.flush()
        for rate in rates:
            words = [sys.executable, "-m", "palaestra.launch.benches.load", url, body.name, str(rate), str(seconds)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            found.append(json.loads(done.stdout))
    return found


@contextmanager
def _running(name: str) -> Iterator[str]:
    """Run a server in a process of its own; give the address that takes the asks."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if name == "palaestra":
        model = f"model=echo:?delay={DELAY}"
        options = ["--port", str(port), "--max-batch", str(BATCH), "--max-wait", str(WAIT), "--max-queue", "4096"]
        words = ["palaestra.launch.cli", "serve", "--model", model, *options]
        path = "/v1/chat/completions"
    else:
        words, path = [f"palaestra.launch.benches.{name}_echo", str(port)], "/predict"
    url = f"http://127.0.0.1:{port}{path}"
    process = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _await(url, process)
        yield url
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what a peer leaves behind would share the next one's cores
        process.wait()


def _await(url: str, process: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + seconds
    request = Request(url, json.dumps(BODY).encode(), {"Content-Type": "application/json"})
    while True:
        try:
            with urlopen(request, timeout=5):
                return
        except (URLError, OSError) as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{url} does not serve: {error}; exit code {process.poll()}.") from error
            time.sleep(0.1)
