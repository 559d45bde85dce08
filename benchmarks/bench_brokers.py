"""Brokers stop, die, hang and move what they lead under load: what is lost, how long is the gap?

    python benchmarks/bench_brokers.py [--rate 2000] [--away 8] [--only kill,freeze]

Three nodes of Apache Kafka are started (replication 3, min.insync.replicas 2), a worker that
copies a topic to another one, and a steady load from a client that is not flowguard. Then, one
after the other: the leader of a partition is stopped and started, killed and started, frozen and
thawed; the coordinator of the group is killed and started; the preferred leaders lead again; all
three are killed and started.

Prints for each the longest time in which nothing reached the sink, and the seconds from the
return of the broker until everything sent before it had reached the sink, by the time at which
the broker wrote it. Then what was lost, what came twice and what came out of order. Exits 1 if
anything is lost or out of order, or if that took more than 30 s.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import programs
from brokers import PROJECT  # noqa: F401  it lets tests/ be found
from confluent_kafka import Message

from tests.kafka.load import Load, judge
from tests.kafka.outside import Outside, json_of
from tests.kafka_broker import NoKafka
from tests.kafka_cluster import KafkaCluster

#: The requirement.
FLOWING_WITHIN_S = 30.0

SETTLE_S = 5.0  # of undisturbed load between events
PATIENCE_S = 120.0


def work(broker: str, orders: str, done: str, group: str, pipe: Connection) -> None:
    """Copy a topic."""
    import flowguard as fg

    app = fg.App(group, **programs.app_options(broker))
    feed = app.feed(orders, columns={"id": "int64"})
    sink = app.feed(done)

    @app.agent(feed, sink=[sink], concurrency=4)
    async def copy(batches: Any) -> Any:
        async for batch in batches:
            yield batch.to_polars(meta=True).select("id", source="_partition")

    programs.run_worker(app)


@dataclass
class Event:
    """Something that happens to brokers.

    Args:
        name: What.
        began_s: When, in seconds since the epoch.
        back_s: When the brokers were back, or the leaders had moved.
        sent: How many records had been sent by then.
    """

    name: str
    began_s: float
    back_s: float = 0.0
    sent: int = 0


class Disturbance:
    """Does to brokers what a test of a failure does, and notes when."""

    def __init__(self, cluster: KafkaCluster, orders: str, group: str, away_s: float) -> None:
        self.cluster = cluster
        self.orders = orders
        self.group = group
        self.away_s = away_s

    def happen(self, name: str, load: Load) -> Event:
        """Let one happen, and wait until all brokers are there again."""
        event = Event(name, time.time())
        getattr(self, name.replace("-", "_"))()
        event.back_s, event.sent = time.time(), load.sent
        return event

    def _away(self, take: Callable[[int], None], node: int) -> None:
        take(node)
        time.sleep(self.away_s)

    def stop(self) -> None:
        """The leader of a partition is stopped in order, and comes back."""
        node = self.cluster.leader(self.orders, 0)
        self._away(self.cluster.stop, node)
        self.cluster.start(node)

    def kill(self) -> None:
        """It dies, and comes back."""
        node = self.cluster.leader(self.orders, 0)
        self._away(self.cluster.kill, node)
        self.cluster.start(node)

    def freeze(self) -> None:
        """It says nothing more, with all connections open, and goes on later."""
        node = self.cluster.leader(self.orders, 0)
        self._away(self.cluster.freeze, node)
        self.cluster.thaw(node)

    def coordinator(self) -> None:
        """The coordinator of the group dies, and comes back."""
        node = self.cluster.coordinator(self.group)
        self._away(self.cluster.kill, node)
        self.cluster.start(node)

    def move_leaders(self) -> None:
        """Each partition is led by its preferred replica again."""
        self.cluster.heal()
        self.cluster.move_leaders(self.orders)

    def all(self) -> None:
        """All three die, and come back."""
        self.cluster.kill(1, 2, 3)
        time.sleep(self.away_s)
        self.cluster.start()


EVENTS = ("stop", "move-leaders", "kill", "coordinator", "freeze", "move-leaders", "all")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            raise SystemExit(f"not within {PATIENCE_S:.0f} s: {what}")
        time.sleep(0.25)


def disturb(
    cluster: KafkaCluster, names: list[str], *, rate: int, partitions: int, away_s: float
) -> bool:
    """Let all of it happen under load; print what came of it, and return whether it is well."""
    group = f"flowguard-brokers-{uuid.uuid4().hex[:8]}"
    orders = cluster.create_topic(f"{group}-in", partitions)
    done = cluster.create_topic(f"{group}-out", 1, {"message.timestamp.type": "LogAppendTime"})
    outside = Outside(cluster.bootstrap)
    worker, _ = programs.start(
        work, broker=cluster.bootstrap, orders=orders, done=done, group=group
    )
    disturbance = Disturbance(cluster, orders, group, away_s)
    events = []
    try:
        with Load(outside, orders, partitions=partitions, rate_per_s=rate) as load:
            wait_until(lambda: outside.count(done) > rate, "the worker copies nothing")
            for name in names:
                time.sleep(SETTLE_S)
                events.append(disturbance.happen(name, load))
                print(f"{name}: done", file=sys.stderr, flush=True)
            time.sleep(FLOWING_WITHIN_S if names[-1:] == ["all"] else SETTLE_S)
        wait_until(lambda: outside.count(done) >= load.sent, "not everything reached the sink")
        alive = worker.is_alive()
    finally:
        programs.end(worker)
    cluster.heal()
    return report(events, outside.read(done), load.sent, alive)


def report(events: list[Event], messages: list[Message], sent: int, alive: bool) -> bool:
    """Print what came of it; return whether that is well."""
    rows = [json_of(message) for message in messages]
    at_s = [message.timestamp()[1] / 1e3 for message in messages]
    first_s: dict[int, float] = {}
    for row, when_s in zip(rows, at_s, strict=True):
        first_s.setdefault(row["id"], when_s)
    ends_s = [*(each.began_s for each in events[1:]), at_s[-1]]
    longest_s = slowest_s = 0.0
    for event, end_s in zip(events, ends_s, strict=True):
        times_s = [when_s for when_s in at_s if event.began_s - 1 <= when_s <= end_s]
        gap_s = max((b - a for a, b in itertools.pairwise(times_s)), default=0.0)
        caught_up_s = max((first_s[n] for n in range(event.sent) if n in first_s), default=0.0)
        flowing_s = max(0.0, caught_up_s - event.back_s)
        print(f"{event.name:13} away {event.back_s - event.began_s:5.1f} s, longest gap "
              f"{gap_s:5.1f} s, flowing again {flowing_s:4.1f} s after it was back")  # fmt: skip
        longest_s, slowest_s = max(longest_s, gap_s), max(slowest_s, flowing_s)
    found = judge(rows, sent)
    print(f"sent {sent:,}; lost {found['lost']:,}, twice {found['repeated']:,}, out of order "
          f"{found['unordered']:,}; longest gap {longest_s:.1f} s, flowing again within "
          f"{slowest_s:.1f} s; the worker {'lived on' if alive else 'DIED'}")  # fmt: skip
    well = not (found["lost"] or found["unordered"] or found["unknown"])
    return well and alive and slowest_s <= FLOWING_WITHIN_S


def main() -> int:
    """Check, and say so."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=2000, help="records a second")
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--away", type=float, default=8.0, help="seconds that a broker is away")
    parser.add_argument("--only", help=f"some of {', '.join(EVENTS)}")
    given = parser.parse_args()
    names = given.only.split(",") if given.only else list(EVENTS)
    if unknown := sorted(set(names) - set(EVENTS)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(EVENTS)}")
    try:
        with KafkaCluster() as cluster:
            print(cluster.description, file=sys.stderr)
            passed = disturb(
                cluster, names, rate=given.rate, partitions=given.partitions, away_s=given.away
            )
    except NoKafka as error:
        sys.exit(str(error))
    print("pass" if passed else "FAIL")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
