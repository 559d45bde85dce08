"""The examples of the guide run, each test of it as it stands there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from flowguard.testing import Harness, Moment

GUIDE = (Path(__file__).parents[3] / "docs/guides/testing.md").read_text(encoding="utf-8")


def program() -> dict[str, Any]:
    """Return the names that the guide's code defines."""
    names: dict[str, Any] = {"__name__": "guide"}
    for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        exec(compile(block, "docs/guides/testing.md", "exec"), names)
    return names


TESTS = re.findall(r"async def (test_\w+)\(", GUIDE)


@pytest.mark.parametrize("name", TESTS)
async def test_an_example_of_the_guide_passes(name: str) -> None:
    await program()[name]()


@pytest.mark.parametrize("kind", [Harness, Moment])
def test_the_guide_names_all_that_a_harness_can(kind: type) -> None:
    public = [name for name, _ in inspect.getmembers(kind) if not name.startswith("_")]
    missing = [name for name in public if name not in ("close",) and f"{name}" not in GUIDE]
    assert not missing
