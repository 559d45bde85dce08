"""A limit that stays where it is, for agents whose concurrency is a number."""

from __future__ import annotations

from flowguard.control.limit import Step, Window

__all__ = ["Fixed"]


class Fixed:
    """Hold the limit; windows still show what batches cost."""

    def update(self, window: Window) -> Step:
        """Return the limit as it is."""
        return Step(window.limit, "hold", "the concurrency is fixed")
