"""Futures for which nobody may wait any more."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["look_at"]


def look_at(done: asyncio.Future[Any]) -> None:
    """Look at how a future ended, so that nobody is warned if whoever wanted it went away."""
    if not done.cancelled():
        done.exception()
