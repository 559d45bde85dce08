"""What the exit code of every command means, and errors that carry one."""

from __future__ import annotations

from typing import Final

import click

__all__ = ["CORRUPT", "FAILED", "INTERRUPTED", "NO_BROKER", "OK", "USAGE", "CommandError"]

OK: Final = 0
FAILED: Final = 1  # the check or the run failed
USAGE: Final = 2  # wrong options, or declarations that cannot work
NO_BROKER: Final = 3  # the broker was not reached
CORRUPT: Final = 4  # corrupt data was found
INTERRUPTED: Final = 130  # by a signal, before the work was done


class CommandError(click.ClickException):
    """End the command with one line on standard error.

    Args:
        message: What is wrong, and what to do.
        exit_code: One of this module's.
    """

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
