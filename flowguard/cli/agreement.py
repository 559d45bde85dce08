"""Ask before something changes that cannot be undone."""

from __future__ import annotations

import signal

import click

from flowguard.cli.exit_codes import FAILED, USAGE, CommandError

__all__ = ["agree"]


def agree(question: str, *, unchanged: str) -> None:
    """Ask on standard error whether to go on.

    Args:
        question: What is about to happen, with a question mark.
        unchanged: What is true when nobody agrees, such as `nothing is deleted`.

    Raises:
        CommandError: It was not agreed to, or there is nobody to ask.
    """
    # Polars has the system restart what a signal interrupts: Ctrl-C would wait for an answer.
    signal.siginterrupt(signal.SIGINT, True)
    try:
        agreed = click.confirm(f"\n{question}", err=True)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise
        click.echo(err=True)
        raise CommandError(f"{unchanged}: nobody answers; say --yes", USAGE) from error
    if not agreed:
        raise CommandError(f"{unchanged}, as you said", FAILED)
