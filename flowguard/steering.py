"""Pressure, the ladder, and what each rung changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowguard.commands import Command

if TYPE_CHECKING:
    from flowguard.engine import Engine

__all__ = ["Steering"]


class Steering:
    """Degrade a worker one step at a time while it is under pressure.

    Args:
        engine: What is steered.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def tick(self, now_ns: int, loop_lag_ns: int) -> list[Command]:
        """Look at the pressure, and change what must change."""
        return []
