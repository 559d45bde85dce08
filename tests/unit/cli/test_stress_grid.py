"""`flowguard stress grid`."""

from __future__ import annotations

import json
from pathlib import Path

from flowguard.cli.exit_codes import USAGE
from tests.unit.cli.conftest import Run


def test_a_part_of_the_grid_is_played_and_reported(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "grid.json"

    result = run("stress", "grid", "--only", "servers-2", "--seeds", "1", "--output", str(file))

    assert result.exit_code == 0, result.stderr
    assert "servers-2 " in result.stdout
    assert "vegas" in result.stdout
    assert ">=" not in result.stdout  # a part of it has no targets
    document = json.loads(file.read_text())
    assert document["schema"] == "flowguard.grid/v1"
    assert document["result"] is None
    assert {cell["player"] for cell in document["cells"]} == {
        "goodput", "gradient", "vegas", "aimd", "arc",
    }  # fmt: skip


def test_a_scenario_that_does_not_exist_is_refused_and_the_nearest_is_named(run: Run) -> None:
    result = run("stress", "grid", "--only", "boiling-frgo")

    assert result.exit_code == USAGE
    assert "did you mean boiling-frog?" in result.stderr


def test_seeds_must_be_a_number(run: Run) -> None:
    assert run("stress", "grid", "--seeds", "0").exit_code == USAGE
