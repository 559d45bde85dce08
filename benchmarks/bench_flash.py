"""A flash crowd on Apache Kafka, with an agent that is slow.

    python benchmarks/bench_flash.py --broker HOST:PORT [--spike 30] [--turns 1] [--save FILE]

    sender, 40/s                  ─▶ topic ─┐               ┌─▶ sink topic ─▶ reader
    sender, 60/s, then 600/s      ─▶ topic ─┼─▶ contender ──┤
    sender, 200/s, then 2,000/s   ─▶ topic ─┘               └─▶ (done)

Real-time records, hints (which may be shed or, in a brownout, served by a fallback) and bulk
(which never may) are offered to one agent, which takes 4 ms a call and 1.25 ms a
record, and can do two calls at once, one of which is reserved for the real-time lane. After a
quiet time hints and bulk come ten times as fast, together with the real-time records 2,640 a
second, which leaves two cores time for the senders and the broker; then it is quiet again until
everything is done.

In the same run the same load is offered to a bare loop on confluent-kafka, which only reads,
looks at the header and forwards the real-time records: the floor of two hops on this machine.

Latency is from the instant a record was due to be sent to the instant the reader of the sink
has it; that of the spike counts. "Turns" are changes of direction of the shed ratio. "Clear" is
the time from the end of the spike until the worker is on rung 0 for good, beside how long it took
until all that was offered was done.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import programs
from confluent_kafka import Consumer, Producer

from flowguard.bench.cluster import topics
from flowguard.errors import FlowguardError
from flowguard.units import format_size

PARTITIONS = 4
MEMORY = "64MiB"
CALL_S, RECORD_S, CAPACITY = 0.004, 0.00125, 2
TARGET_S = 0.025

RATES = {"rt": 40.0, "hints": 60.0, "bulk": 200.0}
FACTOR = 10.0
QUIET_S = 12.0
READY_WITHIN_S = 60.0
SAMPLE_S = 0.25

P99_S = 0.025
ON_TIME = 0.999
OFFERED_FACTOR = 3.0
MEMORY_SLACK = 1.1
TURNS_A_MINUTE = 2.0
CLEAR_S = 60.0


def work_flowguard(
    broker: str, names: dict[str, str], sink: str, group: str, pipe: Connection
) -> None:
    """Serve three lanes; tell what the state page says, four times a second."""
    import asyncio

    import flowguard as fg
    from flowguard.observe.state import state_document

    # As this version has them: what it does not have yet, it does without.
    shed: dict[str, Any] = {"overflow": fg.Shed()} if hasattr(fg, "Shed") else {}
    lanes = {
        "rt": fg.Lane("rt", target=TARGET_S, reserve=0.5, degrade=False),
        "hints": fg.Lane("hints", target="1s", **shed),
        "bulk": fg.Lane("bulk", degrade=False),
    }
    app = fg.App(group, lanes=list(lanes.values()), memory=MEMORY, **programs.app_options(broker))
    rule = fg.by_topic({names[each]: lane for each, lane in lanes.items()}, default=lanes["bulk"])
    feed = app.feed(*names.values(), codec="raw", lanes=rule)
    out = app.feed(sink, codec="raw")
    seats = asyncio.Semaphore(CAPACITY)

    @app.agent(feed, sink=[out], concurrency=programs.adaptive(CAPACITY))
    async def serve(batches: Any) -> Any:
        async for batch in batches:
            async with seats:
                await asyncio.sleep(CALL_S + len(batch) * RECORD_S)
            if batch.lane.name == "rt":
                yield batch.to_polars()

    if hasattr(serve, "fallback"):
        # Not on deadline: it would serve late real-time records, whose results are looked for.
        @serve.fallback(on="brownout")
        async def cheaply(batches: Any) -> Any:
            async for batch in batches:
                await asyncio.sleep(CALL_S / 10)
                yield batch.to_polars().head(0)

    @app.timer(SAMPLE_S)
    async def tell() -> None:
        state = state_document(app.runtime.snapshot(), app=group, worker="bench")
        state.pop("partitions")
        ladder = [each for each in app.runtime.engine.decisions if each.loop == "ladder"]
        steps = [abs(each.after - each.before) for each in ladder]
        pipe.send({"at": time.time(), "rungs_at_once": max(steps, default=0), **state})

    programs.run_worker(app)


def work_bare(broker: str, names: dict[str, str], sink: str, group: str, pipe: Connection) -> None:
    """Read, look at the header, forward what is real-time."""
    consumer = Consumer(
        {"bootstrap.servers": broker, "group.id": group, "auto.offset.reset": "earliest",
         "auto.commit.interval.ms": 1000}
    )  # fmt: skip
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 0})
    consumer.subscribe(list(names.values()))
    while True:
        message = consumer.poll(0.1)
        if message is None or message.error():
            continue
        if dict(message.headers() or ()).get("lane") == b"rt":
            producer.produce(sink, message.value(), message.key())
            producer.poll(0)


CONTENDERS = {"two hops": work_bare, "flowguard": work_flowguard}


@dataclass
class Turn:
    """What one contender did.

    Args:
        begin_s: Epoch of the beginning.
        spike_s: When the spike is, since then.
        latencies_s: Of the real-time records of the spike, ascending; what did not arrive
            counts as if it had at the end.
        missing: How many of them did not arrive.
        states: State documents, with the time of each.
        reports: Lane → what its sender says.
        done_s: When all was done, since the beginning; None if it never was.
    """

    begin_s: float
    spike_s: tuple[float, float]
    latencies_s: list[float]
    missing: int
    reports: dict[str, dict[str, float]]
    states: list[dict[str, Any]] = field(default_factory=list)
    done_s: float | None = None


def take_turn(name: str, broker: str, spike: float, drain: float) -> Turn:
    """Let one contender serve the load on topics of its own."""
    run = f"flowguard-flash-{uuid.uuid4().hex[:8]}"
    names = {lane: f"{run}-{lane}" for lane in RATES}
    sink = f"{run}-sink"
    with topics(broker, *names.values(), sink, partitions=PARTITIONS):
        reader, from_reader = programs.start(
            programs.read_sink, broker=broker, topic=sink, partitions=PARTITIONS
        )
        contender, from_contender = programs.start(
            CONTENDERS[name], broker=broker, names=names, sink=sink, group=run
        )
        try:
            wait_until_served(broker, names["rt"], from_reader)
            return measure(broker, names, spike, drain, from_reader, from_contender)
        finally:
            for process in (contender, reader):
                process.kill()
                process.join()


def wait_until_served(broker: str, topic: str, from_reader: Connection) -> None:
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
    broker: str,
    names: dict[str, str],
    spike: float,
    drain: float,
    from_reader: Connection,
    from_contender: Connection,
) -> Turn:
    """Offer the load, wait until it is done, and find out what became of it."""
    spike_s = (QUIET_S, QUIET_S + spike)
    seconds = spike_s[1] + QUIET_S
    surges = {
        lane: programs.Surge(rate, 1.0 if lane == "rt" else FACTOR, *spike_s)
        for lane, rate in RATES.items()
    }
    senders = {
        lane: programs.start(
            programs.send_surging, broker=broker, topic=names[lane], lane=lane, surge=surge,
            seconds=seconds,
        )[1]
        for lane, surge in surges.items()
    }  # fmt: skip
    begin_us = programs.begin(senders.values())
    states: list[dict[str, Any]] = []
    listen(from_contender, states, begin_us / 1e6 + seconds + 1)
    reports = {lane: pipe.recv() for lane, pipe in senders.items()}
    done_s = wait_until_done(from_contender, states, reports, begin_us / 1e6, drain)
    from_reader.send("stop")
    stopped_us = programs.now_us()
    read_at = dict(reversed(list(zip(*from_reader.recv(), strict=True))))  # the first counts
    numbers = range(surges["rt"].due(spike_s[0]), surges["rt"].due(spike_s[1]))
    due_us = [begin_us + int(surges["rt"].at_s(number) * 1e6) for number in numbers]
    return Turn(
        begin_s=begin_us / 1e6,
        spike_s=spike_s,
        latencies_s=sorted((read_at.get(due, stopped_us) - due) / 1e6 for due in due_us),
        missing=sum(due not in read_at for due in due_us),
        reports=reports,
        states=states,
        done_s=done_s,
    )


def listen(pipe: Connection, states: list[dict[str, Any]], until_s: float) -> None:
    """Take in what the worker tells, until an instant."""
    while (wait_s := until_s - time.time()) > 0:
        try:
            if pipe.poll(min(wait_s, 1.0)):
                states.append(pipe.recv())
        except EOFError:
            raise FlowguardError("the contender ended early; its output says why") from None


def wait_until_done(
    pipe: Connection,
    states: list[dict[str, Any]],
    reports: dict[str, dict[str, float]],
    begin_s: float,
    drain: float,
) -> float | None:
    """Wait until every lane has come to an end with what was sent; return when it had."""
    if not states:
        return None
    deadline = time.time() + drain
    while time.time() < deadline:
        listen(pipe, states, time.time() + SAMPLE_S)
        # Probes were sent to the real-time lane, too, so it has more than was offered.
        if all(done(states[-1], lane) >= each["sent"] for lane, each in reports.items()):
            done_s = float(states[-1]["at"] - begin_s)
            listen(pipe, states, time.time() + min(CLEAR_S, drain))
            return done_s
    return None


def done(state: dict[str, Any], lane: str) -> int:
    """Return how many records of a lane have come to an end."""
    names = ("settled", "shed", "expired", "conflated", "diverted", "dead_letters")
    return sum(state["lanes"][lane][name] for name in names)


# What a turn says.


def shed_turns_a_minute(turn: Turn) -> float:
    """Return how often the rate of shedding turned, a minute, smoothed over two seconds."""
    shed = [state["lanes"]["hints"]["shed"] for state in turn.states]
    step = round(2 / SAMPLE_S)
    rates = [after - before for before, after in pairwise(shed[::step])]
    changes = [after - before for before, after in pairwise(rates) if after != before]
    turns = sum((one > 0) is not (other > 0) for one, other in pairwise(changes))
    minutes = (turn.spike_s[1] - turn.spike_s[0]) / 60
    return turns / minutes


def rungs(turn: Turn) -> list[tuple[float, int]]:
    """Return when the worker went to which rung, since the beginning."""
    steps: list[tuple[float, int]] = []
    for state in turn.states:
        if not steps or steps[-1][1] != state["rung"]:
            steps.append((state["at"] - turn.begin_s, int(state["rung"] or 0)))
    return steps


def clear_s(turn: Turn) -> float | None:
    """Return how long after the spike the worker was on rung 0 for good, None if never."""
    at_s, rung = rungs(turn)[-1]
    return max(0.0, at_s - turn.spike_s[1]) if rung == 0 else None


def print_latency(name: str, turn: Turn) -> None:
    """Print a row of a contender's latencies."""
    shown = [programs.percentile(turn.latencies_s, share) * 1e3 for share in (0.5, 0.99, 0.999)]
    on_time = sum(each <= TARGET_S for each in turn.latencies_s) / len(turn.latencies_s)
    print(
        f"{name:12} {shown[0]:8.1f} {shown[1]:8.1f} {shown[2]:8.1f} "
        f"{turn.latencies_s[-1] * 1e3:8.1f} {on_time:9.3%} {turn.missing:8}",
        flush=True,
    )


