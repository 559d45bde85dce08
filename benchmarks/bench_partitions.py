"""What partitions cost: CPU a record of flowguard and of confluent-kafka at 1, 8 and 64 of them.

    python benchmarks/bench_partitions.py [--broker HOST:PORT] [--records 3000000] [--turns 3]
                                          [--partitions 1,8,64] [--json]

The same records in topics of more and more partitions; both read raw bytes, with commits, in
turn and in fresh processes, as in `flowguard bench`. Prints medians of CPU seconds a million
records; exits 1 unless flowguard's are below confluent-kafka's at each number of partitions.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from bench_peers import Row, say
from brokers import kafka

from flowguard.bench.contest import Contest, machine
from flowguard.units import MIB

NAMES = ("confluent-kafka", "flowguard-raw")


def measure(broker: str, records: int, partitions: int, turns: int) -> dict[str, Any]:
    """Let both read one topic; return their medians."""
    contest = Contest(broker, records, partitions, turns, NAMES, say)
    contest.run()
    rows = {name: Row.of(contest.readings[name]) for name in NAMES}
    theirs, ours = (rows[name].cpu_us for name in NAMES)
    return {
        "partitions": partitions,
        "machine": machine(contest),
        "results": {
            name: {
                "value": row.rate,
                "cpu_us_per_record": row.cpu_us,
                "peak_memory": row.memory,
            }
            for name, row in rows.items()
        },
        "cpu_ratio": ours / theirs,
        "passed": ours < theirs,
    }


def line_of(found: dict[str, Any]) -> str:
    """Return one row of the table."""
    cells = "".join(
        f" {each['cpu_us_per_record']:12.2f} {each['value']:12,.0f}"
        f" {each['peak_memory'] / MIB:6,.0f}"
        for each in found["results"].values()
    )
    verdict = "pass" if found["passed"] else "FAIL"
    return f"{found['partitions']:>10}{cells} {found['cpu_ratio']:10.2f}  {verdict}"


def head() -> str:
    """Return what stands above the rows."""
    columns = f" {'CPU s / M':>12} {'records/s':>12} {'MiB':>6}"
    names = "".join(f" {name:>32}" for name in NAMES)
    return f"{'':10}{names}\n{'partitions':>10}{columns * len(NAMES)} {'CPU ratio':>10}"


def main() -> int:
    """Measure, and say who is cheaper."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", metavar="HOST:PORT", help="default: one of its own")
    parser.add_argument("--records", type=int, default=3_000_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--partitions", default="1,8,64", metavar="N,…")
    parser.add_argument("--json", action="store_true", help="print a document")
    given = parser.parse_args()
    counts = [int(each) for each in given.partitions.split(",")]
    with kafka(given.broker) as broker:
        found = [measure(broker, given.records, count, given.turns) for count in counts]
    if given.json:
        print(json.dumps({"schema": "flowguard.bench-partitions/v1", "runs": found}, indent=2))
    else:
        print("\n".join((head(), *map(line_of, found))))
    return 0 if all(each["passed"] for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
