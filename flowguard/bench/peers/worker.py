"""Run a Faust app in this process through a real worker, until its agent has had enough."""

from __future__ import annotations

import logging
import signal
from typing import Any

import faust

__all__ = ["run_worker", "stop_worker"]


def run_worker(app: Any, *, loglevel: str = "warn") -> None:
    """Run a worker until it is told to stop; it commits and leaves its group then."""
    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # it warns of every rebalance
    worker = faust.Worker(app, loglevel=loglevel, redirect_stdouts=False)
    worker.spinner = None
    try:
        worker.execute_from_commandline()
    except SystemExit as stopped:
        if stopped.code:
            raise


def stop_worker() -> None:
    """Stop the worker of this process, as its supervisor would."""
    signal.raise_signal(signal.SIGTERM)
