"""Faust's tables in an app with feeds."""

from __future__ import annotations

from faust.tables.manager import TableManager

__all__ = ["FeedTables"]


class FeedTables(TableManager):
    """Faust's tables, which keep nobody waiting where there are none.

    Faust waits a second after its agents have started, whoever may still declare a table, and
    only then joins the group. Feeds of an app that has none by then are read a second earlier.
    """

    async def on_start(self) -> None:
        """Let the worker subscribe."""
        if self or not getattr(self.app, "has_feeds", False):
            await super().on_start()
            return
        await self._update_channels()
        await self.recovery.start()
