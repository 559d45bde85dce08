"""`flowguard offsets` on Apache Kafka: what it shows, and what a reset does to a worker."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from typing import Any

from click.testing import CliRunner, Result

from flowguard.cli import cli
from flowguard.cli.exit_codes import FAILED, OK, USAGE
from tests.kafka.outside import Outside, Record
from tests.kafka.worker import FLOWGUARD, Workers

TWO_LANES = """
realtime = fg.Lane("realtime", target="50ms")
bulk = fg.Lane("bulk")
app = fg.App(APP, broker=BROKER, lanes=[realtime, bulk])
orders = app.feed(ORDERS, columns={"id": "int64"},
                  lanes=fg.by_header("lane", {"fast": realtime}, default=bulk))

@app.agent(orders)
async def look(batches):
    async for batch in batches:
        while batch.lane.name == "bulk" and not (HERE / "go").exists():
            await asyncio.sleep(0.05)
        with (HERE / "seen").open("a") as seen:
            seen.writelines(f"{each}\\n" for each in batch.to_polars()["id"])
"""


def offsets(outside: Outside, *args: str) -> Result:
    broker = outside.settings["bootstrap.servers"]
    return CliRunner().invoke(
        cli, ["offsets", args[0], "--broker", broker, *args[1:]], prog_name="flowguard"
    )


def test_show_has_offsets_lag_and_lanes_and_reset_lets_a_worker_repeat(
    outside: Outside, workers: Workers, topic: Callable[..., str]
) -> None:
    orders = topic("orders")
    outside.produce(orders, [
        Record({"id": each}, headers=[("lane", b"fast" if each % 2 else b"slow")])
        for each in range(100)
    ])  # fmt: skip
    worker = workers.start(TWO_LANES, ORDERS=orders)

    def run(verb: str, *args: str) -> Result:
        return offsets(outside, verb, "--group", worker.group, *args)

    def shown() -> dict[str, Any]:
        done = run("show", "--json")
        assert done.exit_code == OK
        assert done.stdout.startswith('{\n  "schema": "flowguard.offsets/v1"')
        return dict(json.loads(done.stdout))

    worker.until(
        lambda: any(each["lanes"].get("realtime") == 100 for each in shown()["partitions"])
    )
    found = shown()
    (ahead,) = found["partitions"]
    assert (ahead["committed"], ahead["end"], ahead["lag"]) == (0, 100, 100)
    assert found["members"] == 1
    assert "realtime +100" in run("show").stdout
    running = run("reset", "--to", "earliest", "--yes")
    assert running.exit_code == FAILED and "has 1 member; stop the workers first" in running.stderr

    (worker.directory / "go").touch()
    worker.until(lambda: outside.is_done(worker.group, orders))
    assert worker.stop(signal.SIGINT) == 0  # after SIGTERM the group waits for it
    where = ("reset", "--to", "0:40", "--topic", orders)
    dry = run(*where, "--dry-run")
    assert "would commit 1 offset" in dry.stdout and "-60" in dry.stdout
    assert outside.committed(worker.group, orders) == {0: 100}
    command = [*FLOWGUARD, "-A", "app", "offsets", *where, "--yes"]
    done = subprocess.run(
        command, cwd=worker.directory, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (OK, "")
    assert outside.committed(worker.group, orders) == {0: 40}
    (worker.directory / "seen").unlink()
    worker.start()
    worker.until(lambda: outside.is_done(worker.group, orders))
    assert worker.stop() == 0
    again = sorted(map(int, (worker.directory / "seen").read_text().split()))
    assert again == list(range(40, 100))


def test_reset_goes_to_the_ends_or_a_time_and_takes_metadata_away(
    outside: Outside, topic: Callable[..., str], topic_name: Callable[..., str]
) -> None:
    orders, group = topic("orders", 2), topic_name("group")
    outside.produce(orders, [Record(b"x", partition=each % 2, timestamp=1_700_000_000_000 + each)
                             for each in range(20)])  # fmt: skip

    nothing = offsets(outside, "reset", "--group", group, "--to", "earliest", "--yes")
    assert nothing.exit_code == USAGE and "say which topics" in nothing.stderr

    def reset(to: str) -> dict[int, int]:
        done = offsets(outside, "reset", "--group", group, "--topic", orders, "--to", to, "--yes")
        assert done.exit_code == OK, done.stderr
        return outside.committed(group, orders)

    assert reset("latest") == {0: 10, 1: 10}
    assert reset("2023-11-14T22:13:20.010") == {0: 5, 1: 5}
    assert reset("earliest") == {0: 0, 1: 0}
    assert reset("1:7") == {0: 0, 1: 7}
    assert "it is there already" in offsets(outside, "reset", "--group", group, "--to", "0:0",
                                            "--topic", orders, "--yes").stdout  # fmt: skip
    for wrong, said in (("0:11", "choose from 0 to 10"), ("9:1", "has no partition 9; it has 2")):
        result = offsets(outside, "reset", "--group", group, "--topic", orders, "--to", wrong)
        assert result.exit_code == USAGE and said in result.stderr
    nobody = offsets(outside, "reset", "--group", group, "--to", "latest")
    assert nobody.exit_code == USAGE and "nothing is reset: nobody answers" in nobody.stderr
    missing = offsets(outside, "show", "--group", group, "--topic", orders[:-1])
    assert missing.exit_code == USAGE and f"did you mean {orders}" in missing.stderr
    assert "has committed nothing" in offsets(outside, "show", "--group", "nobody").stdout
