"""Encrypted lanes: whose key it is, what is in the clear, what was tampered with."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flowguard._native.frame import crc32c
from flowguard.errors import FrameLost, SpillRefused
from flowguard.spill.cipher import EphemeralKey, Key
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.layout import FRAME_HEADER_BYTES
from flowguard.spill.options import LaneSpill
from flowguard.spill.quota import SpillState
from flowguard.spill.slot import take_slot
from tests.spill.builders import (
    KEYS,
    QUOTA,
    WIDE,
    A,
    Keys,
    StoppedClock,
    all_frames,
    assert_reads,
    encrypted,
    fresh_disk,
    spill,
    store_on,
)

# Fault 20. Keys.


def test_nothing_of_a_record_is_on_disk_in_the_clear() -> None:
    disk = fresh_disk()
    store = store_on(disk, lanes=encrypted(Keys(*KEYS)))
    frame = spill(store, 0, 50)
    store.close()

    (path,) = disk.names(".fgs")
    data = bytes(disk.files[path].data)
    assert b"orders/0/" not in data  # values
    assert b"k11" not in data and b"orders" not in data.replace(b"orders-app", b"")
    assert all(key.secret not in data for key in KEYS)
    assert_reads(store, frame)


def test_a_rotated_key_reads_what_the_old_one_wrote() -> None:
    disk = fresh_disk()
    old = spill(store_on(disk, lanes=encrypted(Keys(KEYS[0]))), 0, 10)

    store = store_on(disk.after_kill(), lanes=encrypted(Keys(*KEYS)))
    store.adopt(store.parked(A)[0])
    new = spill(store, 10, 20)

    assert store._segments.get(old.segment).header.key == "2025"  # type: ignore[union-attr]
    assert store._segments.get(new.segment).header.key == "2026"  # type: ignore[union-attr]
    assert_reads(store, old)
    assert_reads(store, new)
    assert store.recovered == []


@pytest.mark.parametrize(
    "keys", [Keys(KEYS[1]), Keys(Key("2025", bytes(32))), EphemeralKey(Random(1).randbytes), None]
)
def test_what_no_key_opens_is_deleted_and_read_from_kafka(keys: Any) -> None:
    disk = fresh_disk()
    spill(store_on(disk, lanes=encrypted(Keys(KEYS[0]))), 0, 10)

    disk = disk.after_kill()
    store = store_on(disk, lanes=encrypted(keys))

    assert not store.recovered and not disk.names(".fgs")
    assert_reads(store, spill(store, 0, 10))


def test_what_was_not_encrypted_does_not_stay_where_it_should_be() -> None:
    disk = fresh_disk()
    spill(store_on(disk), 0, 10)

    disk = disk.after_kill()
    store = store_on(disk, lanes=encrypted(Keys(KEYS[0])))

    assert not store.recovered and not disk.names(".fgs")


def test_a_header_that_was_changed_with_its_checksum_is_noticed() -> None:
    disk = fresh_disk()
    store = store_on(disk, lanes=encrypted(Keys(*KEYS)))
    frame = spill(store, 0, 10)
    (path,) = disk.names(".fgs")
    data, at = disk.files[path].data, frame.position
    struct.pack_into("<q", data, at + 56, 11)  # scan_hi, so that an offset would be skipped
    header = bytes(data[at : at + FRAME_HEADER_BYTES - 4])
    struct.pack_into("<I", data, at + FRAME_HEADER_BYTES - 4, crc32c([header]))

    with pytest.raises(FrameLost, match="seal does not agree"):
        store.read(frame)
    assert not store_on(disk.after_kill(), lanes=encrypted(Keys(*KEYS))).recovered


def test_what_an_ephemeral_key_wrote_ends_with_the_process() -> None:
    disk = fresh_disk()
    keys = EphemeralKey(Random(1).randbytes)
    store = store_on(disk, lanes=encrypted(keys))
    frame = spill(store, 0, 10)
    assert_reads(store, frame)

    store.close()

    assert not disk.names(".fgs")


def test_a_key_that_is_rotated_while_a_worker_runs_is_used_from_the_next_segment_on() -> None:
    disk, keys = fresh_disk(), Keys(KEYS[0])
    store = store_on(disk, lanes=encrypted(keys))
    frames = [spill(store, 0, 10)]

    keys.keys.append(KEYS[1])
    while frames[-1].segment == frames[0].segment:
        frames.append(spill(store, 10 * len(frames), 10 * len(frames) + 10, size=WIDE))

    for frame in frames:
        assert_reads(store, frame, size=20 if frame is frames[0] else WIDE)
    after = store_on(disk.after_kill(), lanes=encrypted(keys))
    assert all_frames(after) == frames
    used = {segment.header.key for segment in after._segments.of_lane("bulk")}
    assert used == {"2025", "2026"}


def test_every_field_of_a_header_is_bound_to_what_is_encrypted() -> None:
    """Whoever changes one and makes the checksum agree, as anybody can, gets nothing decrypted."""
    disk, lanes = fresh_disk(), encrypted(Keys(*KEYS))
    store = store_on(disk, lanes=lanes)
    frame = spill(store, 0, 10)
    (path,) = disk.names(".fgs")
    whole, at = bytes(disk.files[path].data), frame.position

    for byte in range(FRAME_HEADER_BYTES - 8):  # the checksums themselves come behind
        header = bytearray(whole[at : at + FRAME_HEADER_BYTES])
        header[byte] ^= 1
        struct.pack_into("<I", header, FRAME_HEADER_BYTES - 4, crc32c([bytes(header[:-4])]))
        disk.files[path].data[at : at + FRAME_HEADER_BYTES] = header
        with pytest.raises(FrameLost, match="offsets 0 to 9 is corrupt"):
            store.read(frame)


def test_real_files_have_nothing_of_a_record_in_the_clear(tmp_path: Path) -> None:
    real = RealFileSystem()
    slot = take_slot(real, str(tmp_path), "shop")
    store = store_on(real, slot=slot, lanes=encrypted(Keys(*KEYS)), app="shop", group="shop")
    frames = [spill(store, 10 * n, 10 * n + 10, size=WIDE) for n in range(20)]
    for frame in frames:
        assert_reads(store, frame, size=WIDE)
    store.close()

    found = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(map(len, found)) > 20 * 10 * WIDE
    for secret in (b"orders/0/", b"orders", *(key.secret for key in KEYS)):
        assert not any(secret in data for data in found)


class NoKeys:
    """A provider that cannot be reached."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def current(self) -> Key:
        raise self.error

    def find(self, key_id: str) -> Key | None:
        raise self.error