def print_control(turn: Turn) -> None:
    """Print what the worker did over time, every other second."""
    print(f"{'s':>6} {'rung':>16} {'pressure':>8} {'seats':>7} {'memory':>10} "
          f"{'shed':>8} {'degraded':>8} {'bulk done':>9}")  # fmt: skip
    for state in turn.states[:: round(2 / SAMPLE_S)]:
        agent = state["agents"][next(iter(state["agents"]))]
        hints = state["lanes"]["hints"]
        print(
            f"{state['at'] - turn.begin_s:6.1f} {state['rung']:>2} {state['rung_name']:>13} "
            f"{state['pressure']:8.2f} {agent['in_flight']:3}/{agent['limit']:<3} "
            f"{format_size(state['memory']['used']):>10} {hints['shed']:8,} "
            f"{hints.get('degraded', 0):8,} {done(state, 'bulk'):9,}"
        )


def judge(turn: Turn) -> bool:
    """Print each target with its outcome; return whether all were held."""
    p99_s = programs.percentile(turn.latencies_s, 0.99)
    on_time = sum(each <= TARGET_S for each in turn.latencies_s) / len(turn.latencies_s)
    budget = turn.states[0]["memory"]["budget"]
    peak = max(state["memory"]["used"] for state in turn.states)
    shed = turn.states[-1]["lanes"]["rt"]["shed"]
    steps = rungs(turn)
    leap = max(state["rungs_at_once"] for state in turn.states)
    offered = sum(rate * (1 if lane == "rt" else FACTOR) for lane, rate in RATES.items())
    can = capacity(turn)
    turns, clear, drained = shed_turns_a_minute(turn), clear_s(turn), turn.done_s
    drain_s = None if drained is None else max(0.0, drained - turn.spike_s[1])
    allowed = None if drain_s is None else CLEAR_S + drain_s
    held = [
        programs.mark(f"offered in the spike ≥ {OFFERED_FACTOR:g} × what is done",
                      offered >= OFFERED_FACTOR * can,
                      f"{offered:,.0f}/s beside {can:,.0f}/s, {offered / can:.1f}×"),
        programs.mark(f"real-time p99 ≤ {P99_S * 1e3:g} ms", p99_s <= P99_S,
                      f"{p99_s * 1e3:.1f} ms"),
        programs.mark(f"real-time on time ≥ {ON_TIME:.1%}", on_time >= ON_TIME, f"{on_time:.3%}"),
        programs.mark("real-time shed: none", shed == 0, str(shed)),
        programs.mark(f"memory ≤ budget × {MEMORY_SLACK}", peak <= budget * MEMORY_SLACK,
                      f"{format_size(peak)} of {format_size(budget)}"),
        programs.mark("rungs one at a time", leap <= 1,
                      " ".join(f"{at:.0f}s→{rung}" for at, rung in steps)),
        programs.mark(f"turns of the shed ratio ≤ {TURNS_A_MINUTE:g} a minute",
                      turns <= TURNS_A_MINUTE, f"{turns:.1f}"),
        programs.mark(f"rungs clear ≤ {CLEAR_S:.0f} s after the spike and the drain",
                      clear is not None and allowed is not None and clear <= allowed,
                      f"{seconds(clear)}, the drain took {seconds(drain_s)}"),
    ]  # fmt: skip
    return all(held)


