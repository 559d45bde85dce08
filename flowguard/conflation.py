"""Conflation: of what waits, only the newest record of each key is worth an agent's time.

Records of one partition and lane are looked at together. So many at a time that the event
loop does not stand still: where more wait, the next look goes on where the last one ended,
and a record that is replaced by one further away goes in a later round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from flowguard._native.sieve import newest
from flowguard.chunk import Slice
from flowguard.gate import Gate
from flowguard.holdings import Part, Partition, Waiting
from flowguard.leaving import Leaving

__all__ = ["ROWS_MAX", "conflate"]

#: At 60 ns a record (ext/sieve.pyx), and three times that for copying what stays: 8 ms.
ROWS_MAX: Final = 32_768

#: Where more than this wait, a look is worth its time when a quarter of them is new.
FEW_ROWS: Final = 512
NEW_PART: Final = 4

#: So many slices of fewer rows than this become one.
SMALL_ROWS: Final = 256
SMALL_SLICES: Final = 8

OUTCOME: Final = "conflated"
WHY: Final = "a newer record of the same {what} waits"


def conflate(gate: Gate, leaving: Leaving, *, by: str | None, partition: Partition | None) -> None:
    """Leave out records that a newer one replaces, of what waits in a lane for one agent.

    Args:
        by: The column that tells what is the same, None for the key.
        partition: Only of this one; None: of all, as far as a look goes.
    """
    why = WHY.format(what="key" if by is None else by)
    budget = ROWS_MAX
    for each in [partition] if partition is not None else partitions_of(gate):
        if budget <= 0:
            return
        waiting = in_offset_order(gate, each)
        if each.revoking or not (each in gate.cursors or is_worth_it(waiting)):
            continue
        window = window_of(gate, each, waiting)
        budget -= sum(one.piece.count for one in window)
        keep_newest(gate, window, leaving, why)


def partitions_of(gate: Gate) -> list[Partition]:
    """Return the partitions that wait, those where conflating was interrupted first."""
    backlog = gate.view.backlog
    waiting = {each.partition: None for each in backlog.waiting[gate.rank].values()}
    waiting |= {partition: None for partition, rank in backlog.ahead if rank == gate.rank}
    gate.cursors = {each: at for each, at in gate.cursors.items() if each in waiting}
    return sorted(waiting, key=lambda each: each not in gate.cursors)


def in_offset_order(gate: Gate, partition: Partition) -> list[Waiting]:
    """Return what waits of a partition, by first offset."""
    waiting = gate.view.backlog.of_partition(gate.rank, partition)
    return sorted(waiting, key=lambda each: each.run.first_offset)


def is_worth_it(waiting: Sequence[Waiting]) -> bool:
    """Tell whether enough has come since the last look."""
    total = sum(each.piece.count for each in waiting)
    new = sum(each.piece.count for each in waiting if not each.conflated)
    return new > 0 and (total <= FEW_ROWS or new * NEW_PART >= total)


def window_of(gate: Gate, partition: Partition, waiting: Sequence[Waiting]) -> list[Waiting]:
    """Return what is looked at now, and note where the next look goes on."""
    start = gate.cursors.pop(partition, 0)
    window: list[Waiting] = []
    rows = 0
    for each in waiting:
        if each.run.first_offset < start:
            continue
        if window and rows + each.piece.count > ROWS_MAX:
            gate.cursors[partition] = each.run.first_offset
            break
        window.append(each)
        rows += each.piece.count
    return window


def keep_newest(gate: Gate, window: Sequence[Waiting], leaving: Leaving, why: str) -> None:
    """Let go what in a window has a newer one of its key."""
    masks = newest(
        [each.piece.offsets for each in window], [each.piece.entities for each in window]
    )
    changed: list[Waiting] = []
    for each, keep in zip(window, masks, strict=True):
        each.conflated = True
        if keep is not None:
            change(each, leaving.rows(gate.view, each.part, keep, OUTCOME, why))
            changed.append(each)
    for run in small_runs(gate, window):
        joined = leaving.joined(gate.view, [each.part for each in run])
        if joined is not None:
            change(run[0], joined)
            for each in run[1:]:
                change(each, None)
            changed += run
    gate.view.backlog.renew(gate.rank, changed)


def small_runs(gate: Gate, window: Sequence[Waiting]) -> list[list[Waiting]]:
    """Return small slices that wait one behind the other, where there are many of them.

    Of what comes a few records at a time, conflating would leave a slice for each key.
    """
    queued = {id(each) for each in gate.view.backlog.waiting[gate.rank].values()}
    runs: list[list[Waiting]] = []
    latest: dict[int, list[Waiting]] = {}  # by sub-queue
    for each in window:
        if not each.piece.count:
            continue
        run = latest.get(each.queue)
        if each.piece.count >= SMALL_ROWS or id(each) not in queued:
            latest.pop(each.queue, None)
        elif run is not None and follows(run[-1].piece, each.piece):
            run.append(each)
        else:
            latest[each.queue] = [each]
            runs.append(latest[each.queue])
    return [run for run in runs if len(run) >= SMALL_SLICES]


def follows(before: Slice, piece: Slice) -> bool:
    """Tell whether all offsets of a slice come after those of another."""
    last_offset = before.chunk.offset_at(before.start + before.count - 1)
    return piece.chunk.offset_at(piece.start) > last_offset


def change(waiting: Waiting, rest: Part | None) -> None:
    """Let a slice wait with what is left of it."""
    if rest is None:
        waiting.piece = Slice(waiting.piece.chunk, waiting.piece.start, 0)
    else:
        waiting.go_on_with(rest)
