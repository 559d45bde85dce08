"""Each stage, then all of it: scheduler, intake, egress, codecs, end to end.

    python benchmarks/run_all.py [--broker HOST:PORT] [--only scheduler,codecs]

Runs the programs `bench_….py` one after the other; those that need Apache Kafka share one, which
is started if none is given. A program that fails does not keep the others from running; exits 1
if one did.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from brokers import PROJECT, kafka

HERE = Path(__file__).parent
STAGES = ("scheduler", "intake", "egress", "codecs", "end_to_end")


def main() -> int:
    """Run them; say at the end which failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--broker", metavar="HOST:PORT", help="default: one of its own")
    parser.add_argument("--only", default=",".join(STAGES), metavar="NAME,…")
    given = parser.parse_args()
    names = given.only.split(",")
    for name in names:
        if name not in STAGES:
            parser.error(f"--only: there are {', '.join(STAGES)}, and no {name!r}")
    programs = [HERE / f"bench_{name}.py" for name in names]
    if any(map(needs_kafka, programs)):
        with kafka(given.broker) as broker:
            failed = [program.name for program in programs if not run(program, broker)]
    else:
        failed = [program.name for program in programs if not run(program, None)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def needs_kafka(program: Path) -> bool:
    """Tell whether a program asks for a broker."""
    return program.exists() and "--broker" in program.read_text()


def run(program: Path, broker: str | None) -> bool:
    """Run one; return whether it was content."""
    command = [sys.executable, str(program)]
    if broker and needs_kafka(program):
        command += ["--broker", broker]
    print(f"\n{program.relative_to(PROJECT)}\n", flush=True)
    began = time.monotonic()
    code = subprocess.run(command, check=False).returncode
    print(f"\nexit code {code} after {time.monotonic() - began:.0f} s", flush=True)
    return code == 0


if __name__ == "__main__":
    sys.exit(main())
