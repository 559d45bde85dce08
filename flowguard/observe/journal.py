"""What the log is told of the control loops: each rung, and what is unavailable."""

from __future__ import annotations

import logging
from typing import Any, Final

from flowguard.chunk import TopicPartition
from flowguard.control.decision import Decision
from flowguard.engine import Engine
from flowguard.holdings import Flight
from flowguard.units import SECOND
from flowguard.view import View

__all__ = ["Journal"]

#: A record that fails and keeps others waiting is named after so long.
BLOCKED_NS: Final = 5 * SECOND


class Journal:
    """Say what has changed since the last look.

    Args:
        engine: Where to look.
        log: A logger.
    """

    def __init__(self, engine: Engine, log: Any) -> None:
        self._engine = engine
        self._log = log
        self._told = engine.decisions.total
        self._outages = dict.fromkeys(engine.views, 0)
        self._out: set[str] = set()
        self._stopped: set[tuple[TopicPartition, int, int]] = set()
        self._blocked: set[Flight] = set()

    def look(self, now_ns: int) -> None:
        """Tell the log; call it after a tick."""
        for number, decision in self._engine.decisions.after(self._told):
            self._told = number
            if decision.loop == "ladder":
                self._tell_rung(decision)
        for name in self._engine.views:
            self._tell_outage(name)
        self._tell_stopped()
        for view in self._engine.views.values():
            self._tell_blocked(view, now_ns)

    def _tell_stopped(self) -> None:
        """Say which lanes of which partitions go no further."""
        for name, partition in self._engine.partitions.items():
            for rank, why in partition.stopped.items():
                if (key := (name, partition.epoch, rank)) not in self._stopped:
                    self._stopped.add(key)
                    self._log.error(
                        "%s[%s] goes no further in lane %s: %s; nothing of it is lost or "
                        "committed, all else goes on; mend what is wrong and restart the worker",
                        *name, self._engine.lanes[rank].name, why,
                    )  # fmt: skip

    def _tell_blocked(self, view: View, now_ns: int) -> None:
        """Say which records have failed for a while, so that others wait behind them."""
        self._blocked &= set(view.flights.values())
        for flight in view.flights.values():
            if flight.failures < 2 or flight in self._blocked or not flight.parts:
                continue
            if now_ns - flight.first_failed_ns >= BLOCKED_NS:
                self._blocked.add(flight)
                part = flight.parts[0]
                self._log.warning(
                    "%s: %s[%s] at offset %s has failed %d times (%s); %s",
                    view.plan.name, *part.partition.name,
                    part.piece.chunk.offset_at(part.piece.start), flight.failures, flight.why,
                    "what comes behind it waits, until something shows whether it is to blame"
                    if flight.exhausted else "what comes behind it waits",
                )  # fmt: skip

    def _tell_rung(self, decision: Decision) -> None:
        level = logging.WARNING if decision.action == "up" else logging.INFO
        self._log.log(
            level, "rung %d → %d%s: %s", decision.before, decision.after,
            " (shadow: nothing is done)" if decision.shadow else "", decision.why,
        )  # fmt: skip

    def _tell_outage(self, name: str) -> None:
        serving = self._engine.views[name].serving
        begun, self._outages[name] = self._outages[name], serving.primary.total
        if serving.primary.total > begun and name not in self._out:
            self._out.add(name)
            self._log.warning(
                "%s: %s; its batches are held, and one tries now and then whether it is back%s",
                name, serving.primary.last_why,
                "; its fallback serves meanwhile" if serving.stands_in else "",
            )  # fmt: skip
        if serving.primary.over and name in self._out:
            self._out.discard(name)
            self._log.info("%s: what was unavailable is back", name)
