"""`flowguard stress run` against a real worker, on the embedded broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from flowguard.snapshot import COUNTS
from flowguard.stress.embedded import free_port

from .test_demo import wait_for_children

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
COMMAND = (sys.executable, "-c", "from flowguard.cli import main; main()", "stress", "run")

required = os.environ.get("FLOWGUARD_REQUIRE_KAFKA", "") not in ("", "0")
pytestmark = pytest.mark.skipif(
    find_spec("noida_db") is None and not required,
    reason="noida_db is missing; pip install 'flowguard[demo]'",
)

APP = """\
import asyncio

import flowguard as fg

realtime = fg.Lane("realtime", target="100ms", reserve=0.25)
bulk = fg.Lane("bulk")
app = fg.App("shop", broker="kafka://localhost:9092", lanes=[realtime, bulk],
             topic_disable_leader=True)
orders = app.feed("orders", columns={"order": "!int64", "amount": "decimal128(12,2)"},
                  lanes=fg.by_header("kind", {"rt": realtime}, default=bulk))
scored = app.feed("scored")


@app.agent(orders, sink=[scored], concurrency=4)
async def score(batches):
    async for batch in batches:
        await asyncio.sleep(0.002)
        yield batch.to_polars().select("order", "amount")
"""


def stress(
    *arguments: str, cwd: Path = PROJECT, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=180, check=False,
        **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the small scenario once; return its scorecard, its page, and what it said."""
    directory = tmp_path_factory.mktemp("stress")
    page, file = directory / "report.html", directory / "card.json"
    done = stress(str(HERE / "small.toml"), "--json", "--html", str(page), "--output", str(file))
    assert done.stdout, done.stderr
    card = json.loads(done.stdout)
    return {"card": card, "page": page.read_text(), "file": file, "code": done.returncode,
            "said": done.stderr}  # fmt: skip


def test_everything_that_was_offered_arrives_and_is_accounted_for(run: dict[str, Any]) -> None:
    card = run["card"]

    assert (card["lost"], card["duplicates"]) == (0, 0), card["why"]
    assert card["settled"] == card["offered"] > 2_000
    for lane in card["lanes"].values():
        assert lane["read"] == sum(lane[count] for count in COUNTS[1:])


def test_the_result_follows_from_what_the_scenario_asserts(run: dict[str, Any]) -> None:
    objectives = {each["name"]: each for each in run["card"]["objectives"]}

    assert objectives["bulk settled"]["passed"], objectives
    assert run["code"] == (0 if run["card"]["result"] == "pass" else 1)
    assert run["card"]["result"] == "pass" or "this machine" in run["card"]["why"]


def test_the_timeline_tells_what_the_provider_did(run: dict[str, Any]) -> None:
    timeline = run["card"]["timeline"]
    faulty = [entry["t"] for entry in timeline if entry["faults"]]

    assert faulty == [5.0]
    assert timeline[3]["offered"]["bulk"] > 2 * timeline[1]["offered"]["bulk"]
    assert any(entry["limit"]["serve"] for entry in timeline)


def test_the_page_and_the_file_tell_the_same(run: dict[str, Any]) -> None:
    assert json.loads(run["file"].read_text()) == run["card"]
    assert "<svg" in run["page"] and "Shaded: provider slow, 4–5 s." in run["page"]


def test_progress_goes_to_standard_error(run: dict[str, Any]) -> None:
    assert "starting the embedded broker" in run["said"]
    assert "\x1b" not in run["said"]


def test_an_app_of_the_users_is_put_to_the_same_test(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    scenario = (HERE / "small.toml").read_text().split("[[faults]]")[0]
    (tmp_path / "small.toml").write_text(scenario)

    done = stress("small.toml", "-A", "shop", "--json", cwd=tmp_path)

    card = json.loads(done.stdout or "{}")
    assert card, done.stderr
    lanes = card["lanes"]
    assert lanes["realtime"]["settled"] > 500 and lanes["bulk"]["settled"] > 1_000
    assert lanes["realtime"]["dead_letters"] == 0, "made-up values are what the feed can read"
    assert lanes["realtime"]["p99"] > 0
    assert card["lost"] is None, "nobody can tell made-up records apart"


def test_a_fault_of_the_pipeline_is_refused_for_an_app_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)

    done = stress(str(HERE / "small.toml"), "-A", "shop", cwd=tmp_path)

    assert done.returncode == 2
    assert "without -A" in done.stderr and done.stderr.count("\n") == 1


def test_a_broker_that_is_not_there_is_exit_code_3() -> None:
    done = stress(str(HERE / "small.toml"), "--broker", f"kafka://127.0.0.1:{free_port()}")

    assert done.returncode == 3
    assert "nothing was started" in done.stderr and done.stderr.count("\n") == 1


def test_a_signal_ends_it_with_everything_it_started() -> None:
    running = subprocess.Popen(
        [*COMMAND, str(HERE / "small.toml"), "--json"],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    started = wait_for_children(running.pid, count=5)  # broker, worker, two senders, reader

    running.send_signal(signal.SIGTERM)
    out, said = running.communicate(timeout=60)

    assert running.returncode == 130, said
    assert out == "" and "Traceback" not in said
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not alive
