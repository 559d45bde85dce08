"""Kafka Streams: `stream(topic).process(count)` on raw bytes, at least once, a commit a second.

A thread for each core, fetches of 4 MiB, polls of 10,000 and as many records buffered of a
partition, as its documentation advises for throughput; the program is java/StreamsPeer.java.
"""

from __future__ import annotations

from functools import partial

from peers.java_program import setup_java

__all__ = ["setup"]

setup = partial(setup_java, "kafka-streams", "StreamsPeer")
