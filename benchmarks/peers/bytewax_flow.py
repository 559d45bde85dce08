"""Bytewax: a dataflow from its Kafka source into a sink that counts, raw bytes, with recovery.

Bytewax does not commit to Kafka: it writes offsets to its recovery store, here once a second.
One worker, as more only share the interpreter's lock; batches of 10,000 instead of 1,000, as
its documentation advises for throughput; nothing between source and sink. librdkafka is tuned
as for confluent-kafka; there is a client for each partition, so each queues its part.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from bytewax import operators
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.errors import BytewaxRuntimeError
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import cluster_main

from flowguard.bench.meter import Context, Meter, Reading, Run
from flowguard.bench.peers.confluent import BATCH, TUNING

__all__ = ["setup"]

EPOCH = timedelta(seconds=1)


def setup(context: Context) -> Run:
    """Declare the source."""
    queued = TUNING["queued.min.messages"] // context.partitions
    tuning = {**TUNING, "queued.min.messages": queued}
    source = KafkaSource([context.broker], [context.topic], batch_size=BATCH, add_config=tuning)
    store = Path(context.directory) / "recovery"
    store.mkdir()
    init_db_dir(store, 1)

    def run(n: int) -> Reading:
        meter = Meter(n)
        flow = Dataflow("bench")
        operators.output("count", operators.input("read", flow, source), Counting(meter))
        recovery = RecoveryConfig(store)
        try:
            cluster_main(flow, [], 0, epoch_interval=EPOCH, recovery_config=recovery)
        except BytewaxRuntimeError as error:
            if not is_enough(error):
                raise
        return meter.reading

    return run


class Enough(Exception):
    """A flow that reads for ever ends by a failure only."""


def is_enough(error: BaseException | None) -> bool:
    """Tell whether Enough is what caused an error."""
    return error is not None and (isinstance(error, Enough) or is_enough(error.__cause__))


class Counting(DynamicSink[Any]):
    """Counts whole batches."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Count:
        """Return the sink of the one worker."""
        return Count(self._meter)


class Count(StatelessSinkPartition[Any]):
    """The sink of a worker."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def write_batch(self, items: list[Any]) -> None:
        """Take a batch."""
        if self._meter.add(len(items)):
            raise Enough
