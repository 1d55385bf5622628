"""Random knobs of maps: the same for the same seed, and never the same for training and testing."""

from __future__ import annotations

from typing import Literal
from zlib import crc32

import numpy as np

Split = Literal["train", "test"]
BINS = 8
"""Parts of a knob's range: training draws from the even ones, testing from the odd ones."""


class Draw:
    """Draws a map's knobs from its seed.

    Train and test maps differ twice: their streams of random numbers differ at equal seeds, and the range of every
    continuous knob is cut into 8 equal parts of which training uses the first, third, ... and testing the others. So
    no test map has a value that a training map could have, while both cover the same range.
    """

    def __init__(self, family: str, split: Split, seed: int) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
        if seed < 0:
            raise ValueError(f"a map's seed must be 0 or more, got {seed}.")
        self.family, self.split, self.seed = family, split, seed
        self.random = np.random.default_rng([crc32(family.encode()), split == "test", seed])

    @property
    def name(self) -> str:
        """The map's name."""
        return f"{self.family}-{self.split}-{self.seed}"

    def uniform(self, low: float, high: float) -> float:
        """Return a number from this split's part of a range."""
        part = 2 * int(self.random.integers(BINS // 2)) + (self.split == "test")
        return float(low + (high - low) * (part + self.random.random()) / BINS)

    def choice(self, *options: int) -> int:
        """Return one of the options."""
        return int(options[int(self.random.integers(len(options)))])

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return bool(self.random.random() < probability)
