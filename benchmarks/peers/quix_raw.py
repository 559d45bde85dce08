"""Quix Streams, bytes as they are: as `flowguard bench` runs it, without the JSON."""

from __future__ import annotations

from functools import partial

from flowguard.bench.peers import quix

__all__ = ["setup"]

setup = partial(quix.setup, deserializer="bytes")
