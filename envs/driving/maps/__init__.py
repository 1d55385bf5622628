"""Seeded generators of maps, by family, and suites of them for training and testing."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Protocol

from palaestra.envs.driving.lanes import LaneGraph
from palaestra.envs.driving.maps.crossings import priority, roundabout, signalised
from palaestra.envs.driving.maps.draw import Split
from palaestra.envs.driving.maps.highway import highway
from palaestra.envs.driving.maps.streets import arterial, lane_drop
from palaestra.envs.driving.maps.town import town

__all__ = ["MAPS", "SUITES", "Generator", "Split", "suite"]


class Generator(Protocol):
    """Makes maps of one family."""

    def __call__(self, seed: int = 0, split: Split = "train") -> LaneGraph:
        """Return the map of a seed, the same every time."""


MAPS: dict[str, Generator] = {
    "highway": highway,
    "arterial": arterial,
    "lane-drop": lane_drop,
    "signalised": signalised,
    "priority": priority,
    "roundabout": roundabout,
    "town": town,
}
"""Families by name."""
SUITES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in MAPS},
    "junctions": ("signalised", "priority", "roundabout"),
    "streets": ("arterial", "lane-drop", "signalised", "priority", "roundabout", "town"),
    "mixed": tuple(MAPS),
}
"""Suites by name: the families that they take turns with. Every family is a suite too; streets are those on which
one may drive at a town's speeds."""


def suite(name: str, split: Split = "train", count: int = 8, seed: int = 0) -> list[LaneGraph]:
    """Return maps for training or testing, which never share a map; see `Draw`.

    Args:
        name: One of `SUITES`.
        split: "train" or "test".
        count: How many maps.
        seed: Of the first map; the next ones count on.
    """
    if name not in SUITES:
        near = get_close_matches(name, SUITES, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no suite of maps {name!r}; there are {', '.join(SUITES)}.{hint}")
    families = SUITES[name]
    return [MAPS[families[at % len(families)]](seed + at // len(families), split) for at in range(count)]
