"""Chaos for as long as you like: python -m tests.chaos --seed 7 --minutes 10 --kills 100.

Prints the plan, what is done as it is done, and the figures. Exit code 1: something is wrong;
logs of the workers are then kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import uuid
from pathlib import Path

from tests.chaos.plan import plan_of
from tests.chaos.rig import Rig
from tests.kafka_broker import KafkaBroker, NoKafka


def main() -> int:
    """Run one seed on Apache Kafka."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=2.0, help="records are produced so long")
    parser.add_argument("--kills", type=int, help="mostly kill -9, and end after so many")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two steps")
    parser.add_argument("--no-broker", action="store_true", help="never restart the broker")
    parser.add_argument("--plan", action="store_true", help="print the plan and do nothing")
    options = parser.parse_args()
    kills = options.kills is not None
    try:
        broker = None if options.plan else KafkaBroker()
    except NoKafka as error:
        print(error, file=sys.stderr)
        return 3
    restarts = broker is None or broker.restartable
    plan = plan_of(
        options.seed, seconds=options.minutes * 60, every_s=options.every, kills=kills,
        broker=restarts and not options.no_broker,
    )  # fmt: skip
    print(*plan.lines, sep="\n", flush=True)
    if broker is None:
        return 0
    directory = Path(tempfile.mkdtemp(prefix="flowguard-chaos-"))
    with broker:
        print(f"\non {broker.description}; workers in {directory}", flush=True)
        result = Rig(
            plan, broker, directory / "workers", lambda stem: f"{stem}-{uuid.uuid4().hex[:8]}",
            kills_max=options.kills, say=lambda line: print(line, flush=True),
        ).run()  # fmt: skip
    print(*result.lines, sep="\n", flush=True)
    if result.is_good:
        shutil.rmtree(directory, ignore_errors=True)
        return 0
    print(f"the logs of the workers are in {directory}/workers")
    return 1


if __name__ == "__main__":
    sys.exit(main())