UNREACHABLE = [ConnectionRefusedError("no answer"), RuntimeError("no answer")]


@pytest.mark.parametrize("error", UNREACHABLE, ids=["os-error", "another"])
def test_a_provider_that_fails_is_no_broken_disk_and_nothing_is_written(error: Exception) -> None:
    disk, clock = fresh_disk(), StoppedClock()
    keys: Any = Keys(*KEYS)
    lanes = {**encrypted(keys), "slow": LaneSpill(max_bytes=QUOTA)}
    store = store_on(disk, lanes=lanes, clock=clock)
    keys.current = NoKeys(error).current

    with pytest.raises(SpillRefused, match=r"keeps its records: no key is to be had .no answer."):
        spill(store, 0, 10)

    assert not disk.names(".fgs") and store.state("bulk") is SpillState.OK
    assert_reads(store, spill(store, 0, 10, lane="slow"))
    del keys.current
    assert_reads(store, spill(store, 0, 10))


@pytest.mark.parametrize("error", UNREACHABLE, ids=["os-error", "another"])
def test_a_provider_that_fails_at_the_start_does_not_keep_a_worker_from_it(
    error: Exception,
) -> None:
    disk = fresh_disk()
    spill(store_on(disk, lanes=encrypted(Keys(*KEYS))), 0, 10)

    disk = disk.after_kill()
    store = store_on(disk, lanes=encrypted(NoKeys(error)))

    assert not store.recovered and len(disk.names("/quarantine/")) == 1
