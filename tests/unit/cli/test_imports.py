"""What a start does not wait for: a restart is as quick as what a worker imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import flowguard

LOAD_WORKER = "from flowguard.cli import VERBS; VERBS['worker'].load()"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def loaded_by(code: str) -> set[str]:
    return set(run(f"{code}\nimport sys; print('\\n'.join(sys.modules))").split())


def test_a_worker_imports_neither_pages_nor_disk_nor_charts_before_it_needs_them() -> None:
    unneeded = {
        "aiohttp.web", "prometheus_client", "flowguard.web", "flowguard.spill_service",
        "flowguard.spill.store", "flowguard.spill.cipher", "flowguard.stress", "flowguard.testing",
        "pygal", "cryptography", "fastavro", "google.protobuf",
    }  # fmt: skip
    found = loaded_by(LOAD_WORKER)
    assert "flowguard.runtime" in found
    assert not found & unneeded


def test_the_package_and_its_command_line_import_neither_faust_nor_frames() -> None:
    found = loaded_by("import flowguard, flowguard.cli")
    assert not found & {"faust", "mode", "aiokafka", "aiohttp", "polars", "pyarrow", "numpy"}


def test_nothing_is_collected_over_and_over_while_a_verb_is_imported() -> None:
    code = f"import gc; {LOAD_WORKER}; print(gc.isenabled(), gc.get_stats()[2]['collections'])"
    assert run(code).split() == ["True", "0"]


def test_every_public_name_is_where_type_checkers_are_told_that_it_is() -> None:
    tree = ast.parse(Path(flowguard.__file__).read_text(encoding="utf-8"))
    told = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("flowguard.")
        for alias in node.names
    }
    places = {
        name: f"flowguard.{place}"
        for place, names in flowguard._PLACES.items()
        for name in names.split()
    }
    assert told == places
    assert sorted(told) == flowguard.__all__
