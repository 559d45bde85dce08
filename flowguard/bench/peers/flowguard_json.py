"""flowguard, JSON: two lanes, commits, every column of each batch as a Polars frame."""

from __future__ import annotations

from flowguard.bench.meter import Context, Run
from flowguard.bench.peers.flowguard_app import setup_app
from flowguard.bench.records import COLUMNS

__all__ = ["setup"]


def setup(context: Context) -> Run:
    """Declare the app."""
    return setup_app(context, lambda batch: batch.to_polars().height, codec="json", columns=COLUMNS)
