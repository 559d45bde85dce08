"""flowguard, bytes as they are: two lanes, commits, `len` of each batch."""

from __future__ import annotations

from flowguard.bench.meter import Context, Run
from flowguard.bench.peers.flowguard_app import setup_app

__all__ = ["setup"]


def setup(context: Context) -> Run:
    """Declare the app."""
    return setup_app(context, len, codec="raw")
