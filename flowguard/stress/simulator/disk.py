"""The disk of a simulated worker: it takes its time, has an end, and is lost with the worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from flowguard.chunk import Chunk
from flowguard.commands import FinishFrames, ReadFrame, WriteFrame
from flowguard.facts import DiskSeen, Fact, NotSpilled, Restored, Spilled, SpillWatched
from flowguard.lanes.lane_set import LaneSet
from flowguard.spill.manifest import Frame
from flowguard.units import MIB, SECOND

__all__ = ["Disk"]

#: Of an ordinary solid-state disk, written without waiting for it.
BYTES_PER_S: Final = 500 * MIB
CALL_NS: Final = 200_000

FULL: Final = "its quota on disk is used up"


class Disk:
    """Keeps frames, one write and one read at a time.

    Args:
        later: Does something after so many nanoseconds, unless the worker is lost by then.
        observe: Tells the engine.
        now_ns: Tells the time.
    """

    def __init__(
        self,
        lanes: LaneSet,
        *,
        later: Callable[[int, Callable[[], None]], None],
        observe: Callable[..., None],
        now_ns: Callable[[], int],
    ) -> None:
        self._lanes = lanes
        self._later = later
        self._observe = observe
        self._now_ns = now_ns
        self._most = {rank: policy.max_bytes for rank, policy in lanes.spilling.items()}
        self._used = dict.fromkeys(self._most, 0)
        self._frames: dict[Frame, tuple[int, Sequence[Sequence[Chunk]]]] = {}
        self._numbers = 0
        self._free_ns = {"write": 0, "read": 0}

    @property
    def used_bytes(self) -> int:
        """Return the bytes of all frames."""
        return sum(self._used.values())

    def write(self, command: WriteFrame) -> None:
        """Write records, and tell when they are there."""
        num_bytes = sum(chunk.num_bytes for block in command.blocks for chunk in block)
        self._later(self._takes_ns("write", num_bytes), lambda: self._written(command, num_bytes))

    def read(self, command: ReadFrame) -> None:
        """Read records, and bring them."""
        wait_ns = self._takes_ns("read", command.frame.raw_bytes)
        self._later(wait_ns, lambda: self._found(command))

    def finish(self, command: FinishFrames) -> None:
        """Forget frames."""
        for frame in command.frames:
            rank, _ = self._frames.pop(frame)
            self._used[rank] -= frame.stored_bytes
            self._tell(self._seen(rank))

    def _takes_ns(self, hand: str, num_bytes: int) -> int:
        now_ns = self._now_ns()
        start_ns = max(now_ns, self._free_ns[hand])
        self._free_ns[hand] = start_ns + CALL_NS + num_bytes * SECOND // BYTES_PER_S
        return self._free_ns[hand] - now_ns

    def _written(self, command: WriteFrame, num_bytes: int) -> None:
        name, epoch, rank = command.partition, command.epoch, command.lane
        now_ns = self._now_ns()
        if self._used[rank] + num_bytes > self._most[rank]:
            self._tell(
                self._seen(rank, full=True),
                NotSpilled(partition=name, epoch=epoch, lane=rank, why=FULL, at_ns=now_ns),
            )
            return
        frame = self._frame(command, num_bytes)
        self._frames[frame] = rank, command.blocks
        self._used[rank] += num_bytes
        self._tell(
            Spilled(partition=name, epoch=epoch, lane=rank, frame=frame, at_ns=now_ns),
            self._seen(rank),
        )

    def _frame(self, command: WriteFrame, num_bytes: int) -> Frame:
        chunks = [chunk for block in command.blocks for chunk in block]
        self._numbers += 1
        return Frame(
            lane=self._lanes[command.lane].name,
            partition=command.partition,
            segment=0,
            number=self._numbers,
            position=0,
            stored_bytes=num_bytes,
            raw_bytes=num_bytes,
            records=sum(chunk.num_records for chunk in chunks),
            scan_lo=command.scan_lo,
            scan_hi=command.scan_hi,
            min_timestamp_ms=min(chunk.first_timestamp_ms for chunk in chunks),
            max_timestamp_ms=max(chunk.first_timestamp_ms for chunk in chunks),
            deadline_ms=command.deadline_ms,
        )

    def _found(self, command: ReadFrame) -> None:
        kept = self._frames.get(command.frame)
        if kept is None:  # its partition went away meanwhile
            return
        now_ns = self._now_ns()
        blocks = [[replace(chunk, fetched_ns=now_ns) for chunk in block] for block in kept[1]]
        self._tell(
            Restored(
                frame=command.frame, epoch=command.epoch, lane=command.lane, blocks=blocks,
                at_ns=now_ns,
            )
        )  # fmt: skip

    def _seen(self, rank: int, *, full: bool = False) -> SpillWatched:
        used, most = self._used[rank], self._most[rank]
        full = full or used >= most
        seen = DiskSeen(accepts=not full, why=FULL if full else "", stored_bytes=used)
        return SpillWatched(lanes={rank: seen}, at_ns=self._now_ns())

    def _tell(self, *facts: Fact) -> None:
        self._later(0, lambda: self._observe(*facts))  # never while the engine answers
