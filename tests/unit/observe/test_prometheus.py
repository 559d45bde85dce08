"""What `/metrics` says is what the table says."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from flowguard.engine import Engine
from flowguard.observe.metrics import METRICS
from flowguard.observe.prometheus import SnapshotCollector, make_registry
from flowguard.snapshot import COUNTS
from tests.unit.observe.observed import observed, spilling_engine


def scrape(engine: Engine | None = None) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return sample → labels → value, as a scraper reads them."""
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(lambda: observed(engine)))
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.items())] = sample.value
    return found


def test_names_types_and_help_are_those_of_the_table() -> None:
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(observed))
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    told = {(family.name, family.type, family.documentation) for family in families}
    table = {(metric.name.removesuffix("_total"), metric.type, metric.help) for metric in METRICS}
    assert told == table


def test_names_follow_the_rules_of_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert re.fullmatch(r"flowguard_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type == "counter")
        assert metric.help.endswith(".")


def test_counts_balance_for_each_lane() -> None:
    found = scrape()

    def count(name: str, lane: str) -> float:
        metric = f"flowguard_records_{name}"
        return found.get(f"{metric}_total", found.get(metric, {}))[(("lane", lane),)]

    for lane in ("realtime", "backfill"):
        assert count("read", lane) == sum(count(name, lane) for name in COUNTS[1:])


def test_the_target_is_an_edge_of_the_latency_buckets() -> None:
    buckets = scrape()["flowguard_latency_seconds_bucket"]
    assert buckets[(("lane", "realtime"), ("le", "0.04"))] == 60
    assert buckets[(("lane", "realtime"), ("le", "0.01"))] == 0
    assert buckets[(("lane", "realtime"), ("le", "+Inf"))] == 60


def test_what_a_lane_has_on_disk_is_told_in_bytes() -> None:
    engine = spilling_engine()
    found = scrape(engine)
    on_disk = found["flowguard_spilled_bytes"]
    assert on_disk[(("lane", "backfill"),)] == engine.spilling.spilled_bytes(1) > 0
    assert on_disk[(("lane", "realtime"),)] == 0
    assert found["flowguard_lane_state"][(("lane", "backfill"), ("state", "spilling"))] == 1


def test_unknown_is_absent() -> None:
    found = scrape()
    assert list(found["flowguard_lane_target_seconds"]) == [(("lane", "realtime"),)]
    assert list(found["flowguard_oldest_unfinished_timestamp_seconds"]) == [(("lane", "backfill"),)]


def test_process_metrics_and_those_of_the_user_come_along() -> None:
    registry = make_registry(observed)
    assert b"python_info" in generate_latest(registry)
    assert generate_openmetrics(registry).endswith(b"# EOF\n")
