"""Conflation of what waits for an agent, against the slow and obvious way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard import conflation
from flowguard.chunk import NO_FLOW, TopicPartition
from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Conflate, Divert, Policy, Shed
from flowguard.units import KIB, MIB
from tests.builders import REALTIME, A, B, EngineDriver, chunk_of, offsets_of
from tests.model.conflation import newest_offsets

KEYS = st.one_of(st.none(), st.sampled_from([b"", b"a", b"b", b"c", b"d"]))
READS = st.lists(st.lists(KEYS, min_size=1, max_size=12), min_size=1, max_size=8)
ORDERS = st.sampled_from(["partition", "key", "none"])

Records = list[tuple[int, bytes | None]]


def worker(order: str, records_max: int, *policies: Policy) -> EngineDriver:
    lanes = (REALTIME, Lane("latest", overflow=list(policies)))
    d = EngineDriver(
        lanes=lanes,
        order=order,
        records_max=records_max,
        memory_bytes=MIB,
        shadow=frozenset({"ladder"}),  # which would take back the ratios that tests set
    )
    d.engine.views["agent"].backlog._skew_records = 8
    d.assign(A=0, B=0)
    return d


def read(
    d: EngineDriver,
    name: TopicPartition,
    records: Records,
    *,
    tenants: int = 0,
    by_column: bool = False,
    record_bytes: int = 100,
) -> set[int]:
    """Read records of a lane that queues by so many tenants, which are not its keys.

    Returns:
        The offsets that were started at once.
    """
    flows: dict[int, Records] = {}
    for record in records:
        flows.setdefault(record[0] * 7 % tenants if tenants else NO_FLOW, []).append(record)
    chunks = []
    for flow, members in flows.items():
        named = [key for _, key in members]
        chunk = chunk_of(
            [offset for offset, _ in members],
            partition=name,
            lane=1,
            keys=[b"same"] * len(members) if by_column else named,
            num_bytes=record_bytes * len(members),
        )
        entity = pa.array(named, pa.binary()) if by_column else None
        chunks.append(replace(chunk, flow=flow, entity=entity))
    started = d.fetch(name, *chunks, next_offset=records[-1][0] + 1)
    return {offset for cut in started for _, offset in offsets_of(cut)}


def waiting(d: EngineDriver, name: TopicPartition) -> set[int]:
    partition = d.engine.partitions[name]
    return {
        offset
        for each in d.engine.views["agent"].backlog.of_partition(1, partition)
        for offset in each.piece.offsets.to_pylist()
    }


@contextmanager
def looks(**options: int) -> Iterator[None]:
    """Let looks be of another size for a while."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            patch.setattr(conflation, name, value)
        yield


@settings(max_examples=200, deadline=None)
@given(
    reads=READS,
    order=ORDERS,
    tenants=st.integers(0, 3),
    records_max=st.integers(1, 5),
    by_column=st.booleans(),
    joins=st.booleans(),
    data=st.data(),
)
def test_of_what_waits_the_newest_of_each_key_stay_and_nothing_else(
    reads: list[list[bytes | None]],
    order: str,
    tenants: int,
    records_max: int,
    by_column: bool,
    joins: bool,
    data: st.DataObject,
) -> None:
    with looks(SMALL_SLICES=2 if joins else conflation.SMALL_SLICES):
        check_conflating(reads, order, tenants, records_max, by_column, data)


