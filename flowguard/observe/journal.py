"""What the log is told of the control loops: each rung, and what is unavailable."""

from __future__ import annotations

import logging
from typing import Any

from flowguard.control.decision import Decision
from flowguard.engine import Engine

__all__ = ["Journal"]


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

    def look(self) -> None:
        """Tell the log; call it after a tick."""
        for number, decision in self._engine.decisions.after(self._told):
            self._told = number
            if decision.loop == "ladder":
                self._tell_rung(decision)
        for name in self._engine.views:
            self._tell_outage(name)

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
