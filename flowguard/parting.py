"""Records of a batch, told apart: the first and the rest, or some rows and the others.

Rows are counted through all pieces of a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from flowguard.holdings import Part

__all__ = ["divide", "pick"]


def divide(parts: Sequence[Part], count: int) -> tuple[list[Part], list[Part]]:
    """Return the first so many records, and the rest."""
    first: list[Part] = []
    rest: list[Part] = []
    for part in parts:
        if count >= part.piece.count:
            first.append(part)
        elif count > 0:
            front, back = part.cut(count)
            first.append(front)
            rest.append(back)
        else:
            rest.append(part)
        count -= part.piece.count
    return first, rest


def pick(
    parts: Sequence[Part], groups: Sequence[Sequence[int]]
) -> tuple[list[list[Part]], list[Part]]:
    """Return the records of each group of rows, and the others.

    Args:
        groups: Rows, ascending, one group behind the other.
    """
    picked: list[list[Part]] = [[] for _ in groups]
    others: list[Part] = []
    wanted = deque((row, number) for number, group in enumerate(groups) for row in group)
    before = 0
    for part in parts:
        rest: Part | None = part
        end = before + part.piece.count
        while rest is not None and wanted and wanted[0][0] < end:
            row, number = wanted.popleft()
            if row > before:
                front, rest = rest.cut(row - before)
                others.append(front)
            count = 1
            while wanted and wanted[0] == (row + count, number) and row + count < end:
                wanted.popleft()
                count += 1
            one, rest = (rest, None) if rest.piece.count == count else rest.cut(count)
            picked[number].append(one)
            before = row + count
        if rest is not None:
            others.append(rest)
        before = end
    return picked, others
