"""Confluent Parallel Consumer: batches of raw bytes, without order, asynchronous commits.

Without order it is fastest, and asynchronous commits are its fastest, as its documentation says;
batches of 1,000 instead of single records, a thread for each core, and the Java consumer below
it fetches 4 MiB; batches of 200 and 5,000, and 4 and 16 threads, were tried and cost more CPU.
The program is java/ParallelPeer.java.
"""

from __future__ import annotations

from functools import partial

from peers.java_program import setup_java

__all__ = ["setup"]

setup = partial(setup_java, "parallel-consumer", "ParallelPeer")
