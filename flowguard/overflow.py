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

    def set_shed_ratio(self, rank: int, ratio: float, why: str) -> None:
        """Leave out this share of a lane's records from now on, if its policy permits.

        Args:
            rank: The lane.
            ratio: 0..1.
            why: The reason, for people.
        """

    def tick(self, now_ns: int) -> list[Command]:
        """Look at each lane, and let go of what its policy says."""
        return []
