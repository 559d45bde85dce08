"""A million records over two lanes: is every one of them in the sink, and is that committed?

    python benchmarks/bench_two_lanes.py [--broker HOST:PORT] [--records 1000000]

A client that is not flowguard (confluent-kafka) writes numbered JSON records, a tenth of them
to the real-time lane, while a worker with an agent of flowguard's reads them and sends each
one on. The same client reads the sink. Prints what was lost or came twice, and whether the
committed offsets are the ends of the partitions; exits 1 unless all is there.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import programs
from brokers import kafka
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from flowguard.bench.cluster import topics

PARTITIONS = 4
QUIET_S = 30.0  # a sink in which nothing new appears for this long has all that will come
DUPLICATES_S = 3.0  # once all is there, what comes twice may come a little later


class Numbered(msgspec.Struct):
    """What is looked at in the sink."""

    id: int
    lane: str


def work(broker: str, topic: str, sink: str, group: str, pipe: Connection) -> None:
    """Run the worker: every record is decoded, gets its lane's name, and goes to the sink."""
    import polars as pl

    import flowguard as fg

    realtime, bulk = fg.Lane("rt", target="50ms"), fg.Lane("bulk")
    app = fg.App(group, lanes=[realtime, bulk], **programs.app_options(broker))
    feed = app.feed(
        topic, codec="json", lanes=fg.by_header("lane", {"rt": realtime}, default=bulk),
        columns={"id": "int64", "account": "string", "amount": "decimal128(12,2)"},
    )  # fmt: skip
    out = app.feed(sink, codec="json", key_by="account")

    @app.agent(feed, sink=[out])
    async def label(batches: Any) -> Any:
        async for batch in batches:
            yield batch.to_polars().with_columns(lane=pl.lit(batch.lane.name))

    programs.run_worker(app)


def send(broker: str, topic: str, records: int, pipe: Connection) -> None:
    """Write the records as fast as the client can."""
    producer = Producer(
        {"bootstrap.servers": broker, "linger.ms": 5, "enable.idempotence": True,
         "queue.buffering.max.messages": 1_000_000}
    )  # fmt: skip
    headers = [[("lane", b"rt" if number == 0 else b"bulk")] for number in range(10)]
    for number in range(records):
        value = programs.value_of(number, 0)
        while True:
            try:
                producer.produce(
                    topic, value, b"k%d" % (number % 5000), headers=headers[number % 10]
                )
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
    pipe.send(records - producer.flush(60))


def read(broker: str, sink: str, records: int) -> tuple[bytearray, list[int]]:
    """Return how often each id is in the sink, and how many came wrong: by lane 0, 1."""
    seen = bytearray(records)
    by_lane = {"rt": 0, "bulk": 0}
    for message in messages(broker, sink, records):
        numbered = decode(message)
        seen[numbered.id] = min(255, seen[numbered.id] + 1)
        by_lane[numbered.lane] += 1
    return seen, [by_lane["rt"], by_lane["bulk"]]


decode = msgspec.json.Decoder(Numbered).decode


def messages(broker: str, sink: str, records: int) -> Iterator[bytes]:
    """Yield values of the sink until all are there, or nothing new comes."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "unused", **programs.TUNED})
    consumer.assign([TopicPartition(sink, each, OFFSET_BEGINNING) for each in range(PARTITIONS)])
    count = 0
    until = time.monotonic() + QUIET_S
    while time.monotonic() < until:
        for message in consumer.consume(10_000, 0.2):
            if message.error():
                continue
            yield message.value()
            count += 1
            until = time.monotonic() + (QUIET_S if count < records else DUPLICATES_S)
    consumer.close()


def wait_for_commit(broker: str, group: str, topic: str) -> tuple[list[int], list[int]]:
    """Return the ends of all partitions, and what is committed, at most seconds later."""
    ends = programs.ends(broker, topic, PARTITIONS)
    committed: list[int] = []
    for _ in range(20):
        committed = programs.committed(broker, group, topic, PARTITIONS)
        if committed == ends:
            break
        time.sleep(0.5)
    return ends, committed


def run(broker: str, records: int) -> bool:
    """Send, work, read, compare; return whether all is there."""
    group = f"flowguard-lanes-{uuid.uuid4().hex[:8]}"
    topic, sink = f"{group}-in", f"{group}-out"
    with topics(broker, topic, sink, partitions=PARTITIONS):
        began = time.monotonic()
        worker, _ = programs.start(work, broker=broker, topic=topic, sink=sink, group=group)
        sender, report = programs.start(send, broker=broker, topic=topic, records=records)
        try:
            seen, by_lane = read(broker, sink, records)
            seconds = time.monotonic() - began - DUPLICATES_S
            sent = report.recv()
            ends, committed = wait_for_commit(broker, group, topic)
        finally:
            exit_code = programs.end(worker)
            programs.end(sender)
    lost = sum(1 for times in seen if times == 0)
    twice = sum(times - 1 for times in seen if times)
    print(f"sent {sent:,}; in the sink {sum(by_lane):,}: rt {by_lane[0]:,}, bulk {by_lane[1]:,}")
    print(f"lost {lost:,}, came twice {twice:,}; {seconds:.1f} s, all processes' start included")
    print(f"ends {ends}, committed {committed}; the worker ended with exit code {exit_code}")
    return sent == records and lost == 0 and committed == ends and exit_code == 0


def main() -> int:
    """Check, and say so."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", metavar="HOST:PORT", help="default: one of its own")
    parser.add_argument("--records", type=int, default=1_000_000)
    given = parser.parse_args()
    with kafka(given.broker) as broker:
        passed = run(broker, given.records)
    print("pass" if passed else "FAIL")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
