"""Fixtures of the chaos runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.plan import Plan
from tests.chaos.rig import Result, Rig
from tests.kafka_broker import KafkaBroker


@pytest.fixture
def suffer(
    kafka: KafkaBroker, tmp_path: Path, topic_name: Callable[[str], str]
) -> Callable[..., Result]:
    """Run a plan, `suffer(plan, planted=SOURCE)`, and print what is needed to look into it."""

    def run(plan: Plan, *, planted: str = "", commit_ms: int = 2_000) -> Result:
        print(*plan.lines, sep="\n")
        rig = Rig(
            plan, kafka, tmp_path / "workers", topic_name,
            planted=planted, commit_ms=commit_ms, say=print,
        )  # fmt: skip
        result = rig.run()
        print(*result.lines, sep="\n")
        return result

    return run
