"""`flowguard stress`: what it lists, what it runs, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowguard.cli.exit_codes import FAILED, OK, USAGE
from tests.unit.cli.conftest import Run

SMALL = """
[scenario]
name = "small"
about = "hardly anything"
duration = "3s"
[[worker.lanes]]
name = "realtime"
target = "50ms"
[[arrivals]]
lane = "realtime"
model = "poisson"
rate = 500
[[expect]]
metric = "p99"
max = "{most}"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL.replace("{most}", "50ms"))
    return path


def test_the_list_names_every_shipped_scenario(run: Run) -> None:
    shown, as_json = run("stress", "list"), run("stress", "list", "--json")

    scenarios = json.loads(as_json.stdout)["scenarios"]
    assert {"steady"} <= {each["name"] for each in scenarios}
    assert all(each["name"] in shown.stdout for each in scenarios)
    assert all(each["about"] for each in scenarios)


def test_a_run_that_holds_what_it_asserts_passes(run: Run, small: Path) -> None:
    result = run("stress", "run", str(small), "--simulate")

    assert result.exit_code == OK, result.output
    assert "pass: all 1 objectives held" in result.stdout
    assert "realtime" in result.stdout and "3 s" in result.stdout


def test_a_run_that_does_not_hold_it_fails(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL.replace("{most}", "1ms"))

    result = run("stress", "run", str(path), "--simulate")

    assert result.exit_code == FAILED
    assert "fail: p99 is" in result.stdout


def test_the_scorecard_is_printed_as_json_and_written(run: Run, small: Path) -> None:
    file = small.with_suffix(".json")

    result = run("stress", "run", str(small), "--simulate", "--json", "--output", str(file))

    card = json.loads(result.stdout)
    assert card == json.loads(file.read_text())
    assert card["schema"] == "flowguard.scorecard/v1"
    assert (card["result"], card["lost"], card["duplicates"]) == ("pass", 0, 0)
    assert card["offered"] == card["settled"] == card["lanes"]["realtime"]["read"]
    assert [entry["t"] for entry in card["timeline"]][:3] == [1.0, 2.0, 3.0]


def test_the_seed_decides_the_run(run: Run, small: Path) -> None:
    def card(seed: str) -> str:
        return run("stress", "run", str(small), "--simulate", "--json", "--seed", seed).stdout

    assert card("5") == card("5") != card("6")


def test_any_csv_is_a_scenario(run: Run, tmp_path: Path) -> None:
    trace = tmp_path / "load.csv"
    rows = "".join(f"2024-01-01 10:{m:02}:00,{100 + 900 * (m == 30)}\n" for m in range(60))
    trace.write_text("when,how many\n" + rows)

    result = run("stress", "run", "--trace", str(trace), "--simulate", "--json")

    card = json.loads(result.stdout)
    assert result.exit_code in (OK, FAILED)
    assert card["result"] in ("pass", "fail") and card["offered"] > 10_000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("stress", "rn"), "there is no command 'rn'; did you mean run?"),
        (("stress", "run"), "say which scenario, or --trace FILE"),
        (("stress", "run", "stedy", "--simulate"), "did you mean steady?"),
        (("stress", "run", "no.toml", "--simulate"), "cannot read no.toml: No such file"),
        (("stress", "run", "steady", "--trace", "x.csv", "--simulate"), "replays no trace"),
        (("stress", "run", "--trace", "no.csv", "--simulate"), "cannot read the trace"),
        (("stress", "run", "trace", "--simulate"), "name it with --trace FILE"),
        (("stress", "run", "steady", "--sed", "1"), "did you mean --seed or"),
        (("stress", "run", "steady", "--speed", "-1"), "--speed"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_a_hint(
    run: Run, args: tuple[str, ...], message: str
) -> None:
    result = run(*args)

    assert result.exit_code == USAGE
    assert result.stderr.count("\n") == 1 and message in result.stderr


def test_a_file_with_a_mistake_is_refused_with_its_place(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(SMALL.replace("rate = 500", "rte = 500"))

    result = run("stress", "run", str(path), "--simulate")

    assert result.exit_code == USAGE
    assert "wrong.toml: [[arrivals]] 1, model poisson, has no option 'rte'" in result.stderr
