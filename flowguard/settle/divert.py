"""Diverted records: written to another topic as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from flowguard._native.murmur2 import partitions_of
from flowguard.chunk import Slice
from flowguard.settle.egress import Outgoing

__all__ = ["DivertPort", "Diverter", "outgoing_of"]


class DivertPort(Protocol):
    """Where diverted records are written; acknowledged by all replicas when it returns."""

    async def declare(self, topic: str) -> None:
        """Create the topic, if Faust may create topics and it does not exist."""

    async def find_topic(self, topic: str) -> int:
        """Return how many partitions the topic has, without waiting until there is one."""
        ...

    async def send_columns(self, topic: str, outgoing: Outgoing) -> None:
        """Send records and wait until they are acknowledged."""


class Diverter:
    """Write records of lanes that overflow to other topics.

    Args:
        port: How.
    """

    def __init__(self, port: DivertPort) -> None:
        self._port = port
        self._partition_counts: dict[str, int] = {}

    async def write(self, topic: str, slices: Sequence[Slice]) -> None:
        """Write records in their order, and wait until they are acknowledged.

        Raises:
            SettleError: The topic did not take all of them; some may have been written.
        """
        try:
            if topic not in self._partition_counts:
                await self._port.declare(topic)
                self._partition_counts[topic] = await self._port.find_topic(topic)
            outgoing = outgoing_of(slices, self._partition_counts[topic])
            await self._port.send_columns(topic, outgoing)
        except Exception:
            self._partition_counts.pop(topic, None)  # it may be another topic when it is back
            raise


def outgoing_of(slices: Sequence[Slice], partition_count: int) -> Outgoing:
    """Return records as they were read: key, value, headers and timestamp.

    The key decides the partition, as it does for any producer; records without one stay with
    those of their own partition, so that both keep their order.
    """
    columns = pa.Table.from_batches([piece.columns for piece in slices]).combine_chunks()
    _, timestamps, keys, values, headers = (column.chunk(0) for column in columns.columns)
    partitions = pa.concat_arrays(
        [
            partitions_of(
                piece.keys, partition_count, piece.chunk.partition.partition % partition_count
            )
            for piece in slices
        ]
    )
    return Outgoing(
        keys=keys,
        values=values,
        partitions=partitions,
        timestamps=timestamps,
        partition_count=partition_count,
        encoded_headers=headers,
    )
