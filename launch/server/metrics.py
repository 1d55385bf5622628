"""What the batchers count, as Prometheus reads it and as plain numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import accumulate
from typing import TYPE_CHECKING

from palaestra.agents.vlm.metrics import Histogram, Metrics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from palaestra.agents.vlm.batcher import Batcher

GAUGES = frozenset(["depth", "waiting", "in_flight"])
"""What goes down again."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of Prometheus' text format."""
PREFIX = "palaestra_"


def as_text(models: Mapping[str, Batcher], held: int) -> bytes:
    """Return the metrics of all models in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector

    class Snapshot(Collector):
        def collect(self) -> Iterator[Metric]:
            yield GaugeMetricFamily(f"{PREFIX}held_bytes", "Bytes that the requests in progress hold.", value=held)
            yield from _families({name: batcher.metrics() for name, batcher in models.items()})
            labels = ["model", "version"]
            weights = GaugeMetricFamily(f"{PREFIX}weights", "1, labelled with what is loaded.", labels=labels)
            for name, batcher in models.items():
                weights.add_metric([name, batcher.version], 1)
            yield weights

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Snapshot())
    return generate_latest(registry)


def _families(counts: Mapping[str, Metrics]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    for field in fields(Metrics):
        name, text = PREFIX + field.name, field.name.replace("_", " ")
        values = {model: getattr(metrics, field.name) for model, metrics in counts.items()}
        if field.name in GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["model"])
            for model, value in values.items():
                gauge.add_metric([model], value)
            yield gauge
        elif any(isinstance(value, Histogram) for value in values.values()):
            histogram = HistogramMetricFamily(name, text, labels=["model"])
            for model, value in values.items():
                bounds = [*map(str, value.bounds), "+Inf"]
                buckets = list(zip(bounds, accumulate(value.counts), strict=True))
                histogram.add_metric([model], buckets, value.sum)
            yield histogram
        else:
            counter = CounterMetricFamily(name, text, labels=["model"])
            for model, value in values.items():
                counter.add_metric([model], value)
            yield counter


def as_numbers(models: Mapping[str, Batcher]) -> dict[str, dict[str, float]]:
    """Return the metrics of all models by name."""
    return {name: batcher.metrics().numbers() for name, batcher in models.items()}
