"""What bad records cost: the same stream through one worker, clean and with a few of each kind.

    python benchmarks/bench_failures.py [--broker HOST:PORT] [--records 1000000] [--only raise]

A client that is not flowguard fills two topics of four partitions; one record in 997 of the
second is not JSON. For each row another group reads one of them from its beginning, with an
agent that looks at the columns of batches of up to 1,024 records:

- clean: it does nothing else;
- undecodable: one record in 997 never reaches it;
- reject: it says so of one record in 997, with `batch.reject`;
- raise: one record in 997 makes it raise, each time, with two tries;
- raise rarely: one in 99,991.

The clock runs from the first batch that the agent gets until each record is settled or a dead
letter. The agent notes which records it came back from. Prints records/s, how that compares with
clean, and whether each good record was settled once and each bad one is in the dead letters once.
Exits 1 where a record is missing or too often, below 90 % of clean or, where one in 997 raises,
below 25 %.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import programs
from brokers import kafka
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from flowguard.bench.cluster import topics

PARTITIONS = 4
RECORDS_MAX = 1_024
OFTEN, RARELY = 997, 99_991  # primes, so that the bad ones are in all partitions
POLL_S = 0.05
PATIENCE_S = 900.0
QUIET_S = 3.0  # a dead letter that comes twice comes at once


@dataclass(frozen=True)
class Row:
    """One row: how records are bad, one in how many, and how much of clean is asked for."""

    name: str
    kind: str = ""
    one_in: int = 0
    least_ratio: float = 0.9

    def bad(self, records: int) -> set[int]:
        """Return the numbers of the bad records."""
        return set(range(self.one_in // 2, records, self.one_in)) if self.one_in else set()


ROWS = (
    Row("clean"),
    Row("undecodable", "undecodable", OFTEN),
    Row("reject", "reject", OFTEN),
    Row("raise", "raise", OFTEN, least_ratio=0.25),
    Row("raise rarely", "raise", RARELY),
)


def work(
    broker: str, topic: str, group: str, kind: str, one_in: int, records: int, pipe: Connection
) -> None:
    """Run the worker; it tells when all is done, and what its agent came back from."""
    import numpy as np

    import flowguard as fg

    app = fg.App(group, **programs.app_options(broker))
    columns = {"id": "int64", "account": "string", "amount": "string"}
    feed = app.feed(topic, columns=columns)
    seen = np.zeros(records, np.uint8)
    began_s = 0.0

    @app.agent(feed, batch=fg.BatchSize(max=RECORDS_MAX), retries=fg.Retry(2, backoff="1ms..5ms"))
    async def look(batches: Any) -> None:
        nonlocal began_s
        async for batch in batches:
            began_s = began_s or time.monotonic()
            numbers = batch.to_polars()["id"].to_numpy()
            good = numbers
            if kind in ("reject", "raise"):
                bad = numbers % one_in == one_in // 2
                if kind == "raise" and bad.any():
                    raise ValueError("a record that it cannot bear")
                if kind == "reject":
                    batch.reject(bad, "not wanted")
                    good = numbers[~bad]
            seen[good] += 1

    @app.timer(POLL_S)
    async def tell() -> None:
        counts = [book.counts for book in app.runtime.engine.books]
        settled = sum(each.settled for each in counts)
        letters = sum(each.dead_letters for each in counts)
        if began_s and settled + letters >= records and not done:
            done.append(time.monotonic() - began_s)
            pipe.send({"seconds": done[0], "settled": settled, "letters": letters})
            pipe.send(seen.tobytes())

    done: list[float] = []
    programs.run_worker(app)


def send(broker: str, sound: str, spoilt: str, records: int) -> None:
    """Fill both topics."""
    producer = Producer(
        {"bootstrap.servers": broker, "linger.ms": 5, "enable.idempotence": True,
         "queue.buffering.max.messages": 1_000_000}
    )  # fmt: skip
    undecodable = ROWS[1].bad(records)
    for number in range(records):
        value = programs.value_of(number, 0)
        place = {"key": b"k%d" % (number % 5000), "partition": number % PARTITIONS}
        bad = number in undecodable
        for topic, each in ((sound, value), (spoilt, b"no JSON: %d" % number if bad else value)):
            while True:
                try:
                    producer.produce(topic, each, **place)
                    break
                except BufferError:
                    producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
    if unsent := producer.flush(120):
        raise SystemExit(f"the broker did not take {unsent:,} records; look at its log")


def letters_in(broker: str, topic: str) -> Counter[tuple[int, int]]:
    """Return how often each record is in the dead letters: partition and offset there."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "unused", **programs.TUNED})
    consumer.assign([TopicPartition(topic, each, OFFSET_BEGINNING) for each in range(PARTITIONS)])
    found: Counter[tuple[int, int]] = Counter()
    until = time.monotonic() + QUIET_S
    while time.monotonic() < until:
        for message in consumer.consume(10_000, 0.2):
            if message.error():
                continue
            headers = dict(message.headers())
            place = int(headers["fg-orig-partition"]), int(headers["fg-orig-offset"])
            found[place] += 1
            until = time.monotonic() + QUIET_S
    consumer.close()
    return found


