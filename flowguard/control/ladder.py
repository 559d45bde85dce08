"""The overload ladder: one rung at a time, up within seconds, down slowly.

    pressure   0 ──── .60 ── .70 ─────── .85 ──── 1
    enter             1      2, 3        4, 5, 6
    leave       .45 ◀─┘ .55 ◀┘   .70 ◀───┘

    up:    above the next threshold for 2 ticks, one rung per 2 s
    down:  below the own threshold for 5 ticks, one rung per 7 s
    a rung without an actuator in this app is passed at the next tick

Source: research on overload control, loop E; the thresholds are those of Apache NiFi's
back-pressure, with one of their own for each kind of action.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from flowguard.units import SECOND

__all__ = ["ENTER", "RUNG_NAMES", "Ladder"]

#: Stable: they are in `/api/state`, on the control topic and in the log.
RUNG_NAMES: Final = ("normal", "bulk", "pause-bulk", "spill", "brownout", "shed", "standard")
NORMAL, BULK, PAUSE_BULK, SPILL, BROWNOUT, SHED, STANDARD = range(7)

#: Pressure above which a rung is entered: yellow from .60 on, red above .85.
ENTER: Final = (0.0, 0.60, 0.70, 0.70, 0.85, 0.85, 0.85)

#: A rung is left this far below where it is entered.
HYSTERESIS: Final = 0.15

UP_TICKS: Final = 2
DOWN_TICKS: Final = 5
UP_DWELL_NS: Final = 2 * SECOND

#: Six rungs clear in 42 s and, with the longest hold for one of them, in 55 s.
DOWN_DWELL_NS: Final = 7 * SECOND

#: A rung that is needed again so soon after it was left is held for longer each time, up to
#: the longest hold: or a rung that works would be left and entered again for ever.
AGAIN_NS: Final = 30 * SECOND
HOLD_NS_MAX: Final = 20 * SECOND


class Ladder:
    """The rung that a worker stands on.

    Args:
        actuated: Rungs that change anything in this app; it goes no further than the last.
    """

    def __init__(self, actuated: Collection[int]) -> None:
        self.rung = NORMAL
        self._actuated = frozenset(actuated)
        self._changed_ns: int | None = None
        self._rising = False
        self._over_ticks = 0
        self._under_ticks = 0
        self._held: tuple[int, int] = (NORMAL, DOWN_DWELL_NS)  # a rung, and for how long
        self._left: dict[int, int] = {}  # rung → when it was last left downwards

    @property
    def name(self) -> str:
        """Return the name of the rung."""
        return RUNG_NAMES[self.rung]

    def tick(self, now_ns: int, pressure: float, *, in_use: int = NORMAL) -> int:
        """Look at the pressure, and return the step that was taken: -1, 0 or 1.

        Args:
            pressure: 0..1.
            in_use: The highest rung whose actuator is not back at nothing yet; it is kept.
        """
        above, below = self._above, self._below
        self._over_ticks = self._over_ticks + 1 if pressure > self._enter(above) else 0
        easy = pressure < ENTER[self.rung] - HYSTERESIS
        self._under_ticks = self._under_ticks + 1 if easy else 0
        if self.rung != NORMAL and self.rung not in self._actuated:
            return self._step(now_ns, 1 if self._rising and above is not None else -1)
        since_ns = UP_DWELL_NS if self._changed_ns is None else now_ns - self._changed_ns
        if self._over_ticks >= UP_TICKS and since_ns >= UP_DWELL_NS:
            return self._step(now_ns, 1)
        if (
            below is not None
            and self.rung > in_use
            and self._under_ticks >= DOWN_TICKS
            and since_ns >= self._hold_ns
        ):
            return self._step(now_ns, -1)
        return 0

    @property
    def _above(self) -> int | None:
        """Return the next rung above that changes anything."""
        return min((each for each in self._actuated if each > self.rung), default=None)

    @property
    def _below(self) -> int | None:
        return self.rung - 1 if self.rung > NORMAL else None

    def _enter(self, rung: int | None) -> float:
        """Return the pressure that leads to a rung; none does if there is none."""
        return 2.0 if rung is None else ENTER[rung]

    @property
    def _hold_ns(self) -> int:
        rung, hold_ns = self._held
        return hold_ns if rung == self.rung else DOWN_DWELL_NS

    def _step(self, now_ns: int, step: int) -> int:
        if step < 0:
            self._left[self.rung] = now_ns
        self.rung += step
        if step > 0 and self.rung in self._actuated:
            self._remember(now_ns)
        self._rising = step > 0
        self._changed_ns = now_ns
        self._over_ticks = self._under_ticks = 0
        return step

    def _remember(self, now_ns: int) -> None:
        """Hold a rung for longer if leaving it did not last; only the latest one is."""
        left_ns = self._left.get(self.rung)
        if left_ns is not None and now_ns - left_ns < AGAIN_NS:
            self._held = (self.rung, min(HOLD_NS_MAX, 2 * self._hold_ns))
        elif self._held[0] == self.rung:
            self._held = (NORMAL, DOWN_DWELL_NS)
