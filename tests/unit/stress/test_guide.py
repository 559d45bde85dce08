"""The guide names everything that a scenario may have, and its example can be run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowguard.stress.arrivals import MODELS, Keys, Stream
from flowguard.stress.expect import METRICS
from flowguard.stress.faults import FAULTS, SIMULATED_ONLY
from flowguard.stress.scenario import (
    Batches,
    BrokerPlan,
    Fallback,
    Heading,
    ProviderPlan,
    WorkerPlan,
    parse_scenario,
)
from flowguard.stress.tables import keys_of

GUIDE = (Path(__file__).parents[3] / "docs/guides/stress.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """Return the text below a heading, to the next one of its level."""
    level = heading.split()[0]
    start = GUIDE.index(heading)
    return re.split(rf"\n{level} ", GUIDE[start + len(heading) :])[0]


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("### `[scenario]`", Heading),
        ("### `[worker]`", WorkerPlan),
        ("### `[worker]`", Batches),
        ("### `[worker]`", Fallback),
        ("### `[provider]`", ProviderPlan),
        ("### `[broker]`", BrokerPlan),
        ("### `[[arrivals]]`", Stream),
        ("### `[[arrivals]]`", Keys),
    ],
)
def test_every_field_of_a_table_is_in_the_guide(heading: str, kind: type[object]) -> None:
    text = section(heading)

    assert [key for key in keys_of(kind) if not re.search(rf"\b{key}\b", text)] == []


def test_every_model_and_its_fields_are_in_the_guide() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([^|]*)\|", section("### `[[arrivals]]`"), re.M))

    for name, model in MODELS.items():
        assert set(re.findall(r"`(\w+)`", rows[name])) == set(keys_of(model)), name


def test_every_fault_and_its_fields_are_in_the_guide() -> None:
    target, found = "", {}
    for line in section("### `[[faults]]`").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[2].startswith("`"):
            target = cells[1].strip("`") or target
            name, _, mark = cells[2].partition(" ")
            found[target, name.strip("`")] = (set(re.findall(r"`(\w+)`", cells[3])), mark)

    for target, kinds in FAULTS.items():
        for name, kind in kinds.items():
            mark = "✱" if kind in SIMULATED_ONLY else ""
            assert found.pop((target, name)) == (set(keys_of(kind)), mark)
    assert not found


def test_every_metric_is_in_the_guide() -> None:
    named = set(re.findall(r"`(\w+)`", section("### `[[expect]]`")))

    assert set(METRICS) - named == set()


def test_the_example_of_the_guide_is_a_scenario() -> None:
    (example,) = re.findall(r"```toml\n(\[scenario\].*?)```", GUIDE, re.S)

    scenario = parse_scenario(example, file="lunch.toml")

    assert scenario.worker.lane_names == ["orders", "history"]
    assert [str(fault) for fault in scenario.faults] == ["provider slow"]