def check_conflating(
    reads: list[list[bytes | None]],
    order: str,
    tenants: int,
    records_max: int,
    by_column: bool,
    data: st.DataObject,
) -> None:
    d = worker(order, records_max, Conflate("column" if by_column else None))
    d.engine.overflow.set_shed_ratio(1, 0.5, "a test says so")  # not only above the share
    key_of: dict[int, bytes | None] = {}
    for keys in reads:
        name = data.draw(st.sampled_from([A, B]))
        records = list(enumerate(keys, len(key_of)))
        key_of |= dict(records)
        before = waiting(d, name) | {offset for offset, _ in records}
        tenants = 0 if order == "partition" else tenants

        left = before - read(d, name, records, tenants=tenants, by_column=by_column)
        started = {offset for cut in d.wait(100) for _, offset in offsets_of(cut)}

        wanted = newest_offsets([(offset, key_of[offset]) for offset in sorted(left)])
        assert waiting(d, name) == wanted - started
        if d.running and data.draw(st.booleans()):
            d.finish(d.running[0])

    d.engine.overflow.set_shed_ratio(1, 0.0, "")
    while d.running:
        d.finish(d.running[0])
    counts = d.counts(1)
    assert counts["read"] == counts["settled"] + counts.get("conflated", 0)
    assert d.memory.held_bytes == 0
    d.wait(100)
    assert len(d.left("conflated")) == counts.get("conflated", 0)


@settings(max_examples=100, deadline=None)
@given(st.lists(KEYS, min_size=30, max_size=120), st.integers(5, 20))
def test_where_more_waits_than_a_look_takes_the_rest_follows_and_nothing_new_is_lost(
    keys: list[bytes | None], rows_max: int
) -> None:
    with looks(ROWS_MAX=rows_max, FEW_ROWS=0):
        d = worker("partition", 1, Conflate())
        read(d, A, [(0, None)])
        d.engine.overflow.set_shed_ratio(1, 0.5, "a test says so")
        for start in range(0, len(keys), 3):
            read(d, A, list(enumerate(keys[start : start + 3], 1 + start)))
        for _ in range(200):
            d.wait(100)

    kept = waiting(d, A)
    assert newest_offsets(list(enumerate(keys, 1))) <= kept
    assert sorted([*d.left("conflated"), *kept]) == list(range(1, len(keys) + 1))
    assert d.commit()[A] == 0  # the batch that runs holds the offset back


def test_what_comes_little_by_little_ends_in_few_slices() -> None:
    d = worker("partition", 1, Conflate())
    read(d, A, [(0, None)])
    d.engine.overflow.set_shed_ratio(1, 0.5, "a test says so")

    for offset in range(1, 400):
        read(d, A, [(offset, b"k%d" % (offset * 7 % 100))])
        d.wait(100)

    assert waiting(d, A) == set(range(300, 400))
    assert len(d.engine.views["agent"].backlog.waiting[1]) < 8
    (slices,) = [[*part.slices] for part in d.finish(d.running[0])]
    assert slices[0].chunk.num_bytes > 0
    d.finish(d.running[0])
    while d.running:
        d.finish(d.running[0])
    assert d.memory.held_bytes == 0 and d.commit()[A] == 400


@settings(max_examples=60, deadline=None)
@given(
    policies=st.permutations([Conflate(), Divert("later"), Shed()]),
    order=ORDERS,
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12),
)
def test_whatever_the_policies_what_came_last_is_there_and_each_record_came_out_once(
    policies: list[Policy], order: str, sizes: list[int]
) -> None:
    d = worker(order, 2, *policies)
    offset = 0
    for size in sizes:
        keys = [b"k%d" % (number % 5) for number in range(offset, offset + size)]
        read(d, A, list(enumerate(keys, offset)), record_bytes=20 * KIB)
        offset += size
        assert offset - 1 in waiting(d, A) | {o for cut in d.running for _, o in offsets_of(cut)}
    diverted: list[int] = []
    while d.running or d.diverting:
        for cut in list(d.diverting):
            diverted += [each for _, each in offsets_of(cut)]
            d.acknowledge(cut)
        for cut in list(d.running):
            d.finish(cut)
    d.wait(100)

    outcomes = [d.left(outcome) for outcome in ("conflated", "shed", "diverted")]
    gone = [each for one in outcomes for each in one]
    counts = d.counts(1)
    assert sorted(outcomes[2]) == sorted(diverted)
    assert len(gone) == len(set(gone)) == counts["read"] - counts["settled"]
    assert d.memory.held_bytes == 0
