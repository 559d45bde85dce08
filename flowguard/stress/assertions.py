"""Whether the outcome of a run is in the ranges that its scenario asserts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from flowguard.stress.expect import METRICS, Expect
from flowguard.stress.recording import GAUGES, Recording, Second, percentile
from flowguard.stress.report import Objective
from flowguard.stress.scenario import Scenario
from flowguard.units import SECOND

__all__ = ["measure", "objectives_of", "recovery_seconds"]

PERCENTS: Final = {"p50": 50.0, "p99": 99.0, "p999": 99.9}

#: As before a fault: latency and backlog are at most so many times what they were.
AS_BEFORE: Final = 1.1

#: And that for so many seconds.
STAYS_S: Final = 3


def objectives_of(scenario: Scenario, recording: Recording) -> list[Objective]:
    """Return each bound that the scenario asserts, with what it was."""
    objectives = []
    for expect in scenario.expect:
        value = measure(expect, scenario, recording)
        if expect.least is not None:
            objectives.append(
                Objective(name=str(expect), limit=expect.least, value=value, at_least=True)
            )
        if expect.most is not None:
            objectives.append(Objective(name=str(expect), limit=expect.most, value=value))
    return objectives


def measure(expect: Expect, scenario: Scenario, recording: Recording) -> float | None:
    """Return what a metric was, None if there is nothing to tell it from."""
    lane = recording.rank(expect.lane) if expect.lane else None
    begin, end = seconds_of(expect, scenario, recording)
    metric, seconds = expect.metric, recording.seconds[begin:end]
    if metric in ("lost", "duplicates"):
        counts = recording.lost if metric == "lost" else recording.duplicates
        return float(sum(counts) if lane is None else counts[lane])
    if metric == "recovery":
        since_ns = expect.begin_ns if expect.begin_ns is not None else end_of_faults(scenario)
        return None if since_ns is None else recovery_seconds(scenario, recording, since_ns)
    if metric == "rebalances":
        return float(sum(second.rebalances for second in seconds))
    if metric in PERCENTS:
        return percentile(recording.latency(lane, begin, end), PERCENTS[metric])
    if metric == "on_time":
        return on_time(recording, lane, begin, end)
    if metric == "service":
        batches = sum(second.batches for second in seconds)
        return sum(second.service_ns for second in seconds) / batches / SECOND if batches else None
    if metric == "backlog":
        return aggregated(expect, [float(each) for each in recording.backlogs(lane)[begin:end]])
    if metric in ("reversals", "rung_step"):
        return of_changes(metric, seconds)
    if metric in GAUGES:
        return aggregated(expect, [each for second in seconds for each in second.gauges[metric]])
    what = "settled" if metric == "goodput" else metric
    return aggregated(expect, [counted(second, lane, what) for second in seconds])


def seconds_of(expect: Expect, scenario: Scenario, recording: Recording) -> tuple[int, int]:
    """Return the seconds that an expectation is about."""
    whole = METRICS[expect.metric].whole
    begin_ns, end_ns = expect.begin_ns, expect.end_ns
    if begin_ns is None:
        begin_ns = 0 if whole else scenario.warmup_ns
    if end_ns is None:
        end_ns = len(recording.seconds) * SECOND if whole else scenario.duration_ns
    return begin_ns // SECOND, -(-end_ns // SECOND)


def counted(second: Second, lane: int | None, what: str) -> float:
    lanes = second.lanes if lane is None else [second.lanes[lane]]
    return float(sum(each.counts[what] for each in lanes))


def aggregated(expect: Expect, values: Sequence[float]) -> float | None:
    """Return values as one."""
    if not values:
        return None
    match expect.aggregate:
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "last":
            return values[-1]
        case "total":
            return sum(values)
    return sum(values) / len(values)


def on_time(recording: Recording, lane: int | None, begin: int, end: int) -> float | None:
    """Return the share of records settled within their targets, None without one."""
    good = total = 0
    for rank, each in enumerate(recording.lanes):
        if each.target_ns is None or lane not in (None, rank):
            continue
        histogram = recording.latency(rank, begin, end)
        good += histogram.count_at_most(each.target_ns // 1_000_000)
        total += histogram.total
    return good / total if total else None


def of_changes(metric: str, seconds: Sequence[Second]) -> float | None:
    """Return turns of the limit a minute, or the most rungs taken at once."""
    name = "limit" if metric == "reversals" else "rung"
    values = [each for second in seconds for each in second.gauges[name]]
    if not values:
        return None
    steps = [after - before for before, after in pairwise(values) if after != before]
    if metric == "rung_step":
        return max((abs(step) for step in steps), default=0.0)
    turns = sum((one > 0) is not (other > 0) for one, other in pairwise(steps))
    return turns * 60 / len(seconds)


# Recovery.


def end_of_faults(scenario: Scenario) -> int | None:
    """Return when the last fault is over, None without one."""
    return max((fault.until_ns for fault in scenario.faults), default=None)


def recovery_seconds(scenario: Scenario, recording: Recording, since_ns: int) -> float | None:
    """Return how long it took until all was as before, None if it never was.

    As before: lanes with a target are within it, or as fast as before; and no more waits
    than before, or than comes in a second.
    """
    since = since_ns // SECOND
    first_ns = min((fault.at_ns for fault in scenario.faults), default=since_ns)
    before = slice(scenario.warmup_ns // SECOND, max(1, min(first_ns, since_ns) // SECOND))
    backlogs = recording.backlogs()
    usual_backlog = max(backlogs[before], default=0) * AS_BEFORE
    calm = 0
    for number in range(since, len(recording.seconds)):
        offered = counted(recording.seconds[number], None, "offered")
        good = backlogs[number] <= max(usual_backlog, offered, 1.0)
        good = good and in_time(recording, number, before)
        calm = calm + 1 if good else 0
        # A run ends as soon as nothing is left, and then nothing can get worse again.
        over = number == len(recording.seconds) - 1 and backlogs[number] == 0
        if calm == STAYS_S or (calm and over):
            return float(number - calm + 1 - since)
    return None


def in_time(recording: Recording, number: int, before: slice) -> bool:
    """Tell whether every lane with a target was in time in a second, or as fast as before."""
    for rank, lane in enumerate(recording.lanes):
        if lane.target_ns is None:
            continue
        now = recording.seconds[number].lanes[rank].latency.percentile(99)
        usual = recording.latency(rank, before.start, before.stop).percentile(99) or 0
        if now is not None and now > max(usual * AS_BEFORE, lane.target_ns / 1e6):
            return False
    return True
