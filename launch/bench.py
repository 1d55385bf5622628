"""The benches by name. Each returns what it measured, ready to be written as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from palaestra.launch.benches.driving import driving
from palaestra.launch.benches.driving_gpu import driving_gpu
from palaestra.launch.benches.exploration import exploration
from palaestra.launch.benches.gpu import gpu
from palaestra.launch.benches.guidance import guidance
from palaestra.launch.benches.learners import learners
from palaestra.launch.benches.phone import phone
from palaestra.launch.benches.pi0 import pi0
from palaestra.launch.benches.retrieval import retrieval
from palaestra.launch.benches.server import server
from palaestra.launch.benches.vla import vla
from palaestra.launch.benches.worlds import worlds

BENCHES: dict[str, Callable[..., dict[str, Any]]] = {
    "worlds": worlds,
    "exploration": exploration,
    "server": server,
    "gpu": gpu,
    "driving": driving,
    "driving-gpu": driving_gpu,
    "guidance": guidance,
    "learners": learners,
    "phone": phone,
    "retrieval": retrieval,
    "vla": vla,
    "pi0": pi0,
}
