"""Read some records again, beside the fetcher: what the disk has lost, and single records.

It has connections of its own and belongs to no group, so the positions of the fetcher stay
where they are. Runs on the consumer's thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient

from flowguard._native import wire
from flowguard.chunk import Chunk, TopicPartition
from flowguard.clock import Clock
from flowguard.control.memory import MemoryBudget
from flowguard.errors import WireError
from flowguard.intake.chunks import Arrival, chunks_of
from flowguard.intake.compression import decompress
from flowguard.intake.connection import Connect, FetchConnection, open_connection
from flowguard.intake.cursors import PartitionPlan
from flowguard.intake.fetch_request import FetchRequest
from flowguard.intake.fetcher import (
    ANSWER_TIMEOUT_S,
    OFFSET_OUT_OF_RANGE,
    STALE_METADATA,
)
from flowguard.units import KIB, MIB

__all__ = ["RangeReader"]

FETCH_BYTES_MAX: Final = MIB
FETCH_BYTES_MIN: Final = 64 * KIB
WAIT_MS: Final = 100

#: A log that has nothing at an offset so often has lost it.
EMPTY_MAX: Final = 5


class RangeReader:
    """Reads ranges of offsets.

    Args:
        client: aiokafka's, for metadata, brokers and credentials.
        plans: How each feed topic is read.
        lane_count: Number of lanes of the app.
        memory: The budget, for how much is asked for at once.
        find_offset: Coroutine: partition, "earliest" or "latest" → offset.
        connect: Coroutine that opens a connection to a broker.
    """

    def __init__(
        self,
        *,
        client: AIOKafkaClient,
        plans: Mapping[str, PartitionPlan],
        lane_count: int,
        memory: MemoryBudget,
        clock: Clock,
        find_offset: Callable[[TopicPartition, str], Awaitable[int]],
        connect: Connect = open_connection,
    ) -> None:
        self._client = client
        self._connect = connect
        self._plans = plans
        self._lane_count = lane_count
        self._memory = memory
        self._clock = clock
        self._find_offset = find_offset
        self._bytes = max(FETCH_BYTES_MIN, min(FETCH_BYTES_MAX, memory.memory_bytes // 64))

    async def read(
        self, name: TopicPartition, first: int, end: int, lane: int
    ) -> list[list[Chunk]]:
        """Return the records of a lane in a range, as blocks; fewer if the log has lost some.

        Raises:
            OSError, TimeoutError, KafkaError: The broker cannot be reached; to be tried again.
            WireError: What it says makes no sense.
        """
        found: list[list[Chunk]] = []
        async with self._connected(name) as connection:
            offset, empty = first, 0
            while offset < end and empty < EMPTY_MAX:
                blocks, next_offset = await self._read_some(connection, name, offset)
                empty = 0 if next_offset > offset else empty + 1
                offset = next_offset
                for block in blocks:
                    kept = [
                        part
                        for chunk in block
                        if chunk.lane == lane
                        and (part := chunk.rows(chunk.row_of(first), chunk.row_of(end)))
                    ]
                    if kept:
                        found.append(kept)
        return found

    async def record_at(self, name: TopicPartition, offset: int) -> Mapping[str, Any] | None:
        """Return one record as column → value, None if the log has none at this offset."""
        async with self._connected(name) as connection:
            blocks, _ = await self._read_some(connection, name, offset)
        for chunk in (chunk for block in blocks for chunk in block):
            row = chunk.row_of(offset)
            if row < chunk.num_records and chunk.offset_at(row) == offset:
                record: Mapping[str, Any] = chunk.columns.slice(row, 1).to_pylist()[0]
                return record
        return None

    @asynccontextmanager
    async def _connected(self, name: TopicPartition) -> AsyncIterator[FetchConnection]:
        cluster = self._client.cluster
        leader = cluster.leader_for_partition(name)
        if leader is None or cluster.broker_metadata(leader) is None:
            self._client.force_metadata_update()
            raise kafka_errors.StaleMetadata(f"nobody leads {name.topic}[{name.partition}]")
        connection = await self._connect(
            self._client,
            leader,
            buffer_bytes=lambda: self._bytes,
            memory_bytes=self._memory.memory_bytes,
        )
        try:
            yield connection
        finally:
            connection.close()

    async def _read_some(
        self, connection: FetchConnection, name: TopicPartition, offset: int
    ) -> tuple[list[list[Chunk]], int]:
        """Return the blocks of one response, and where the next one begins."""
        request = FetchRequest(
            wait_ms=WAIT_MS, bytes_min=1, bytes_max=self._bytes,
            places={name: (offset, self._bytes)},
        )  # fmt: skip
        frame = await connection.receive(connection.send_fetch(request), timeout_s=ANSWER_TIMEOUT_S)
        _, error_code, sections = wire.read_fetch_response(frame)
        if error_code:
            raise kafka_errors.for_code(error_code)()
        for section in sections:
            if section.error_code == OFFSET_OUT_OF_RANGE:
                return [], max(await self._find_offset(name, "earliest"), offset)
            if section.error_code:
                if section.error_code in STALE_METADATA:
                    self._client.force_metadata_update()
                raise kafka_errors.for_code(section.error_code)()
            if section.size:
                return self._parse(frame, section, name, offset)
        return [], offset

    def _parse(
        self, frame: memoryview, section: wire.PartitionSection, name: TopicPartition, offset: int
    ) -> tuple[list[list[Chunk]], int]:
        plan = self._plans[name.topic]
        parsed = wire.parse_records(
            frame,
            section,
            asked_offset=offset,
            rule=plan.rule,
            lane_count=self._lane_count,
            max_bytes=self._memory.columns_bytes_max,
            batch_bytes_max=self._memory.wire_batch_bytes_max,
            decompress=decompress,
        )
        if parsed.next_offset == offset:
            raise WireError(
                f"{name.topic}[{name.partition}]: nothing at offset {offset} can be read: "
                f"{parsed.error or 'it does not fit into memory'}"
            )
        arrival = Arrival(self._clock.now_ns(), self._clock.epoch_ms())
        blocks: dict[tuple[int, int], list[Chunk]] = {}
        for chunk in chunks_of(
            name, parsed.lanes, arrival, splitter=plan.splitter, in_blocks=plan.in_blocks
        ):
            blocks.setdefault((chunk.lane, chunk.block), []).append(chunk)
        return list(blocks.values()), parsed.next_offset