def capacity(turn: Turn) -> float:
    """Return how many records the agent did a second during the spike, fallbacks left out."""
    inside = [
        state for state in turn.states
        if turn.spike_s[0] + 2 <= state["at"] - turn.begin_s <= turn.spike_s[1]
    ]  # fmt: skip
    first, last = inside[0], inside[-1]
    settled = [
        sum(lane["settled"] - lane.get("degraded", 0) for lane in state["lanes"].values())
        for state in (first, last)
    ]
    return float((settled[1] - settled[0]) / (last["at"] - first["at"]))


def seconds(value: float | None) -> str:
    """Return a time for people."""
    return "never" if value is None else f"{value:.1f} s"


def warn_of_senders(turn: Turn) -> bool:
    """Say which senders were too late for the turn to say anything; return whether any was."""
    late = False
    for lane, report in turn.reports.items():
        most_ms = programs.SENDER_LATE_MS if lane == "rt" else programs.FLOOD_LATE_MS
        if not programs.kept_up(report, most_ms):
            late = True
            print(
                f"INVALID: the sender of {lane} sent {report['sent']:,.0f} of "
                f"{report['planned']:,.0f} records, its p99 delay was "
                f"{report['late_p99_ms']:.1f} ms; this machine is too busy to tell"
            )
    return late


