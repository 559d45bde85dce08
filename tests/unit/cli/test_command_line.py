"""The group of commands: help, versions, and errors in one line."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

import flowguard
from flowguard.cli import LazyGroup, Verb
from flowguard.cli.exit_codes import CORRUPT, FAILED, USAGE
from flowguard.errors import ConfigError, FlowguardError, WireError
from tests.unit.cli.conftest import Run


def test_help_names_every_verb_and_completion(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for word in ("worker", "check", "demo", "stress", "spill", "bench", "_FLOWGUARD_COMPLETE"):
        assert word in result.stdout


def test_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version").stdout == f"flowguard {flowguard.__version__}\n"


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (("wroker",), "did you mean worker?"),
        (("zzz",), "commands are worker"),
        (("worker", "--brokr", "x"), "did you mean --broker?"),
        (("--vers",), "did you mean --version?"),
        (("check",), "say which app: -A MODULE"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_a_hint(
    run: Run, args: tuple[str, ...], hint: str
) -> None:
    result = run(*args)
    assert result.exit_code == USAGE
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("flowguard: ")
    assert hint in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("a\nb"), USAGE), (WireError("a b"), CORRUPT), (FlowguardError("a b"), FAILED)],
)
def test_an_error_becomes_one_line_and_its_exit_code(error: FlowguardError, code: int) -> None:
    @click.command
    def verb() -> None:
        raise error

    group = LazyGroup("flowguard", verbs={})
    group.verbs = {"verb": type("Loaded", (), {"load": lambda self: verb})()}  # type: ignore[dict-item]
    result = click.testing.CliRunner().invoke(group, ["verb"])
    assert (result.exit_code, result.stderr) == (code, "flowguard: a b\n")


def test_a_verb_that_cannot_be_imported_breaks_no_other() -> None:
    group = LazyGroup("flowguard", verbs={
        "gone": Verb("flowguard.cli.no_such_verb:gone", "It is not there."),
        "check": Verb("flowguard.cli.check:check", "It is."),
    })  # fmt: skip
    runner = click.testing.CliRunner()
    assert runner.invoke(group, ["check", "--help"]).exit_code == 0
    result = runner.invoke(group, ["gone"])
    assert result.exit_code == FAILED
    assert "cannot be loaded" in result.stderr


def test_help_imports_no_verb() -> None:
    code = (
        "import sys; from flowguard.cli import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in sys.modules if m.startswith('flowguard.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['flowguard.cli.exit_codes', 'flowguard.cli.terminal']"
