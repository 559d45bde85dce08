"""The memory budget: how much each partition may fetch now.

Half of the budget for columns is split evenly between the partitions, so each of them can
always make progress; the other half is a pool that whoever is fast may use. A partition
that has used up both is left out of fetch requests until it has room for a whole request
again (hysteresis, so that it does not flap at the limit).

    memory ─┬─ receive buffers (fetched bytes before they are parsed)
            ├─ frames (what codecs make of batches in flight)
            ├─ output (what was sent and is not acknowledged)
            └─ columns ─┬─ own share of each partition
                        └─ pool of all

Thread-safety: every method may be called from any thread; the fetcher charges from its
own, the engine releases from the event loop's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final

from flowguard.units import KIB, MIB

__all__ = ["MemoryBudget", "Reservation"]


#: A request of 16 MiB is enough to reach the broker's limit on a fast loopback.
FETCH_BYTES_MAX: Final = 16 * MIB
FETCH_BYTES_MIN: Final = 64 * KIB

#: One partition does not fill a whole response.
PARTITION_BYTES_MAX: Final = 4 * MIB

#: Two connections a broker, each with a receive buffer of its own.
RECEIVE_BUFFERS: Final = 2

#: Small records grow when they become columns (28 bytes of offsets, timestamp and lengths
#: for a record of a few bytes), so a request is charged at twice its size until parsed.
COLUMNS_PER_WIRE_BYTE: Final = 2


@dataclass(slots=True)
class Reservation:
    """What one fetch request may bring.

    Args:
        total_bytes: Most bytes of the whole response.
        shares: Most bytes of each partition in it; those without room are left out.
        left_bytes: What it still counts as held, instead of columns to come.
    """

    total_bytes: int
    shares: dict[Hashable, int]
    left_bytes: int


class MemoryBudget:
    """Bytes held for feeds, by partition, against a limit.

    What is counted is a partition in one assignment: whoever asks adds its epoch, so that
    what was fetched for an older one is not counted for the next.

    Args:
        memory_bytes: All that feeds may hold, >= 1 MiB.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self.fetch_bytes_max = max(FETCH_BYTES_MIN, min(FETCH_BYTES_MAX, memory_bytes // 16))
        self.wire_batch_bytes_max = memory_bytes // 4
        frames_bytes = memory_bytes // 8
        self.output_bytes_max = memory_bytes // 8
        self.columns_bytes_max = (
            memory_bytes
            - frames_bytes
            - self.output_bytes_max
            - RECEIVE_BUFFERS * self.fetch_bytes_max
        )
        self.held_bytes = 0
        self.requested_bytes = 0
        self.frame_bytes = 0
        self.output_bytes = 0
        self._held: dict[Hashable, int] = {}
        self._paused: set[Hashable] = set()
        self._pool_used = 0
        self._lock = Lock()

    @property
    def used_bytes(self) -> int:
        """Return all that is held: columns, decoded frames, output, requests under way."""
        return self.held_bytes + self.requested_bytes + self.frame_bytes + self.output_bytes

    @property
    def paused(self) -> frozenset[Hashable]:
        """Return the partitions that may not fetch now."""
        with self._lock:
            return frozenset(self._paused)

    def assign(self, partitions: Iterable[Hashable]) -> None:
        """Start to count these partitions, which hold nothing yet."""
        with self._lock:
            for partition in partitions:
                self._held.setdefault(partition, 0)
            self._recount()

    def revoke(self, partitions: Iterable[Hashable]) -> None:
        """Stop to count these partitions; what they held is let go with them."""
        with self._lock:
            for partition in partitions:
                self.held_bytes -= self._held.pop(partition, 0)
                self._paused.discard(partition)
            self._recount()

    def reserve(self, partitions: Sequence[Hashable]) -> Reservation:
        """Return what a request for these partitions may bring, and count it as held.

        Partitions without room are paused: they get no share until they have room for
        several requests again.
        """
        with self._lock:
            shares = {each: share for each in partitions if (share := self._share(each))}
            total_bytes = min(self.fetch_bytes_max, sum(shares.values()))
            left_bytes = total_bytes * COLUMNS_PER_WIRE_BYTE
            self.requested_bytes += left_bytes
            return Reservation(total_bytes, shares, left_bytes)

    def allowance(self, partition: Hashable, reservation: Reservation) -> int:
        """Return how many bytes of columns a response may become for one partition.

        Little that is fetched can be much when it is unpacked, so this is asked again for
        each partition of the response, after the one before was charged.
        """
        with self._lock:
            return self._room(partition, reserved_bytes=reservation.left_bytes)

    def charge(self, partition: Hashable, num_bytes: int, reservation: Reservation) -> None:
        """Count columns in place of what the request had reserved for them."""
        with self._lock:
            counted_bytes = min(num_bytes, reservation.left_bytes)
            reservation.left_bytes -= counted_bytes
            self.requested_bytes -= counted_bytes
            self._add(partition, num_bytes)

    def settle(self, reservation: Reservation) -> None:
        """Let go of what a request had reserved and did not bring."""
        with self._lock:
            self.requested_bytes -= reservation.left_bytes
            reservation.left_bytes = 0

    def release(self, partition: Hashable, num_bytes: int) -> bool:
        """Note that columns were let go; True if a paused partition may fetch again."""
        with self._lock:
            self._add(partition, -num_bytes)
            return any(self._room(each) >= self._enough for each in self._paused)

    def room(self, partition: Hashable) -> int:
        """Return how many bytes of columns the partition may still get."""
        with self._lock:
            return self._room(partition)

    def held_by(self, partition: Hashable) -> int:
        """Return the bytes of columns that one partition holds."""
        return self._held.get(partition, 0)

    def _share(self, partition: Hashable) -> int:
        room = self._room(partition)
        needed = self._enough if partition in self._paused else min(self._enough, FETCH_BYTES_MIN)
        if room < needed:
            self._paused.add(partition)
            return 0
        self._paused.discard(partition)
        return min(PARTITION_BYTES_MAX, self.fetch_bytes_max, room // COLUMNS_PER_WIRE_BYTE)

    @property
    def _own_share(self) -> int:
        return self.columns_bytes_max // 2 // max(1, len(self._held))

    @property
    def _enough(self) -> int:
        """Room at which a paused partition goes on: a whole request, or its share if smaller."""
        return min(self.fetch_bytes_max * COLUMNS_PER_WIRE_BYTE, self._own_share // 2)

    def _room(self, partition: Hashable, *, reserved_bytes: int = 0) -> int:
        """Return the room of a partition; what is reserved for it is no one else's."""
        others_bytes = self.requested_bytes - reserved_bytes
        pool_free = max(0, self.columns_bytes_max // 2 - self._pool_used - others_bytes)
        return max(0, self._own_share - self._held.get(partition, 0)) + pool_free

    def _add(self, partition: Hashable, num_bytes: int) -> None:
        if partition not in self._held:  # revoked meanwhile: no longer counted
            return
        own = self._own_share
        before = self._held[partition]
        self._held[partition] = before + num_bytes
        self.held_bytes += num_bytes
        self._pool_used += max(0, before + num_bytes - own) - max(0, before - own)

    def _recount(self) -> None:
        own = self._own_share
        self._pool_used = sum(max(0, held - own) for held in self._held.values())
