"""Packing is chosen by what was measured."""

from __future__ import annotations

from flowguard.spill.compression import POOR_WINDOWS, WINDOW_BYTES, CompressionChoice
from flowguard.spill.quota import SpillState
from flowguard.units import SECOND


def write(choice: CompressionChoice, *, mb_per_s: int, ratio: float = 1.0) -> None:
    """Write a window at a speed."""
    packing = choice.choose(SpillState.OK)
    choice.wrote(
        packing,
        stored_bytes=WINDOW_BYTES,
        raw_bytes=int(WINDOW_BYTES / ratio),
        took_ns=WINDOW_BYTES * SECOND // (mb_per_s * 10**6),
    )


def test_what_was_chosen_is_done() -> None:
    for option in ("none", "lz4", "zstd"):
        choice = CompressionChoice(option)
        write(choice, mb_per_s=1)
        assert choice.choose(SpillState.HARD) == option


def test_a_slow_disk_is_packed_for_and_a_fast_one_is_not() -> None:
    choice = CompressionChoice("auto")
    assert choice.choose(SpillState.OK) == "none"

    write(choice, mb_per_s=499)
    assert choice.choose(SpillState.OK) == "lz4"
    write(choice, mb_per_s=900, ratio=0.5)
    assert choice.choose(SpillState.OK) == "lz4"
    write(choice, mb_per_s=1100, ratio=0.5)
    assert choice.choose(SpillState.OK) == "none"


def test_one_slow_write_decides_nothing() -> None:
    choice = CompressionChoice("auto")

    choice.wrote("none", stored_bytes=1000, raw_bytes=1000, took_ns=SECOND)

    assert choice.choose(SpillState.OK) == "none"


def test_what_does_not_pack_is_left_alone_for_a_while() -> None:
    choice = CompressionChoice("auto")
    write(choice, mb_per_s=100)

    write(choice, mb_per_s=100, ratio=0.95)

    for _ in range(POOR_WINDOWS):
        assert choice.choose(SpillState.OK) == choice.choose(SpillState.SOFT) == "none"
        write(choice, mb_per_s=100)
    write(choice, mb_per_s=100)
    assert choice.choose(SpillState.OK) == "lz4"


def test_near_the_quota_records_are_packed_tightly() -> None:
    assert CompressionChoice("auto").choose(SpillState.SOFT) == "zstd"
