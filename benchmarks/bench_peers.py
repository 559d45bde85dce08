"""Everyone on one topic of Apache Kafka: what flowguard is measured against, in one command.

    python benchmarks/bench_peers.py [--broker HOST:PORT] [--records 5000000] [--turns 5]
                                     [--partitions 4] [--only a,b] [--json] [--save]

Peers take turns in rotation, each in a fresh process: those of `flowguard bench`, and FastStream,
Bytewax, Arroyo, Quix without JSON, and, where a JDK is, Kafka's ConsumerPerformance, Kafka Streams
and Confluent's Parallel Consumer. Each commits and takes bytes as they are, except `quix` and
`flowguard-json`, which take JSON. How it is tuned stands in its module, here in `peers/` or in
`flowguard/bench/peers/`. What is not installed is fetched once into `.cache/`; who cannot be had
is named, and the others go on.

Prints medians: records/s, CPU seconds a million records, peak memory; each beside the limit, and
how many times as good flowguard-raw is. `--save` writes a document into `benchmarks/results/`.
Exits 1 if a peer that could be had failed. Of a turn of Java's only the second half counts: in
the first its compiler is at work.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from brokers import PROJECT, kafka
from peers.fetched import PACKAGES, NotHad, fetch, packages_of, versions_of

from flowguard.bench.contest import Contest, machine, missing, ratio
from flowguard.bench.meter import Reading
from flowguard.bench.peers import PEERS, Peer
from flowguard.suggest import nearest
from flowguard.units import MIB
from tests.kafka_broker import VERSION

RESULTS = Path(__file__).parent / "results"
BASELINE = "flowguard-raw"

#: More than this, and somebody else is at work on the machine.
IDLE_LOAD = 0.7

#: Name → module, divisor of its records.
MODULES = {
    "quix-raw": ("quix_raw", 10),
    "faststream": ("faststream_batch", 4),
    "bytewax": ("bytewax_flow", 4),
    "arroyo": ("arroyo_processor", 10),
    "consumer-performance": ("java_performance", 1),
    "kafka-streams": ("java_streams", 1),
    "parallel-consumer": ("java_parallel", 1),
}

#: Name → of whose packages it is another program.
EXTRA = {"quix-raw": "quix"}

NAMES = (*PEERS, *MODULES)


@dataclass(frozen=True)
class Row:
    """What one peer did, medians of its turns."""

    rate: float
    cpu_us: float
    memory: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, readings: Sequence[Reading]) -> Row:
        """Return the medians."""
        rates = [each.per_second for each in readings]
        return cls(
            rate=median(rates),
            cpu_us=median(each.cpu_us_per_record for each in readings),
            memory=median(each.peak_memory for each in readings),
            lowest=min(rates),
            highest=max(rates),
        )


def peers_here(names: Sequence[str], failed: dict[str, str]) -> dict[str, Peer]:
    """Return who can be had; into `failed` goes why the others cannot."""
    found: dict[str, Peer] = {}
    for name in names:
        installed = EXTRA.get(name, name)
        if installed in PEERS and missing([installed]):
            failed[name] = 'not installed; pip install "flowguard[bench]"'
            continue
        if name in PEERS:
            found[name] = PEERS[name]
            continue
        try:
            fetch(name)
        except NotHad as error:
            failed[name] = str(error)
            continue
        module, divisor = MODULES[name]
        path = [str(PROJECT / "benchmarks"), str(PROJECT)]
        if name in PACKAGES:
            path.insert(0, str(packages_of(name)))
        found[name] = Peer(f"peers.{module}", divisor=divisor, path=tuple(path))
    return found


def document(
    contest: Contest,
    rows: Mapping[str, Row],
    absent: Mapping[str, str],
    *,
    version: str | None,
    load: float,
) -> dict[str, Any]:
    """Return the JSON document; unknown is null.

    Args:
        contest: It is over.
        rows: Medians, of those that did not fail.
        absent: Name → why it could not be had.
        version: Of the broker.
        load: Of the machine before the first turn.
    """
    return {
        "schema": "flowguard.bench-peers/v1",
        "command": ["python", "benchmarks/bench_peers.py", *sys.argv[1:]],
        "machine": {
            **machine(contest),
            "kafka": version,
            "load": load,
            "peers": {name: versions_of(name) for name in rows if name in MODULES},
        },
        "results": [
            {
                "name": name,
                "value": row.rate,
                "unit": "records/s",
                "lowest": row.lowest,
                "highest": row.highest,
                "cpu_us_per_record": row.cpu_us,
                "peak_memory": row.memory,
                "of_limit": of_limit(rows, row),
                BASELINE: dict(zip(("rate", "cpu", "memory"), times(rows, row), strict=True)),
            }
            for name, row in rows.items()
        ],
        "absent": dict(absent),
        "failed": contest.failed,
    }


def of_limit(rows: Mapping[str, Row], row: Row) -> float | None:
    """Return the share of the limit's rate."""
    return ratio(row.rate, rows["limit"].rate) if "limit" in rows else None


