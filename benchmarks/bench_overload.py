"""Goodput under overload, on Apache Kafka, with a sink that is really slow.

    python benchmarks/bench_overload.py --broker HOST:PORT [--seconds 20] [--multiples 1,2,5,10]
                                        [--only flowguard,faust]

    sender, 100/s            ─▶ topic ─┐                ┌─▶ sink topic ─▶ reader
                                       ├─▶ contender ───┤
    sender, N × the capacity ─▶ topic ─┘      │ ▲
                                            slow service

The slow service is a process behind a socket: a call takes 4 ms and 1 ms a record, four at
once; beyond four, calls share what there is, and each call more costs 2 % of it. So it takes
3,765 records a second in batches of 64, and 800 a second one at a time.

Contenders take turns at each multiple of what the service takes: flowguard with two lanes,
which finds out by itself how many calls at once and how large a batch pay; and plain Faust as
a control, an agent that calls the same service for each record, with as many instances as
flowguard may have seats.

Goodput is what arrived in the sink topic, a second, in the counted part. "On time" is the share
of the 100 real-time records a second that arrived within their target of 200 ms, beside the
overload. Target: goodput at each multiple at least 95 % of the best.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import programs
import slow_sink
from confluent_kafka import Producer

from flowguard.bench.cluster import topics
from flowguard.errors import FlowguardError

PARTITIONS = 4
SEATS = 64
CALL_S, RECORD_S, CAPACITY, DEGRADATION = 0.004, 0.001, 4, 0.02
BATCH = 64

#: In batches of `BATCH`, records a second.
CAPACITY_PER_S = CAPACITY * BATCH / (CALL_S + BATCH * RECORD_S)

REALTIME_PER_S = 100
TARGET_S = 0.2
WARM_UP_S = 10.0
READY_WITHIN_S = 60.0
SHARE_OF_PEAK = 0.95


def work_flowguard(
    broker: str, realtime: str, bulk: str, sink: str, group: str, port: int, pipe: Connection
) -> None:
    """Forward what the slow service has taken, as an agent on a feed with two lanes."""
    import flowguard as fg

    urgent, rest = fg.Lane("rt", target=TARGET_S, reserve=0.25), fg.Lane("bulk")
    app = fg.App(group, lanes=[urgent, rest], memory="64MiB", **programs.app_options(broker))
    rule = fg.by_topic({realtime: urgent}, default=rest)
    feed = app.feed(realtime, bulk, codec="raw", lanes=rule)
    out = app.feed(sink, codec="raw")
    service = slow_sink.SlowSink(port)

    @app.agent(
        feed, sink=[out], concurrency=programs.adaptive(SEATS), batch=fg.BatchSize(max=BATCH)
    )
    async def forward(batches: Any) -> Any:
        async for batch in batches:
            await service.call(len(batch))
            yield batch.to_polars()

    programs.run_worker(app)


def work_faust(
    broker: str, realtime: str, bulk: str, sink: str, group: str, port: int, pipe: Connection
) -> None:
    """The same with plain Faust: a call for each record, as many at once."""
    import faust

    app = faust.App(group, **programs.app_options(broker))
    raw = {"key_serializer": "raw", "value_serializer": "raw"}
    out = app.topic(sink, **raw)
    service = slow_sink.SlowSink(port)

    @app.agent(app.topic(realtime, bulk, **raw), concurrency=SEATS)
    async def forward(stream: Any) -> None:
        async for value in stream:
            await service.call(1)
            await out.send(value=value)

    programs.run_worker(app)


CONTENDERS: dict[str, Callable[..., None]] = {"flowguard": work_flowguard, "faust": work_faust}


@dataclass
class Turn:
    """What one contender did at one multiple.

    Args:
        offered: Records a second.
        goodput: Records a second that arrived in the sink topic.
        on_time: Share of the real-time records that arrived within their target.
        kept_up: The senders sent in time what they should.
    """

    offered: float
    goodput: float
    on_time: float
    kept_up: bool


def take_turn(name: str, broker: str, multiple: float, seconds: float) -> Turn:
    """Let one contender serve one load, on topics of its own."""
    run = f"flowguard-overload-{uuid.uuid4().hex[:8]}"
    realtime, bulk, sink = (f"{run}-{each}" for each in ("realtime", "bulk", "sink"))
    with topics(broker, realtime, bulk, sink, partitions=PARTITIONS):
        service, from_service = programs.start(
            slow_sink.serve, call_s=CALL_S, record_s=RECORD_S, capacity=CAPACITY,
            degradation=DEGRADATION,
        )  # fmt: skip
        port = from_service.recv()
        reader, from_reader = programs.start(
            programs.read_sink, broker=broker, topic=sink, partitions=PARTITIONS
        )
        contender, _ = programs.start(
            CONTENDERS[name], broker=broker, realtime=realtime, bulk=bulk, sink=sink, group=run,
            port=port,
        )  # fmt: skip
        try:
            wait_until_served(broker, realtime, from_reader)
            return measure(broker, realtime, bulk, multiple, seconds, from_reader)
        finally:
            for process in (contender, reader, service):
                process.kill()  # what waits need not be finished
                process.join()


def wait_until_served(broker: str, topic: str, from_reader: Connection) -> None:
    """Send probes until the first one arrives in the sink; they are due at 0."""
    producer = Producer({"bootstrap.servers": broker})
    deadline = time.monotonic() + READY_WITHIN_S
    while not from_reader.poll(0.2):
        producer.produce(topic, programs.value_of(0, 0))
        producer.poll(0)
        if time.monotonic() > deadline:
            raise FlowguardError(f"nothing was served within {READY_WITHIN_S:.0f} s")
    from_reader.recv()
    producer.flush(5)


def measure(
    broker: str, realtime: str, bulk: str, multiple: float, seconds: float, from_reader: Connection
) -> Turn:
    """Offer the load, and find out what became of it."""
    rates = {"rt": REALTIME_PER_S, "bulk": CAPACITY_PER_S * multiple - REALTIME_PER_S}
    pipes = [
        programs.start(
            programs.send_surging, broker=broker, topic=topic, lane=lane,
            surge=programs.Surge(rates[lane]), seconds=WARM_UP_S + seconds,
        )[1]
        for topic, lane in ((realtime, "rt"), (bulk, "bulk"))
    ]  # fmt: skip
    begin_us = programs.begin(pipes)
    reports = [pipe.recv() for pipe in pipes]
    time.sleep(2 * TARGET_S)  # until the last record that is in time has come
    from_reader.send("stop")
    due_us, read_us = from_reader.recv()
    count_from_us = begin_us + int(WARM_UP_S * 1e6)
    count_to_us = begin_us + int((WARM_UP_S + seconds) * 1e6)
    arrived = sum(count_from_us <= at < count_to_us for at in read_us)
    first_read = dict(reversed(list(zip(due_us, read_us, strict=True))))
    surge = programs.Surge(REALTIME_PER_S)
    numbers = range(surge.due(WARM_UP_S), surge.due(WARM_UP_S + seconds))
    expected = [begin_us + int(surge.at_s(number) * 1e6) for number in numbers]
    late_us = int(TARGET_S * 1e6)
    in_time = sum(first_read.get(due, due + late_us + 1) - due <= late_us for due in expected)
    return Turn(
        offered=sum(report["sent"] for report in reports) / (WARM_UP_S + seconds),
        goodput=arrived / seconds,
        on_time=in_time / len(expected),
        kept_up=all(programs.kept_up(report) for report in reports),
    )


def main() -> None:
    """Measure, print a row a turn, and exit 1 where flowguard misses the target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", required=True, metavar="HOST:PORT")
    parser.add_argument("--seconds", type=float, default=20.0, help="counted seconds of a turn")
    parser.add_argument("--multiples", default="1,2,5,10", metavar="N,…")
    parser.add_argument("--only", default=",".join(CONTENDERS), metavar="NAME,…")
    given = parser.parse_args()
    names = [name for name in CONTENDERS if name in given.only.split(",")]
    multiples = [float(each) for each in given.multiples.split(",")]
    print(
        f"the service: {CALL_S * 1e3:g} ms a call + {RECORD_S * 1e3:g} ms a record, {CAPACITY} at "
        f"once: {CAPACITY_PER_S:,.0f} records/s in batches of {BATCH}"
    )
    print(f"{'':12} {'×':>4} {'offered/s':>10} {'goodput/s':>10} {'of peak':>8} {'on time':>8}")
    turns: dict[str, dict[float, Turn]] = {name: {} for name in names}
    for multiple in multiples:
        for name in names:
            turns[name][multiple] = take_turn(name, given.broker, multiple, given.seconds)
            print_turn(name, multiple, turns[name])
    if "flowguard" not in names:
        return
    peak = max(turn.goodput for turn in turns["flowguard"].values())
    worst = min(turn.goodput for turn in turns["flowguard"].values()) / peak
    programs.mark(
        f"goodput at every multiple ≥ {SHARE_OF_PEAK:.0%} of peak", worst >= SHARE_OF_PEAK,
        f"{worst:.1%}",
    )  # fmt: skip
    sys.exit(worst < SHARE_OF_PEAK)


def print_turn(name: str, multiple: float, turns: dict[float, Turn]) -> None:
    """Print one row, as far as the peak is known."""
    turn, peak = turns[multiple], max(each.goodput for each in turns.values())
    note = "" if turn.kept_up else "  the senders could not keep up: this row says nothing"
    print(
        f"{name:12} {multiple:4g} {turn.offered:10,.0f} {turn.goodput:10,.0f} "
        f"{turn.goodput / peak if peak else 0:8.1%} {turn.on_time:8.2%}{note}",
        flush=True,
    )


if __name__ == "__main__":
    main()