@dataclass
class Run:
    """What came of one row.

    Args:
        rate: Records/s.
        wrong: What is not as it should be, in words.
    """

    rate: float
    wrong: list[str]


def measure(broker: str, topic: str, row: Row, records: int) -> Run:
    """Run one row."""
    group = f"flowguard-failures-{uuid.uuid4().hex[:8]}"
    with topics(broker, f"{group}.dlq", partitions=PARTITIONS):
        worker, pipe = programs.start(
            work, broker=broker, topic=topic, group=group, kind=row.kind, one_in=row.one_in,
            records=records,
        )  # fmt: skip
        try:
            if not pipe.poll(PATIENCE_S):
                raise SystemExit(f"{row.name}: not all done within {PATIENCE_S:.0f} s")
            told, seen = pipe.recv(), pipe.recv()
        finally:
            exit_code = programs.end(worker)
        letters = letters_in(broker, f"{group}.dlq")
        ends = programs.ends(broker, topic, PARTITIONS)
        committed = programs.committed(broker, group, topic, PARTITIONS)
    wrong = compare(row, records, told, seen, letters)
    if committed != ends:
        wrong.append(f"committed {committed} of {ends}")
    if exit_code:
        wrong.append(f"exit code {exit_code}")
    return Run(records / told["seconds"], wrong)


def compare(
    row: Row, records: int, told: dict[str, int], seen: bytes, letters: Counter[tuple[int, int]]
) -> list[str]:
    """Return what is not as it should be."""
    bad = row.bad(records)
    settled = Counter(seen)
    places = {(number % PARTITIONS, number // PARTITIONS) for number in bad}
    checks = {
        "good records missing": sum(not seen[n] for n in range(records) if n not in bad),
        "records worked on twice": records - settled[0] - settled[1],
        "bad records worked on to the end": sum(seen[number] > 0 for number in bad),
        "bad records not in the dead letters": len(places - letters.keys()),
        "good records in the dead letters": len(letters.keys() - places),
        "dead letters twice": letters.total() - len(letters),
        "counted wrongly": abs(told["letters"] - len(bad))
        + abs(told["settled"] + told["letters"] - records),
    }
    return [f"{count:,} {what}" for what, count in checks.items() if count]


def run(broker: str, records: int, rows: list[Row]) -> bool:
    """Send, run all rows, print them; return whether each held."""
    name = f"flowguard-failures-{uuid.uuid4().hex[:8]}"
    sound, spoilt = f"{name}-sound", f"{name}-spoilt"
    held = True
    clean = 0.0
    with topics(broker, sound, spoilt, partitions=PARTITIONS):
        send(broker, sound, spoilt, records)
        for row in rows:
            topic = spoilt if row.kind == "undecodable" else sound
            done = measure(broker, topic, row, records)
            clean = clean or done.rate
            ratio = done.rate / clean
            text = (
                f"{done.rate:,.0f} records/s, {ratio:.0%} of clean, {len(row.bad(records)):,} bad"
            )
            passed = ratio >= row.least_ratio and not done.wrong
            held &= programs.mark(row.name, passed, "; ".join([text, *done.wrong]))
    return held


def main() -> int:
    """Measure, and say so."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", metavar="HOST:PORT", help="default: one of its own")
    parser.add_argument("--records", type=int, default=1_000_000)
    kinds = [row.name for row in ROWS[1:]]
    parser.add_argument("--only", default=",".join(kinds), metavar="NAME,…", help="beside clean")
    given = parser.parse_args()
    names = given.only.split(",")
    for name in names:
        if name not in kinds:
            parser.error(f"--only: there are {', '.join(kinds)}, and no {name!r}")
    rows = [row for row in ROWS if not row.kind or row.name in names]
    with kafka(given.broker) as broker:
        held = run(broker, given.records, rows)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
