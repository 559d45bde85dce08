"""What a worker tells upstream services: the value of its record on the control topic."""

from __future__ import annotations

from typing import Any, Final

from flowguard.engine import Engine

__all__ = ["SCHEMA", "TTL_S", "Told", "pressure_document"]

SCHEMA: Final = "flowguard.pressure/v1"

#: Who has heard nothing of a worker for so long takes it for gone.
TTL_S: Final = 15.0

#: Smaller changes are told with the next regular record only.
LEVEL_STEP: Final = 0.1
ADMITTED_STEP: Final = 0.05


def pressure_document(engine: Engine, *, worker: str) -> dict[str, Any]:
    """Return the state of a worker as upstream services may read it.

    Shape: `level` is the pressure, 0..1; `rung` the rung, 0..6; for each lane `admitted` is
    the share of what is offered that it takes in, 0..1; `ttl` is in seconds.
    """
    steering = engine.steering
    return {
        "schema": SCHEMA,
        "worker": worker,
        "level": round(steering.pressure.ratio, 3),
        "rung": steering.rung,
        "lanes": {
            lane.name: {"admitted": round(steering.admitted(rank), 3)}
            for rank, lane in enumerate(engine.lanes)
        },
        "ttl": TTL_S,
    }


class Told:
    """What was told last, and whether the present differs enough to be told at once."""

    def __init__(self) -> None:
        self._document: dict[str, Any] | None = None
        self._at_s = 0.0

    def is_due(self, document: dict[str, Any], now_s: float) -> bool:
        """Tell whether this must be written now."""
        before = self._document
        if before is None or now_s - self._at_s >= TTL_S / 3:
            return True
        return (
            document["rung"] != before["rung"]
            or abs(document["level"] - before["level"]) >= LEVEL_STEP
            or any(
                differs(lane["admitted"], before["lanes"][name]["admitted"])
                for name, lane in document["lanes"].items()
            )
        )

    def note(self, document: dict[str, Any], now_s: float) -> None:
        """Note that this is written."""
        self._document, self._at_s = document, now_s


def differs(after: float, before: float) -> bool:
    """Tell whether a share has changed enough, or has come to one of its ends."""
    return after != before and (abs(after - before) >= ADMITTED_STEP or after in (0.0, 1.0))
