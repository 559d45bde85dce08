"""What becomes of a lane's records when they are too many or too old."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowguard.commands import Command

if TYPE_CHECKING:
    from flowguard.engine import Engine

__all__ = ["Overflow"]


class Overflow:
    """Carry out the overflow policies of the lanes.

    Args:
        engine: What holds the records.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def tick(self, now_ns: int) -> list[Command]:
        """Look at each lane, and let go of what its policy says."""
        return []
