"""The inference server's speed: how near its batcher comes to an engine's own, and what an ask costs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from palaestra.launch.benches.advice import advice_part
from palaestra.launch.benches.batcher import batcher_part
from palaestra.launch.benches.peers import peers_part
from palaestra.launch.benches.vlm import vlm_part

PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "batcher": batcher_part,
    "vlm": vlm_part,
    "advice": advice_part,
    "peers": peers_part,
}
"""What is measured, in order. Each part returns its numbers, ready to be written as JSON."""


def server(output: Path | None = Path("results/bench-server.json")) -> dict[str, Any]:
    """Measure every part, one after the other, on this machine.

    Args:
        output: Where the result is written, None for nowhere.

    Returns:
        The parts' numbers. `load` is how many processes were running before: where it is not near 0, times are longer
        than the server's own.
    """
    from palaestra.launch.files import write_atomically
    from palaestra.launch.result import provenance

    result: dict[str, Any] = {"bench": "server", "load": os.getloadavg()[0]}
    for name, part in PARTS.items():
        result[name] = part()
    result |= provenance()
    if output is not None:
        write_atomically(output, json.dumps(result, indent=2).encode() + b"\n")
    return result
