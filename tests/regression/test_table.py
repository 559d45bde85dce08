"""The table of Faust's bugs is true: it names files that exist, and each file of this directory."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NAMED = set(re.findall(r"`([\w/]+\.py)`", (HERE / "README.md").read_text()))


def test_what_the_table_names_exists() -> None:
    missing = [name for name in NAMED if not any((at / name).exists() for at in (HERE, ROOT))]

    assert missing == []


def test_each_test_here_is_in_the_table() -> None:
    here = {path.name for path in HERE.glob("test_*.py")}

    assert here - NAMED == set()
