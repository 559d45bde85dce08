"""`flowguard offsets`: where a group is in its topics, and how to put it elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from flowguard.cli import LazyGroup, Verb

__all__ = ["offsets"]

VERBS: Final[Mapping[str, Verb]] = {
    "show": Verb("flowguard.cli.offsets_show:show", "Show what is committed, lane by lane."),
    "reset": Verb("flowguard.cli.offsets_reset:reset", "Commit other offsets."),
}


@click.group(cls=LazyGroup, verbs=VERBS)
def offsets() -> None:
    """Look at the committed offsets of an app, or change them while it does not run."""
