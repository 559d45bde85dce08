"""Real-time latency beside a flood, on Apache Kafka.

    python benchmarks/bench_latency.py --broker HOST:PORT [--seconds 30] [--turns 2] [--faust]
                                       [--shared]

    sender, 500/s     ─▶ topic ─┐              ┌─▶ sink ─▶ reader
                                ├─▶ contender ─┤
    sender, 50,000/s  ─▶ topic ─┘              └─▶ (done)

With --shared both senders write to the same partitions, and a header tells their records
apart; otherwise each has a topic of its own.

Every box is a process of its own. The contender forwards real-time records to the sink and
does nothing with the flood. Contenders take turns on topics of their own: a bare loop on
confluent-kafka (the floor), flowguard with two lanes and, with --faust, plain Faust.

Latency is from the instant a record was due to be sent, which it carries in microseconds, to
the instant the reader of the sink has it; so a sender or contender that stalls is seen. The
first seconds of each turn are not counted. A record that did not arrive counts as missing,
and as if it had arrived when the turn ended, so that falling behind cannot look fast.
"Served" is what the contender committed (flood) and what the reader read (real-time); where
it is below "offered" the contender fell behind.
"""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import programs
from confluent_kafka import Producer

from flowguard.bench.cluster import topics
from flowguard.errors import FlowguardError

PARTITIONS = 4
WARM_UP_S = 5.0
READY_WITHIN_S = 60.0
#: Until the last record that was sent in time may have come.
TAIL_S = 2.0

CONTENDERS: dict[str, Callable[..., None]] = {
    "confluent-kafka": programs.two_hops_confluent,
    "flowguard": programs.two_hops_flowguard,
    "faust": programs.two_hops_faust,
}


@dataclass
class Load:
    """What is offered."""

    broker: str
    rate: int
    flood: int
    seconds: float
    shared: bool


@dataclass
class Turn:
    """What one contender did."""

    offered: float
    served: float
    flood_offered: float
    flood_served: float
    late_us: int
    missing: int
    latencies_us: list[int]


def take_turn(name: str, load: Load) -> Turn:
    """Let one contender serve the load on topics of its own."""
    run = f"flowguard-latency-{uuid.uuid4().hex[:8]}"
    realtime, bulk, sink = (f"{run}-{each}" for each in ("realtime", "bulk", "sink"))
    if load.shared:
        realtime = bulk
    with topics(load.broker, *{realtime, bulk}, sink, partitions=PARTITIONS):
        reader, from_reader = programs.start(
            programs.read_sink, broker=load.broker, topic=sink, partitions=PARTITIONS
        )
        contender, _ = programs.start(
            CONTENDERS[name], broker=load.broker, realtime=realtime, bulk=bulk, sink=sink, group=run
        )
        try:
            wait_until_served(load.broker, realtime, from_reader)
            return measure(load, run, realtime, bulk, from_reader)
        finally:
            programs.end(contender)
            programs.end(reader)


def wait_until_served(broker: str, topic: str, from_reader: programs.Connection) -> None:
    """Send probes until the first one arrives in the sink; they are due at 0."""
    producer = Producer({"bootstrap.servers": broker})
    deadline = time.monotonic() + READY_WITHIN_S
    while not from_reader.poll(0.2):
        producer.produce(topic, programs.value_of(0, 0), headers=[("lane", b"rt")])
        producer.poll(0)
        if time.monotonic() > deadline:
            raise FlowguardError(f"nothing was served within {READY_WITHIN_S:.0f} s")
    from_reader.recv()
    producer.flush(5)


def measure(
    load: Load, group: str, realtime: str, bulk: str, from_reader: programs.Connection
) -> Turn:
    """Offer the load, and find out what became of it."""
    begin_us = programs.now_us() + 1_500_000  # senders need a moment to start
    seconds = WARM_UP_S + load.seconds
    senders = [
        programs.start(
            programs.send_paced, broker=load.broker, topic=topic, lane=lane, rate=rate,
            begin_us=begin_us, seconds=seconds,
        )
        for topic, lane, rate in ((realtime, "rt", load.rate), (bulk, "bulk", load.flood))
        if rate
    ]  # fmt: skip
    count_from_us = begin_us + int(WARM_UP_S * 1e6)
    sleep_until(count_from_us)
    done_before = flood_done(load.broker, group, bulk)
    sleep_until(begin_us + int(seconds * 1e6))
    done = flood_done(load.broker, group, bulk)
    reports = [pipe.recv() for _, pipe in senders]
    time.sleep(TAIL_S)
    from_reader.send("stop")
    stopped_us = programs.now_us()
    read_at = dict(reversed(list(zip(*from_reader.recv(), strict=True))))  # the first counts
    numbers = range(int(load.rate * WARM_UP_S), int(load.rate * seconds))
    expected = [begin_us + int(number * 1e6 / load.rate) for number in numbers]
    in_time = sum(read_at.get(due, stopped_us) <= count_from_us + load.seconds * 1e6
                  for due in expected)  # fmt: skip
    return Turn(
        offered=reports[0]["sent"] / reports[0]["seconds"],
        served=in_time / load.seconds,
        flood_offered=reports[1]["sent"] / reports[1]["seconds"] if load.flood else 0.0,
        flood_served=(done[0] - done_before[0]) / (done[1] - done_before[1]),
        late_us=reports[0]["late"],
        missing=sum(due not in read_at for due in expected),
        latencies_us=sorted(read_at.get(due, stopped_us) - due for due in expected),
    )


def flood_done(broker: str, group: str, topic: str) -> tuple[int, float]:
    """Return how much of the flood is committed, and when that was asked."""
    return sum(programs.committed(broker, group, topic, PARTITIONS)), time.time()


def sleep_until(at_us: int) -> None:
    time.sleep(max(0.0, (at_us - programs.now_us()) / 1e6))


def print_turn(name: str, turn: Turn) -> None:
    """Print one row."""
    shown = [programs.percentile(turn.latencies_us, share) / 1e3 for share in (0.5, 0.99, 0.999)]
    print(
        f"{name:16} {turn.offered:8.0f} {turn.served:8.0f} {turn.flood_offered:10,.0f} "
        f"{turn.flood_served:10,.0f} {shown[0]:9.1f} {shown[1]:9.1f} {shown[2]:9.1f} "
        f"{turn.latencies_us[-1] / 1e3:9.1f} {turn.missing:8} {turn.late_us / 1e3:9.1f}",
        flush=True,
    )


def main() -> None:
    """Measure, and print a row a turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", required=True, metavar="HOST:PORT")
    parser.add_argument("--rate", type=int, default=500, help="real-time records a second")
    parser.add_argument("--flood", type=int, default=50_000, help="records a second beside them")
    parser.add_argument("--seconds", type=float, default=30.0, help="counted seconds of a turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--faust", action="store_true", help="plain Faust too")
    parser.add_argument("--shared", action="store_true", help="both in the same partitions")
    given = parser.parse_args()
    load = Load(given.broker, given.rate, given.flood, given.seconds, given.shared)
    names = [name for name in CONTENDERS if name != "faust" or given.faust]
    print("records a second, latency of real-time records in ms; 'late' is the sender's worst")
    print(
        f"{'':16} {'offered':>8} {'served':>8} {'flood':>10} {'served':>10} "
        f"{'p50':>9} {'p99':>9} {'p999':>9} {'max':>9} {'missing':>8} {'late':>9}"
    )
    for _ in range(given.turns):
        for name in names:
            print_turn(name, take_turn(name, load))


if __name__ == "__main__":
    main()
