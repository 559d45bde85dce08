"""What the outcome of a live run says: delivery, latencies, broken promises, disturbances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from flowguard.snapshot import COUNTS
from flowguard.stress.checkers import Delivery, SentRun, check_delivery, ids_below, sent_ids
from flowguard.stress.live import LaneSetup, Outcome
from flowguard.stress.processes import Worker
from flowguard.stress.report import LaneCard

__all__ = [
    "CROWDED",
    "KEPT_UP",
    "broken_promises",
    "crowded_out",
    "delivery_of",
    "lagging",
    "lane_card",
    "quantile",
    "share_within",
]

#: Fewer records sent in time than this, and the senders were measured, not the worker. What
#: "in time" is, stands in `sender`: so it is a bound on the sender's own p99 delay.
KEPT_UP: Final = 0.99

#: With this share of the CPU gone to other programs, latency is theirs as much as ours.
CROWDED: Final = 0.2

#: What may become of a record that never reaches the sink although its offset is committed.
LEFT_OUT_OF_SINK: Final = ("shed", "conflated", "expired", "diverted", "dead_letters")


def delivery_of(lane: LaneSetup, outcome: Outcome) -> Delivery | None:
    """Return what became of a lane's records, None where no reader knows them again.

    What the worker committed must be in the sink, less what it says it left out. What it did
    not commit is safe in Kafka.
    """
    if outcome.arrivals is None or not outcome.ids:
        return None
    sent_runs = [SentRun(*run) for sender in outcome.sent[lane.name] for run in sender["runs"]]
    arrived = outcome.arrivals.filter(pl.col("lane") == lane.name)["id"]
    counts = outcome.counts[lane.name]
    return check_delivery(
        sent=sent_ids(sent_runs),
        must_arrive=ids_below(sent_runs, outcome.committed.get(lane.topic, {})),
        arrived=arrived,
        left_out=sum(counts.get(name, 0) for name in LEFT_OUT_OF_SINK),
    )


def lane_card(
    lane: LaneSetup,
    outcome: Outcome,
    delivery: Delivery | None,
    *,
    unloaded_s: tuple[float, float] | None,
    judged_s: tuple[float, float],
) -> LaneCard:
    """Return a lane's part of the scorecard.

    Args:
        unloaded_s: From when to when the worker was at ease, in seconds from the beginning;
            None if it never was.
        judged_s: From when to when it is judged.
    """
    arrivals = outcome.arrivals if outcome.arrivals is not None else NO_ARRIVALS
    arrivals = arrivals.filter(pl.col("lane") == lane.name)
    since_s = (arrivals["timestamp_ms"] - outcome.begin_ms) / 1e3
    latency_s = arrivals["latency_ms"] / 1e3
    judged = latency_s.filter((since_s >= judged_s[0]) & (since_s < judged_s[1]))
    unloaded = judged.clear()
    if unloaded_s is not None:
        unloaded = latency_s.filter((since_s >= unloaded_s[0]) & (since_s < unloaded_s[1]))
    counts = outcome.counts[lane.name]
    return LaneCard(
        counts={count: int(counts.get(count, 0)) for count in COUNTS},
        waiting=0 if delivery is None else delivery.waiting,
        degraded=int(counts.get("degraded", 0)),
        p50=quantile(judged, 0.5),
        p99=quantile(judged, 0.99),
        p999=quantile(judged, 0.999),
        unloaded_p99=quantile(unloaded, 0.99),
        target=lane.target,
        on_time=None if lane.target is None else share_within(judged, lane.target),
    )


NO_ARRIVALS: Final = pl.DataFrame(
    schema={"lane": pl.String, "id": pl.Int64, "latency_ms": pl.Float64, "timestamp_ms": pl.Int64}
)


def quantile(values: pl.Series, q: float) -> float | None:
    """Return a quantile, an actual value of the series; None of nothing."""
    return values.quantile(q, interpolation="higher")


def share_within(values: pl.Series, most: float) -> float | None:
    """Return the share of values that are not above `most`; None of nothing."""
    return int((values <= most).sum()) / len(values) if len(values) else None


def lagging(sent: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return which senders were too slow for the run to say anything."""
    found = []
    for name, senders in sent.items():
        planned = sum(each["planned"] for each in senders)
        in_time = sum(each["sent"] - each["late"] for each in senders)
        if in_time < KEPT_UP * planned:
            found.append(
                f"the sender of {name} sent only {in_time:,} of {planned:,} records in "
                f"time, so this machine is too busy to tell"
            )
    return found


def crowded_out(outcome: Outcome) -> list[str]:
    """Return that other programs took the CPU that the run needed, if they did."""
    if outcome.others_cpu < CROWDED:
        return []
    return [f"meanwhile other programs took {outcome.others_cpu:.0%} of this machine's CPU"]


def broken_promises(
    outcome: Outcome, deliveries: Mapping[str, Delivery | None], worker: Worker
) -> list[str]:
    """Return what must never be, whatever the objectives say."""
    known = {name: each for name, each in deliveries.items() if each is not None}
    broken = [*worker.imbalances]
    broken += [
        f"{each.lost:,} records of lane {name} are lost"
        for name, each in known.items()
        if each.lost
    ]
    if outcome.exit_code != 0:
        how = "had to be killed" if outcome.exit_code is None else f"exited {outcome.exit_code}"
        broken.append(f"the worker {how} instead of draining")
    broken += [
        f"lane {name}: {each.unknown:,} arrivals were never sent"
        for name, each in known.items()
        if each.unknown
    ]
    broken += [
        error
        for senders in outcome.sent.values()
        for sender in senders
        for error in sender["failed"][:1]
    ]
    return broken
