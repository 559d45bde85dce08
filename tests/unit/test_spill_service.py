"""What a worker does for its lanes that spill, beside the engine and the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowguard.chunk import Chunk, TopicPartition
from flowguard.clock import SystemClock
from flowguard.commands import ReadFrame
from flowguard.errors import FrameLost
from flowguard.facts import Fact, Restored
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.overflow import Spill
from flowguard.spill.manifest import Frame
from flowguard.spill_service import SpillService
from tests.builders import EPOCH_MS, REALTIME, A

FRAME = Frame("bulk", A, 0, 0, 4096, 1000, 1000, 10, 100, 110, EPOCH_MS, EPOCH_MS, 0)


class Log:
    """A log that answers when it is told to, in the order in which it was asked."""

    def __init__(self) -> None:
        self.answers: list[asyncio.Future[list[list[Chunk]]]] = []

    async def read_range(
        self, name: TopicPartition, first: int, end: int, lane: int
    ) -> list[list[Chunk]]:
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    async def record_at(self, name: TopicPartition, offset: int) -> Mapping[str, Any] | None:
        raise AssertionError("nobody asks for it")


def lost(command: ReadFrame) -> FrameLost:
    frame = command.frame
    return FrameLost(
        "missing", topic=frame.partition.topic, partition=frame.partition.partition,
        lane=frame.lane, scan_lo=frame.scan_lo, scan_hi=frame.scan_hi, detail="it is gone",
    )  # fmt: skip


async def test_what_is_lost_again_after_its_partition_came_back_is_brought_to_who_has_it_now(
    tmp_path: Path,
) -> None:
    log, told = Log(), list[Fact]()
    service = SpillService(
        str(tmp_path),
        app="app",
        lanes=LaneSet((REALTIME, Lane("bulk", overflow=Spill("1GiB")))),
        fingerprints=dict,
        plans=dict,
        clock=SystemClock(),
        log=log,
        observe=lambda *facts: told.extend(facts),
        loop=asyncio.get_running_loop(),
    )
    for epoch in (1, 2):  # it went away while it was being read, and was adopted again
        command = ReadFrame(FRAME, epoch, 1)
        service._lost(command, lost(command))
    await asyncio.sleep(0)
    for answer in log.answers:
        answer.set_result([])
        await asyncio.sleep(0)
    await asyncio.sleep(0)

    restored = [fact.epoch for fact in told if isinstance(fact, Restored)]
    assert restored == [2]
