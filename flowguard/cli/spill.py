"""`flowguard spill`: look after a spill directory, whether a worker is running or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from flowguard.cli import LazyGroup, Verb

__all__ = ["spill"]

VERBS: Final[Mapping[str, Verb]] = {
    "ls": Verb("flowguard.cli.spill_ls:ls", "Show what is spilled, and where."),
    "verify": Verb("flowguard.cli.spill_verify:verify", "Check every byte of it."),
    "purge": Verb("flowguard.cli.spill_purge:purge", "Delete from it."),
}


@click.group(cls=LazyGroup, verbs=VERBS)
def spill() -> None:
    """Look after a spill directory. Workers may be running in it: nothing is locked.

    DIR is what a worker has as --spill-dir, or an app's or a slot's directory in it.
    """
