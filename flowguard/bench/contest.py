"""The contest: turns in rotation, medians, the document and the table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Final

from flowguard.bench import turn as turn_program
from flowguard.bench.cluster import leaders_of, topics
from flowguard.bench.meter import Context, Reading
from flowguard.bench.peers import PEERS, Peer
from flowguard.bench.turn import READING_FILE
from flowguard.bench.wire import fill
from flowguard.errors import FlowguardError
from flowguard.stress.embedded import die_with_parent
from flowguard.units import MIB

__all__ = ["NAMES", "Contest", "document", "machine", "missing", "table"]

NAMES: Final = tuple(PEERS)

#: Whom flowguard is compared with in the table.
COMPARED: Final = ("limit", "confluent-kafka", "aiokafka", "quix", "faust")

#: The slow read fewer records, at least these.
FEW: Final = 20_000

#: The last tenth stays unread, so that nobody is measured while it waits for the end.
READ_SHARE: Final = 0.9

#: A turn that hangs is ended after this and a second for every `SLOWEST_PER_S` records.
TURN_TIMEOUT_S: Final = 120
SLOWEST_PER_S: Final = 1_000

SHOWN_PACKAGES: Final = (
    "flowguard", "faust-streaming", "aiokafka", "confluent-kafka", "quixstreams", "polars",
)  # fmt: skip


@dataclass(slots=True)
class Contest:
    """Turns of peers on one topic.

    Args:
        broker: Bootstrap servers, `host:port`.
        records: How many the topic is filled with.
        partitions: Partitions of the topic.
        turns: Readings of each peer.
        names: Who takes part.
        say: Shows progress.
        peers: Name → who that is.
        goes_on: A peer that fails is named in `failed`, with the reason, and takes no more turns.
    """

    broker: str
    records: int
    partitions: int
    turns: int
    names: Sequence[str]
    say: Callable[[str], None]
    peers: Mapping[str, Peer] = field(default_factory=lambda: PEERS)
    goes_on: bool = False
    readings: dict[str, list[Reading]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Fill a topic, let everyone take their turns, delete the topic.

        Raises:
            FlowguardError: The broker refused something, or a peer failed.
            OSError: The broker was lost.
        """
        topic = f"flowguard-bench-{uuid.uuid4().hex[:8]}"
        with topics(self.broker, topic, partitions=self.partitions):
            leaders = leaders_of(self.broker, topic)
            self.say(f"filling {topic} with {self.records:,} records")
            fill(topic, leaders, self.records)
            for turn in range(1, self.turns + 1):
                for name in self.names:
                    if name not in self.failed:
                        self._take_turn(turn, name, topic, leaders)

    def _take_turn(self, turn: int, name: str, topic: str, leaders: Mapping[int, str]) -> None:
        try:
            reading = self._read(name, topic, leaders)
        except FlowguardError as error:
            if not self.goes_on:
                raise
            self.failed[name] = str(error)
            self.say(f"turn {turn} of {self.turns}: {error}")
            return
        self.readings.setdefault(name, []).append(reading)
        self.say(f"turn {turn} of {self.turns}: {name} {reading.per_second:,.0f} /s")

    def _read(self, name: str, topic: str, leaders: Mapping[int, str]) -> Reading:
        with tempfile.TemporaryDirectory(prefix="flowguard-bench-") as directory:
            context = Context(
                broker=self.broker,
                topic=topic,
                partitions=self.partitions,
                leaders={str(partition): address for partition, address in leaders.items()},
                group=f"flowguard-bench-{uuid.uuid4().hex[:8]}",
                directory=directory,
            )
            return in_fresh_process(name, self.peers[name], self._goal(name), context)

    def _goal(self, name: str) -> int:
        """Return how many records it reads in a turn."""
        goal = int(self.records * READ_SHARE)
        return min(goal, max(FEW, goal // self.peers[name].divisor))


def in_fresh_process(name: str, peer: Peer, records: int, context: Context) -> Reading:
    """Let a peer take a turn in a process of its own.

    Raises:
        FlowguardError: It failed, or did not come to an end.
    """
    command = [
        *(sys.executable, "-P", turn_program.__file__, peer.module, str(records)),
        json.dumps(asdict(context)),
    ]
    path = os.pathsep.join((*peer.path, os.environ.get("PYTHONPATH", "")))
    seconds = TURN_TIMEOUT_S + records / SLOWEST_PER_S
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            env={**os.environ, "PYTHONPATH": path.strip(os.pathsep)},
            preexec_fn=die_with_parent,
        )
    except subprocess.TimeoutExpired:
        raise FlowguardError(f"{name} did not come to an end within {seconds:.0f} s") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise FlowguardError(f"{name} failed with exit code {done.returncode}: {said}")
    return Reading(**json.loads((Path(context.directory) / READING_FILE).read_text()))


def missing(names: Sequence[str]) -> list[str]:
    """Return who cannot take part, because the extra `bench` is not installed."""
    needed = {name: PEERS[name].needs for name in names}
    return [name for name, package in needed.items() if package and find_spec(package) is None]


# The document.


def document(contest: Contest, names: Sequence[str]) -> dict[str, Any]:
    """Return the JSON document, a row for each of the names; unknown is null."""
    rates = {name: median_rate(contest, name) for name in NAMES}
    return {
        "schema": "flowguard.bench/v1",
        "machine": machine(contest),
        "results": [
            {
                "name": name,
                "value": rates[name],
                "unit": "records/s",
                "cpu_us_per_record": median_cpu(contest, name),
                "baseline": PEERS[name].baseline,
                "ratio": ratio(rates[name], rates.get(PEERS[name].baseline or "")),
                "peak_memory": median_memory(contest, name),
            }
            for name in names
        ],
    }


def median_rate(contest: Contest, name: str) -> float | None:
    """Return records a second."""
    readings = contest.readings.get(name)
    return median(each.per_second for each in readings) if readings else None


def median_cpu(contest: Contest, name: str) -> float | None:
    """Return microseconds of CPU a record."""
    readings = contest.readings.get(name)
    return median(each.cpu_us_per_record for each in readings) if readings else None


def median_memory(contest: Contest, name: str) -> float | None:
    """Return the most bytes that were resident."""
    readings = contest.readings.get(name)
    return median(each.peak_memory for each in readings) if readings else None


def ratio(value: float | None, base: float | None) -> float | None:
    """Return value / base, None if either is unknown."""
    return None if value is None or not base else value / base


def machine(contest: Contest) -> dict[str, Any]:
    """Return where and with what it was measured."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in SHOWN_PACKAGES},
        "records": contest.records,
        "partitions": contest.partitions,
        "turns": contest.turns,
    }


def cpu_model() -> str | None:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or None


def installed(package: str) -> str | None:
    """Return the version of a package, None without it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# The table.


def table(contest: Contest, names: Sequence[str]) -> str:
    """Return the results as people read them."""
    compared = [name for name in COMPARED if contest.readings.get(name)]
    head = f"{'':16} {'records/s':>12} {'lowest':>12} {'highest':>12} {'CPU µs':>8} {'MiB':>6}"
    lines = [head + "".join(f" {'× ' + name:>18}" for name in compared)]
    for name in names:
        readings = contest.readings.get(name)
        if not readings:
            lines.append(f"{name:16} {'not installed':>12}")
            continue
        rates = [each.per_second for each in readings]
        shown = f"{name:16} {median(rates):12,.0f} {min(rates):12,.0f} {max(rates):12,.0f}"
        shown += f" {median_cpu(contest, name):8.2f}"
        shown += f" {median(each.peak_memory for each in readings) / MIB:6,.0f}"
        lines.append(shown + "".join(cell(contest, name, other) for other in compared))
    cores = len(os.sched_getaffinity(0))
    lines += ["", f"medians of {contest.turns}; broker and reader share {cores} cores"]
    return "\n".join(lines)


def cell(contest: Contest, name: str, other: str) -> str:
    """Return how many times as fast as another it is."""
    times = ratio(median_rate(contest, name), median_rate(contest, other))
    if times is None or name == other:
        return f" {'':>18}"
    return f" {times:18.2f}" if times < 100 else f" {times:18.0f}"
