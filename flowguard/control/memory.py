"""The memory budget: how much each partition may fetch now.

Half of the budget for columns is split evenly between the partitions, so each of them can
always make progress; the other half is a pool that whoever is fast may use. A partition
that has used up both is left out of fetch requests until it has room for a whole request
again (hysteresis, so that it does not flap at the limit). When nothing is held at all, one
partition may have what its next wire batch needs, however little memory there is.

    memory ─┬─ receive buffers (fetched bytes before they are parsed): an eighth
            ├─ frames (what codecs make of batches in flight): an eighth
            ├─ output (what was sent and is not acknowledged): an eighth
            └─ columns ─┬─ own share of each partition
                        └─ pool of all

Thread-safety: every method may be called from any thread; the fetcher charges from its
own, the engine releases from the event loop's.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
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

#: A connection receives into one buffer while the other is parsed.
BUFFERS_PER_CONNECTION: Final = 2

#: Of all memory: what receive buffers, frames and output may take.
RECEIVE_PART: Final = 8
FRAMES_PART: Final = 8
OUTPUT_PART: Final = 8

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
        alone: Nothing else is held, so all of that may be used.
    """

    total_bytes: int
    shares: dict[Hashable, int]
    left_bytes: int
    alone: bool = False


class MemoryBudget:
    """Bytes held for feeds, by partition, against a limit.

    What is counted is a partition in one assignment: whoever asks adds its epoch, so that
    what was fetched for an older one is not counted for the next.

    Args:
        memory_bytes: All that feeds may hold, >= 1 MiB.

    Attributes:
        fetch_bytes_max: Most bytes of one response.
        receive_bytes: What the receive buffers of all connections take.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self.wire_batch_bytes_max = memory_bytes // 4
        self.receive_bytes_max = memory_bytes // RECEIVE_PART
        self.output_bytes_max = memory_bytes // OUTPUT_PART
        self.columns_bytes_max = (
            memory_bytes
            - self.receive_bytes_max
            - memory_bytes // FRAMES_PART
            - self.output_bytes_max
        )
        self.held_bytes = 0
        self.requested_bytes = 0
        self.frame_bytes = 0
        self.output_bytes = 0
        self.receive_bytes = 0
        self._held: dict[Hashable, int] = {}
        self._paused: dict[Hashable, int] = {}  # at which room it goes on, at least
        self._received: dict[Hashable, int] = {}
        self._pool_used = 0
        self._lock = Lock()
        self._recount()

    @property
    def used_bytes(self) -> int:
        """Return all that is held: columns, frames, output, buffers, and requests under way."""
        return (
            self.held_bytes
            + self.requested_bytes
            + self.frame_bytes
            + self.output_bytes
            + self.receive_bytes
        )

    def receive_into(self, connection: Hashable, num_bytes: int) -> None:
        """Take note of what the receive buffers of a connection take; 0 when it is closed.

        A single wire batch larger than what was asked for makes a buffer grow; what goes
        beyond the part of receive buffers is taken from the pool.
        """
        if self._received.get(connection, 0) == num_bytes:
            return
        with self._lock:
            if num_bytes:
                self._received[connection] = num_bytes
            else:
                self._received.pop(connection, None)
            self.receive_bytes = sum(self._received.values())
            self._recount()

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
                self._paused.pop(partition, None)
            self._recount()

    def reserve(self, partitions: Mapping[Hashable, int] | Iterable[Hashable]) -> Reservation:
        """Return what a request for these partitions may bring, and count it as held.

        Partitions without room are paused: they get no share until they have room for
        several requests again.

        Args:
            partitions: With the room that the next wire batch of each needs, if that is known.
        """
        needs = partitions if isinstance(partitions, Mapping) else dict.fromkeys(partitions, 0)
        with self._lock:
            shares = {
                each: share for each, need in needs.items() if (share := self._share(each, need))
            }
            if needs and not shares and self.held_bytes == self.requested_bytes == 0:
                most = max(needs, key=needs.__getitem__)
                return self._reserve_alone(most, needs[most])
            total_bytes = min(self.fetch_bytes_max, sum(shares.values()))
            left_bytes = total_bytes * COLUMNS_PER_WIRE_BYTE
            self.requested_bytes += left_bytes
            return Reservation(total_bytes, shares, left_bytes)

    def _reserve_alone(self, partition: Hashable, need: int) -> Reservation:
        """Let a partition have what its next wire batch needs, although there is no room for it."""
        share_bytes = self.fetch_bytes_max
        self._paused.pop(partition, None)
        self.requested_bytes = max(need, share_bytes * COLUMNS_PER_WIRE_BYTE)
        return Reservation(share_bytes, {partition: share_bytes}, self.requested_bytes, alone=True)

    def allowance(self, partition: Hashable, reservation: Reservation) -> int:
        """Return how many bytes of columns a response may become for one partition.

        Little that is fetched can be much when it is unpacked, so this is asked again for
        each partition of the response, after the one before was charged.
        """
        with self._lock:
            room = self._room(partition, reserved_bytes=reservation.left_bytes)
            return max(room, reservation.left_bytes) if reservation.alone else room

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
            enough = self._enough
            return any(self._room(each) >= max(need, enough) for each, need in self._paused.items())

    def hold(self, partition: Hashable, num_bytes: int) -> None:
        """Count columns that were made of others, which are let go one by one."""
        with self._lock:
            self._add(partition, num_bytes)

    def missing(self, partition: Hashable) -> int:
        """Return how many bytes a paused partition must let go until it goes on; 0 if none.

        What it has taken from the pool goes back there first, and the pool may have lent more
        than it has.
        """
        with self._lock:
            if (need := self._paused.get(partition)) is None:
                return 0
            need = max(need, self._enough)
            lent_bytes = max(0, self._held.get(partition, 0) - self._own_share)
            free_bytes = self._pool_free()
            if lent_bytes == 0:
                return max(0, need - self._room(partition))
            if need - free_bytes <= lent_bytes:
                return max(0, need - free_bytes)
            return lent_bytes + need - max(0, free_bytes + lent_bytes)

    def room(self, partition: Hashable) -> int:
        """Return how many bytes of columns the partition may still get."""
        with self._lock:
            return self._room(partition)

    def fullness(self, partitions: Iterable[Hashable]) -> float:
        """Return what the fullest of these partitions holds against what it may hold now, 0..1.

        Room that only others have does not help it: at 1 it is not read.
        """
        with self._lock:
            held = max((self._held.get(each, 0) for each in partitions), default=0)
            room = max(0, self._own_share - held) + max(0, self._pool_free())
            return held / (held + room) if held else 0.0

    def held_by(self, partition: Hashable) -> int:
        """Return the bytes of columns that one partition holds."""
        return self._held.get(partition, 0)

    def _share(self, partition: Hashable, need: int) -> int:
        room = self._room(partition)
        enough = self._enough if partition in self._paused else min(self._enough, FETCH_BYTES_MIN)
        if room < max(need, enough):
            self._paused[partition] = need
            return 0
        self._paused.pop(partition, None)
        return min(PARTITION_BYTES_MAX, self.fetch_bytes_max, room // COLUMNS_PER_WIRE_BYTE)

    def _room(self, partition: Hashable, *, reserved_bytes: int = 0) -> int:
        """Return the room of a partition; what is reserved for it is no one else's."""
        own_free = max(0, self._own_share - self._held.get(partition, 0))
        return own_free + max(0, self._pool_free(reserved_bytes))

    def _pool_free(self, reserved_bytes: int = 0) -> int:
        """Return what the pool has left; less than nothing if it has lent more than it has."""
        others_bytes = self.requested_bytes - reserved_bytes
        others_bytes += max(0, self.receive_bytes - self.receive_bytes_max)
        return self.columns_bytes_max // 2 - self._pool_used - others_bytes

    def _add(self, partition: Hashable, num_bytes: int) -> None:
        if partition not in self._held:  # revoked meanwhile: no longer counted
            return
        own = self._own_share
        before = self._held[partition]
        self._held[partition] = before + num_bytes
        self.held_bytes += num_bytes
        self._pool_used += max(0, before + num_bytes - own) - max(0, before - own)

    def _recount(self) -> None:
        """Split the memory anew, after partitions or connections have come or gone."""
        # The most bytes of one response: connections share the receive buffers.
        buffers = BUFFERS_PER_CONNECTION * max(1, len(self._received))
        bytes_max = min(FETCH_BYTES_MAX, self.receive_bytes_max // buffers)
        self.fetch_bytes_max = max(FETCH_BYTES_MIN, bytes_max)
        self._own_share = own = self.columns_bytes_max // 2 // max(1, len(self._held))
        # Room at which a paused partition goes on: a whole request, or its share if smaller.
        self._enough = min(self.fetch_bytes_max * COLUMNS_PER_WIRE_BYTE, own // 2)
        self._pool_used = sum(max(0, held - own) for held in self._held.values())
