"""Metrics for Prometheus, built when they are asked for.

Nothing is counted twice: the numbers are those of the engine's snapshot. Beside them stand
the metrics of `prometheus_client`'s default registry: process, platform, and those that the
user's own code has registered there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)
from prometheus_client.registry import Collector

from flowguard._native.histogram import LatencyHistogram
from flowguard.lanes.lane import Lane
from flowguard.observe.metrics import LATENCY_EDGES_S, METRICS, Metric, Observed

__all__ = ["SnapshotCollector", "latency_buckets", "make_registry"]


class SnapshotCollector(Collector):
    """Turns what is observed into families of metrics.

    Args:
        observe: Returns what to read them from; called once a scrape.
    """

    def __init__(self, observe: Callable[[], Observed]) -> None:
        self._observe = observe

    def collect(self) -> Iterable[Family]:
        """Return every family that has a value."""
        observed = self._observe()
        for metric in METRICS:
            family = make_family(metric, observed)
            if family.samples:
                yield family


def make_registry(observe: Callable[[], Observed]) -> CollectorRegistry:
    """Return the registry of one worker."""
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(observe))
    registry.register(REGISTRY)
    return registry


def make_family(metric: Metric, observed: Observed) -> Family:
    """Return one family with its samples; what is unknown has none."""
    if metric.type == "histogram":
        return make_histogram(metric, observed)
    type_ = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = type_(
        metric.name, metric.help, labels=metric.labels
    )
    for labels, value in metric.read(observed):
        if value is not None:
            assert not isinstance(value, Mapping)
            family.add_metric(labels, value)
    return family


def make_histogram(metric: Metric, observed: Observed) -> Family:
    """Return a histogram without a sum, which prometheus_client's own class insists on."""
    family = Family(metric.name, metric.help, "histogram")
    for labels, buckets in metric.read(observed):
        assert isinstance(buckets, Mapping)
        names = dict(zip(metric.labels, labels, strict=True))
        for edge, count in buckets.items():
            family.add_sample(f"{metric.name}_bucket", {**names, "le": le(edge)}, count)
        family.add_sample(f"{metric.name}_count", names, buckets[float("inf")])
    return family


def le(edge: float) -> str:
    """Return an edge as Prometheus writes it."""
    return "+Inf" if edge == float("inf") else str(float(edge))


def latency_buckets(lane: Lane, histogram: LatencyHistogram) -> dict[float, int]:
    """Return how many records were settled within each edge, cumulated.

    The lane's target is an edge of its own, so that the share on time is exact.
    """
    edges = {*LATENCY_EDGES_S, *([] if lane.target is None else [lane.target])}
    buckets = {edge: histogram.count_at_most(round(edge * 1e6) // 1000) for edge in sorted(edges)}
    return {**buckets, float("inf"): histogram.total}
