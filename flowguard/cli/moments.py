"""Times and positions as options take them, and as people read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from flowguard.cli.exit_codes import USAGE, CommandError
from flowguard.clock import SystemClock
from flowguard.errors import ConfigError
from flowguard.units import MILLISECOND, duration_ns

__all__ = ["PLACE", "moment_ms", "place_of", "when"]

PLACE: Final = re.compile(r"([0-9]{1,9}):([0-9]{1,18})", re.ASCII)


def place_of(text: str) -> tuple[int, int]:
    """Return a partition and an offset.

    Raises:
        CommandError: The text is something else.
    """
    match = PLACE.fullmatch(text)
    if match is None:
        raise CommandError(f"{text!r} is no position; write PARTITION:OFFSET, such as 0:17", USAGE)
    return int(match[1]), int(match[2])


def moment_ms(text: str, *, name: str) -> int:
    """Return a time in milliseconds of the epoch: how long ago, or a date in ISO 8601.

    A date without a zone is in UTC, as times are shown.

    Raises:
        CommandError: It is neither, or before 1970.
    """
    try:
        ago_ms = duration_ns(text, name=name) // MILLISECOND
    except ConfigError:
        pass
    else:
        return max(0, SystemClock().epoch_ms() - ago_ms)
    try:
        found = datetime.fromisoformat(text)
        moment = int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        moment = -1
    if moment < 0:
        raise CommandError(
            f"{name} {text!r} is no time; write 2h, or 2026-11-27T10:00 (in UTC)", USAGE
        )
    return moment


def when(timestamp_ms: int | None) -> str:
    """Return a time for people, in UTC; a record may have any number as its time."""
    if timestamp_ms is None or timestamp_ms < 0:
        return "–"
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(timestamp_ms)