def save(file: Path, turns: Sequence[tuple[str, Turn]]) -> None:
    """Write everything that was measured."""
    file.write_text(json.dumps([{"name": name, **vars(turn)} for name, turn in turns]))


def main() -> None:
    """Measure, print, and exit 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", required=True, metavar="HOST:PORT")
    parser.add_argument("--spike", type=float, default=30.0, help="seconds of the spike")
    parser.add_argument("--drain", type=float, default=240.0, help="most seconds after the load")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--save", type=Path, metavar="FILE", help="write all samples as JSON")
    given = parser.parse_args()
    turns: list[tuple[str, Turn]] = []
    print("latency of real-time records in the spike, in ms; on time: within "
          f"{TARGET_S * 1e3:g} ms")  # fmt: skip
    print(f"{'':12} {'p50':>8} {'p99':>8} {'p999':>8} {'max':>8} {'on time':>9} {'missing':>8}")
    for _ in range(given.turns):
        for name in CONTENDERS:
            turns.append((name, take_turn(name, given.broker, given.spike, given.drain)))
            print_latency(*turns[-1])
    ours = [turn for name, turn in turns if name == "flowguard"]
    print_control(ours[-1])
    invalid = [warn_of_senders(turn) for turn in ours]
    held = [judge(turn) for turn in ours]
    if given.save is not None:
        save(given.save, turns)
    sys.exit(any(invalid) or not all(held))


if __name__ == "__main__":
    main()
