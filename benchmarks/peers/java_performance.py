"""Kafka's own measure of a consumer, ConsumerPerformance, as kafka-consumer-perf-test.sh runs it.

Its default is 1 MiB a partition and fetch; 4 MiB, as flowguard asks for, makes it faster. It
commits automatically, as a Java consumer does unless told otherwise, here once a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from flowguard.bench.meter import Context, Reading, Run
from flowguard.units import MIB
from peers.java_program import reading_of_lines, run_java

__all__ = ["setup"]

PROGRAM = "org.apache.kafka.tools.ConsumerPerformance"
HEAP = "512m"  # as in the script
REPORT_MS = 50

#: Column of the records so far, of those that are printed with --show-detailed-stats.
COUNT_AT = 4


def setup(context: Context) -> Run:
    """Return what runs it."""
    settings = ("auto.commit.interval.ms=1000", "max.poll.records=10000")

    def run(n: int) -> Reading:
        arguments = [
            *("--bootstrap-server", context.broker, "--topic", context.topic),
            *("--group", context.group, "--num-records", str(n), "--fetch-size", str(4 * MIB)),
            *("--show-detailed-stats", "--hide-header", "--reporting-interval", str(REPORT_MS)),
            *(part for each in settings for part in ("--command-property", each)),
        ]

        def read(lines: Iterable[str], process: int) -> Reading:
            return reading_of_lines(counts(lines), process, n)

        return run_java("consumer-performance", PROGRAM, arguments, HEAP, read)

    return run


def counts(lines: Iterable[str]) -> Iterator[int]:
    """Yield the number of records in all, of each line that has it."""
    for line in lines:
        columns = line.split(",")
        if len(columns) > COUNT_AT and columns[COUNT_AT].strip().isdigit():
            yield int(columns[COUNT_AT])
