"""Agents that do not come back from a batch: named, with the place where they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from flowguard.agents.agent import FeedAgent
from flowguard.agents.delivered import Delivered
from flowguard.observe.stall import stack_of
from flowguard.units import format_duration

__all__ = ["StuckWatch"]

#: A batch that an agent has had for so long is worth a look, whatever it does.
STUCK_S: Final = 60.0


class StuckWatch:
    """Say once of each batch that an agent does not come back from it.

    Args:
        agents: Whom to watch.
        log: A logger.
    """

    def __init__(self, agents: Iterable[FeedAgent], log: Any) -> None:
        self._agents = tuple(agents)
        self._log = log
        self._said: set[Delivered] = set()

    def look(self, now_s: float) -> None:
        """Look at all that agents have in their hands.

        Args:
            now_s: The event loop's time.
        """
        stuck: set[Delivered] = set()
        for agent in self._agents:
            for stream, task in agent.at_work.items():
                if stream.current is None or now_s - stream.began_s < STUCK_S:
                    continue
                stuck.add(stream.current)
                if stream.current not in self._said:
                    self._log.warning(
                        "%s has had a batch for %s: %s; it is at %s. timeout= of the agent lets "
                        "such a batch fail",
                        agent.name, format_duration(now_s - stream.began_s),
                        stream.current.batch, stack_of(task),
                    )  # fmt: skip
        self._said = stuck
