"""Fault 22: records of any kind come back byte by byte, after a kill, packed or encrypted.

More of it: unit/spill/test_payload.py.
"""

from __future__ import annotations

import pytest

from flowguard.errors import SpillRefused
from flowguard.spill.options import LaneSpill, StoreLimits
from tests.builders import EPOCH_MS, columns_of
from tests.spill.builders import KEYS, A, Keys, all_frames, fresh_disk, store_on

LANES = {
    "plain": LaneSpill(max_bytes=1 << 30),
    "packed": LaneSpill(max_bytes=1 << 30, compression="zstd"),
    "encrypted": LaneSpill(max_bytes=1 << 30, keys=Keys(*KEYS)),
}
ROOM = StoreLimits(min_free_bytes=0)

STRANGE = {
    "nulls": columns_of([1, 2], keys=[None, None], values=[None, None]),
    "nothing": columns_of([1, 2], keys=[b"", b""], values=[b"", b""]),
    "tombstones": columns_of([1, 2, 3], keys=[b"a", b"a", b"b"], values=[b"{}", None, None]),
    "binary": columns_of([7], keys=[bytes(range(256))], values=[bytes(range(256)) * 100]),
    "looks-like-a-frame": columns_of([8], values=[b"FGFR" + bytes(60) + b"FGSPILL1" * 500]),
    "headers": columns_of(
        [1, 2, 3],
        headers=[[], [(b"a", None), (b"a", b""), (b"a", b"x")], [(b"\xff" * 300, b"v" * 3000)]],
    ),
    "old": columns_of([1], timestamps=[-1]),
    "gaps": columns_of([1, 5_000_000_000, 5_000_000_007]),
}


@pytest.mark.parametrize("lane", list(LANES))
@pytest.mark.parametrize("name", list(STRANGE))
def test_records_of_any_kind_come_back_after_a_kill(lane: str, name: str) -> None:
    disk, batch = fresh_disk(), STRANGE[name]
    lanes = {"bulk": LANES[lane]}
    store = store_on(disk, lanes=lanes, limits=ROOM)
    store.append("bulk", A, [batch, batch.slice(0, 0)], scan_lo=0, scan_hi=1 << 40)

    after = store_on(disk.after_kill(), lanes=lanes, limits=ROOM)

    (frame,) = all_frames(after)
    assert after.read(frame) == [batch]


def test_a_million_tiny_records_are_one_frame() -> None:
    disk = fresh_disk()
    store = store_on(disk, lanes={"bulk": LANES["plain"]}, limits=ROOM)
    offsets = range(1_000_000)
    batch = columns_of(offsets, timestamps=[EPOCH_MS] * len(offsets), values=[b"1"] * len(offsets))

    frame = store.append("bulk", A, [batch], scan_lo=0, scan_hi=len(offsets))

    assert frame.records == 1_000_000
    assert store.read(frame) == [batch]


def test_a_record_that_is_too_large_stays_with_its_owner_and_harms_nobody() -> None:
    disk = fresh_disk()
    store = store_on(disk)
    before = disk.ops

    with pytest.raises(SpillRefused, match=r"keeps its records: .* too much") as refused:
        store.append("bulk", A, [columns_of([3], values=[bytes(100_000)])], scan_lo=0, scan_hi=9)

    assert refused.value.too_large and not store.why("bulk")
    assert disk.ops == before and not disk.names(".fgs")


@pytest.mark.parametrize("batches", [[], [columns_of([])]])
def test_nothing_is_no_frame(batches: list[object]) -> None:
    disk = fresh_disk()
    store = store_on(disk)

    with pytest.raises(ValueError, match="no records"):
        store.append("bulk", A, batches, scan_lo=0, scan_hi=9)  # type: ignore[arg-type]

    assert not disk.names(".fgs")
