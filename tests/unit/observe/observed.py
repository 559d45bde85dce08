"""A real engine in the middle of its work, for what is shown of it."""

from __future__ import annotations

import pyarrow as pa

from flowguard.chunk import Chunk, TopicPartition
from flowguard.commands import StartBatch
from flowguard.control.memory import MemoryBudget
from flowguard.engine import Engine
from flowguard.facts import Assigned, Fetched, Finished, Returned
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.overflow import Spill
from flowguard.observe.metrics import Observed
from flowguard.observe.prometheus import latency_buckets
from flowguard.situation import snapshot_of
from flowguard.units import MIB, MILLISECOND
from flowguard.view import AgentPlan
from tests.builders import A, EngineDriver, chunk_of

ORDERS = TopicPartition("orders", 0)
EPOCH_MS = 1_700_000_000_000


def chunk(lane: int, first_offset: int, count: int) -> Chunk:
    """Return records that were made 20 ms before the epoch."""
    offsets = list(range(first_offset, first_offset + count))
    columns = pa.record_batch(
        {
            "offset": pa.array(offsets, pa.int64()),
            "timestamp": pa.array([EPOCH_MS - 20] * count, pa.int64()),
            "key": pa.array([None] * count, pa.binary()),
            "value": pa.array([b"{}"] * count, pa.binary()),
            "headers": pa.array([b""] * count, pa.binary()),
        }
    )
    return Chunk(
        partition=ORDERS,
        lane=lane,
        columns=columns,
        num_bytes=columns.nbytes,
        first_offset=first_offset,
        first_timestamp_ms=EPOCH_MS - 20,
        fetched_ns=0,
    )


def busy_engine() -> Engine:
    """Return an engine with 60 records finished, 3 of them dead letters, and others at work."""
    lanes = LaneSet.of([Lane("realtime", target="40ms"), Lane("backfill")])
    plan = AgentPlan(name="score", topics=frozenset({"orders"}))
    engine = Engine(lanes, [plan], MemoryBudget(16 * MIB))
    engine.observe(Assigned(offsets={ORDERS: 0}, at_ns=0))
    epoch = engine.partitions[ORDERS].epoch
    chunks = [chunk(0, 0, 60), chunk(1, 60, 5000)]
    commands = engine.observe(
        Fetched(partition=ORDERS, epoch=epoch, chunks=chunks, next_offset=5060, at_ns=0)
    )
    (start,) = (each for each in commands if isinstance(each, StartBatch))
    engine.observe(Returned(batch_id=start.cut.batch_id, at_ns=MILLISECOND))
    engine.observe(
        Finished(
            batch_id=start.cut.batch_id, dead_letters=range(3), at_ns=MILLISECOND, epoch_ms=EPOCH_MS
        )
    )
    return engine


def spilling_engine() -> Engine:
    """Return an engine whose lower lane has records on disk."""
    it = EngineDriver(
        lanes=(Lane("realtime", target="40ms"), Lane("backfill", overflow=Spill("1GiB"))),
        memory_bytes=16 * MIB,
    )
    it.assign(A=0)
    for first in range(0, 120, 10):
        it.fetch(A, chunk_of(range(first, first + 10), lane=1, num_bytes=MIB))
    while it.writes:
        it.write()
    return it.engine


def observed(engine: Engine | None = None) -> Observed:
    """Return what metrics are read from."""
    engine = engine or busy_engine()
    return Observed(
        snapshot=snapshot_of(engine, now_ns=2 * MILLISECOND, epoch_ms=EPOCH_MS),
        epoch_s=EPOCH_MS / 1e3,
        latency={b.lane.name: latency_buckets(b.lane, b.latency) for b in engine.books},
        app="shop",
        worker="host:1",
        version="0",
        ready=True,
    )
