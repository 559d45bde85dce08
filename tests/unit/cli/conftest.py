"""Apps to point the command line at, each a module of its own in an empty directory."""

from __future__ import annotations

import os
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flowguard.cli import cli

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what the developer has set in the environment."""
    for name in list(os.environ):
        if name.startswith("FLOWGUARD_"):
            monkeypatch.delenv(name)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module into the current directory and return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: list[str] = []

    def write(source: str) -> str:
        names.append(f"shop_{uuid.uuid4().hex}")
        (tmp_path / f"{names[-1]}.py").write_text(textwrap.dedent(source))
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def run() -> Run:
    """Run the command line in this process."""
    return lambda *args: CliRunner().invoke(cli, list(args), prog_name="flowguard")


@pytest.fixture
def good_app(module: Callable[[str], str]) -> str:
    """An app in which nothing is wrong."""
    return module(
        """
        import flowguard as fg

        realtime = fg.Lane("realtime", target="50ms")
        backfill = fg.Lane("backfill")
        app = fg.App("shop", broker="kafka://127.0.0.1:1", lanes=[realtime, backfill])
        orders = app.feed("orders", "old-orders", columns={"id": "!int64"},
                          lanes=fg.by_topic({"orders": realtime}, default=backfill))
        scores = app.feed("scores", key_by="id", lanes=realtime)

        @app.agent(orders, sink=[scores])
        async def score(batches):
            async for batch in batches:
                yield batch.to_polars()
        """
    )
