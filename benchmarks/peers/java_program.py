"""Programs in Java: the process of a turn starts one, and what is measured is the JVM alone.

The JVM gets the options that Kafka's own scripts give it. What it reads in the first half of
a turn does not count, so that its compiler's work is not measured; everyone else is measured
from the first records on.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence

import psutil  # type: ignore[import-untyped]

from flowguard.bench.meter import Context, Reading, Run, peak_of
from flowguard.stress.embedded import die_with_parent
from peers.fetched import CLASSES, jars_of

__all__ = ["reading_of_lines", "run_java", "setup_java"]

#: What Java compiles while this share of the records is read.
WARM_SHARE = 0.5

#: Of bin/kafka-run-class.sh.
OPTIONS = (
    "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExplicitGCInvokesConcurrent",
    "-XX:InitiatingHeapOccupancyPercent=35", "-Djava.awt.headless=true",
)  # fmt: skip


def setup_java(name: str, program: str, context: Context, *, heap: str = "1g") -> Run:
    """Return what runs a program of ours: BROKER TOPIC GROUP DIRECTORY WARM GOAL."""
    told = [context.broker, context.topic, context.group, context.directory]

    def run(n: int) -> Reading:
        return run_java(
            name, program, [*told, str(int(n * WARM_SHARE)), str(n)], heap, reading_of_document
        )

    return run


def run_java(
    name: str,
    program: str,
    arguments: Sequence[str],
    heap: str,
    read: Callable[[Iterable[str], int], Reading],
) -> Reading:
    """Run a program to its end; `read` gets its lines and its process id.

    Raises:
        RuntimeError: It said nothing that is a reading.
    """
    path = f"{CLASSES[name]}:{jars_of(name)}/*" if name in CLASSES else f"{jars_of(name)}/*"
    command = ["java", f"-Xmx{heap}", *OPTIONS, "-cp", path, program, *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent
    ) as process:
        assert process.stdout is not None
        return read(process.stdout, process.pid)


def reading_of_document(lines: Iterable[str], process: int) -> Reading:
    """Return the reading that a program prints as JSON."""
    found = [line for line in lines if line.startswith('{"records"')]
    if not found:
        raise RuntimeError("the program ended without a reading")
    return Reading(**json.loads(found[-1]))


def reading_of_lines(counts: Iterable[int], process: int, goal: int) -> Reading:
    """Return the reading of a program that says ever and again how many it has read in all."""
    java = psutil.Process(process)
    warm = next((count for count in counts if count > goal * WARM_SHARE), 0)
    began_s, began_cpu_s = time.perf_counter(), cpu_seconds(java)
    last = warm
    for last in counts:
        ended_s, cpu_s, peak = time.perf_counter(), cpu_seconds(java), peak_of(str(process))
        if last >= goal:
            break
    if last == warm:
        raise RuntimeError("the program ended within its first report; read more records")
    return Reading(
        records=last - warm,
        seconds=ended_s - began_s,
        cpu_seconds=cpu_s - began_cpu_s,
        peak_memory=peak,
    )


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process so far."""
    used = process.cpu_times()
    return float(used.user + used.system)
