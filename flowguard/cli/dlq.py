"""`flowguard dlq`: look after dead letters, whether a worker is running or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

from flowguard.cli import LazyGroup, Verb

__all__ = ["dlq"]

VERBS: Final[Mapping[str, Verb]] = {
    "ls": Verb("flowguard.cli.dlq_ls:ls", "Count them by what is wrong."),
    "show": Verb("flowguard.cli.dlq_show:show", "Show single ones, with key, value and headers."),
    "redrive": Verb("flowguard.cli.dlq_redrive:redrive", "Send them back to where they were read."),
    "purge": Verb("flowguard.cli.dlq_purge:purge", "Delete them."),
}


@click.group(cls=LazyGroup, verbs=VERBS)
def dlq() -> None:
    """Look after dead letters. Workers may be running.

    Say which app with -A, or name a broker and a topic.
    """
