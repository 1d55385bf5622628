"""What a batcher counts: plain numbers and histogram buckets, without a metrics package."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, fields, replace

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of durations."""
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Upper bounds of the buckets of shares."""


@dataclass(slots=True)
class Histogram:
    """How often a quantity fell into each bucket."""

    bounds: tuple[float, ...]
    """Upper bounds, inclusive and rising. One more bucket holds what is above the last."""
    counts: list[int] = field(default_factory=list)
    """One a bucket (not cumulative), `len(bounds) + 1` of them."""
    sum: float = 0.0
    """Of all that was observed."""

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        """Return a copy that later observations leave as it is."""
        return replace(self, counts=list(self.counts))

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Their mean; 0 where there are none."""
        return self.sum / max(self.count, 1)


@dataclass(slots=True)
class Metrics:
    """What a batcher has done so far, and what it is doing.

    Every ask ends in one way: submitted = answered + refused + late + cancelled + failed + depth + waiting + in_flight.
    """

    submitted: int = 0
    """Asks that the engine could answer, merged and refused ones included."""
    answered: int = 0
    """Replies, from the cache too."""
    refused: int = 0
    """No room, and the caller would not wait."""
    late: int = 0
    """Deadlines that passed before the model ran."""
    cancelled: int = 0
    """Taken back before the model ran."""
    failed: int = 0
    """Ended by an error of the engine, or by `close`."""
    merged: int = 0
    """Asks that shared another one's turn. They are also answered, late, …"""
    kept: int = 0
    """Replies that came from the cache."""
    batches: int = 0
    """Calls of the engine."""
    depth: int = 0
    """Asks in the queue now, merged ones included."""
    waiting: int = 0
    """Asks whose callers now wait for room in the queue."""
    in_flight: int = 0
    """Asks that the model is answering now."""
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    """From the ask to the start of its batch, one an ask that reached the model."""
    model_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    """One a batch."""
    fill: Histogram = field(default_factory=lambda: Histogram(SHARES))
    """Size of a batch over the largest allowed, one a batch."""
    padding: Histogram = field(default_factory=lambda: Histogram(SHARES))
    """Share of a batch's room that pads the short asks to the longest, one a batch."""

    def numbers(self) -> dict[str, float]:
        """Return every count by its name, and the mean of each histogram."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value.mean if isinstance(value, Histogram) else value for name, value in values.items()}

    def snapshot(self, depth: int, waiting: int, in_flight: int) -> Metrics:
        """Return a copy with these gauges, which later counting leaves as it is."""
        return replace(
            self,
            depth=depth,
            waiting=waiting,
            in_flight=in_flight,
            queue_seconds=self.queue_seconds.copy(),
            model_seconds=self.model_seconds.copy(),
            fill=self.fill.copy(),
            padding=self.padding.copy(),
        )
