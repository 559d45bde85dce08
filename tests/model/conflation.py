"""Conflation, slow and obvious: the oracle of `flowguard._native.sieve.newest`."""

from __future__ import annotations

from collections.abc import Sequence

Record = tuple[int, bytes | None]  # offset, key


def newest_offsets(records: Sequence[Record]) -> set[int]:
    """Return the offsets that stay when only the newest of each key does.

    The records are those of one partition and lane that wait, in any order. Those without a
    key stay.
    """
    newest: dict[bytes, int] = {}
    for offset, key in records:
        if key is not None:
            newest[key] = max(offset, newest.get(key, -1))
    return {offset for offset, key in records if key is None or newest[key] == offset}


def ranges_of(left: Sequence[int], lane: Sequence[int]) -> list[tuple[int, int]]:
    """Return ranges that hold these offsets of a lane, and no other offset of it."""
    ranges: list[tuple[int, int]] = []
    for offset in sorted(left):
        between = [each for each in lane if ranges and ranges[-1][1] <= each < offset]
        if ranges and not between:
            ranges[-1] = (ranges[-1][0], offset + 1)
        else:
            ranges.append((offset, offset + 1))
    return ranges