def times(rows: Mapping[str, Row], row: Row) -> tuple[float | None, float | None, float | None]:
    """Return how many times as good flowguard-raw is: rate, CPU, memory; above 1 is better."""
    ours = rows.get(BASELINE)
    if ours is None:
        return None, None, None
    return (
        ratio(ours.rate, row.rate),
        ratio(row.cpu_us, ours.cpu_us),
        ratio(row.memory, ours.memory),
    )


def table(contest: Contest, rows: Mapping[str, Row]) -> str:
    """Return the results as people read them."""
    lines = [
        f"{'':20} {'':12} {'':12} {'':12} {'CPU s':>7} {'peak':>6} {'of the':>7}"
        f"   {BASELINE} × as good:",
        f"{'':20} {'records/s':>12} {'lowest':>12} {'highest':>12} {'/ M':>7} {'MiB':>6}"
        f" {'limit':>7} {'rate':>8} {'CPU':>8} {'memory':>8}",
    ]
    for name, row in sorted(rows.items(), key=lambda named: -named[1].rate):
        share = of_limit(rows, row)
        lines.append(
            f"{name:20} {row.rate:12,.0f} {row.lowest:12,.0f} {row.highest:12,.0f}"
            f" {row.cpu_us:7.2f} {row.memory / MIB:6,.0f}"
            f" {'' if share is None else f'{share:.2%}':>7}"
            + "".join(f" {'' if each is None else f'{each:.2f}':>8}" for each in times(rows, row))
        )
    cores = machine(contest)["cores"]
    lines += ["", f"medians of {contest.turns} turns; broker and reader share {cores} cores"]
    return "\n".join(lines)


def chosen(only: str | None) -> list[str]:
    """Return who takes part, in the order of the rotation."""
    wanted = set(only.split(",")) if only else set(NAMES)
    for name in sorted(wanted - set(NAMES)):
        like = nearest(name, NAMES)
        sys.exit(f"nobody is named {name!r}; " + (f"did you mean {like}?" if like else str(NAMES)))
    return [name for name in NAMES if name in wanted]


def save(found: dict[str, Any]) -> None:
    """Write a document where results are kept."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y-%m-%d')}-peers.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    say(f"saved {path.relative_to(PROJECT)}")


def say(line: str) -> None:
    """Show progress where it does not mix with the report."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", metavar="HOST:PORT", help="default: one of its own")
    parser.add_argument("--records", type=int, default=5_000_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--only", metavar="NAME,…", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="print the document")
    parser.add_argument("--save", action="store_true", help="write it into benchmarks/results/")
    given = parser.parse_args()
    names = chosen(given.only)
    absent: dict[str, str] = {}
    peers = peers_here(names, absent)
    for name, why in absent.items():
        say(f"{name} takes no part: {why}")
    load = os.getloadavg()[0]
    if load > IDLE_LOAD:
        say(f"the machine is busy (load {load:.1f}); figures of this run are worth little")
    with kafka(given.broker) as broker:
        contest = Contest(
            broker, given.records, given.partitions, given.turns, list(peers), say,
            peers=peers, goes_on=True,
        )  # fmt: skip
        contest.run()
    rows = {
        name: Row.of(readings)
        for name, readings in contest.readings.items()
        if name not in contest.failed
    }
    version = None if given.broker else VERSION
    found = document(contest, rows, absent, version=version, load=load)
    print(json.dumps(found, indent=2) if given.json else table(contest, rows))
    if given.save:
        save(found)
    return 1 if contest.failed else 0


if __name__ == "__main__":
    sys.exit(main())
