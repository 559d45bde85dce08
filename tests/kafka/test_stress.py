"""A scenario against Apache Kafka: a worker that is killed loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.kafka_broker import KafkaBroker

SCENARIO = """
[scenario]
name = "killed"
duration = "6s"
drain = "60s"

[worker]
memory = "32MiB"
partitions = 2
concurrency = 4
rule = "by_header"

[[worker.lanes]]
name = "realtime"
target = "200ms"

[[worker.lanes]]
name = "bulk"

[provider]
call = "2ms"
record = "20us"

[[arrivals]]
lane = "realtime"
model = "poisson"
rate = 50

[[arrivals]]
lane = "bulk"
model = "constant"
rate = 200

[[faults]]
at = "3s"
target = "worker"
type = "crash"
restart = "500ms"

[[expect]]
metric = "lost"
max = 0
"""


def test_a_worker_that_is_killed_in_a_scenario_loses_nothing(
    kafka: KafkaBroker, tmp_path: Path
) -> None:
    (tmp_path / "killed.toml").write_text(SCENARIO)
    command = (sys.executable, "-c", "from flowguard.cli import main; main()", "stress", "run")

    done = subprocess.run(
        [*command, "killed.toml", "--json", "--broker", f"kafka://{kafka.bootstrap}"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip

    card = json.loads(done.stdout or "{}")
    assert card, done.stderr
    assert card["lost"] == 0, card["why"]
    assert card["settled"] + card["duplicates"] >= card["offered"] > 1_200
    assert card["duplicates"] <= 1_000, "no more than was not committed"
    assert [entry["faults"] for entry in card["timeline"]][3] == ["worker crash"]
