"""Batches: row i of every view is the same record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowguard.batch import Batch, join_columns, without_rows
from flowguard.chunk import Slice, TopicPartition
from flowguard.lanes.lane import Lane
from tests.builders import EPOCH_MS, REALTIME, chunk_of, slice_of

A0, A1, B0 = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)


class FakeDelivery:
    """A clock, and no events."""

    now = EPOCH_MS / 1e3

    def events(self, batch: Batch) -> Any:
        return iter(())

    def now_epoch(self) -> float:
        return self.now


def three_slices() -> list[Slice]:
    """Return 6 records of 3 partitions, of which the values name the place."""

    def chunk(partition: TopicPartition, offsets: list[int], at_ms: int) -> Slice:
        return slice_of(
            chunk_of(
                offsets,
                partition=partition,
                keys=[f"{partition.topic}{o}".encode() for o in offsets],
                values=[json.dumps({"at": f"{partition.topic}{partition.partition}-{o}"}).encode()
                        for o in offsets],
                headers=[[(b"n", b"x%d" % o), (b"n", b"%d" % o)] if o % 2 else [] for o in offsets],
                timestamps=[at_ms + o for o in offsets],
            )
        )  # fmt: skip

    whole = chunk(A0, [1, 2, 3, 4], EPOCH_MS)
    return [
        Slice(whole.chunk, 1, 2),
        chunk(A1, [7, 9], EPOCH_MS - 5_000),
        chunk(B0, [2, 5], EPOCH_MS),
    ]


def batch_of(
    slices: Sequence[Slice], rejected: Sequence[int] = (), *, lane: Lane = REALTIME
) -> Batch:
    values = [v for piece in slices for v in piece.columns.column("value").to_pylist()]
    rows = [json.loads(v) for row, v in enumerate(values) if row not in set(rejected)]
    return Batch(
        feed="feed",
        lane=lane,
        slices=slices,
        frame=lambda: pl.DataFrame(rows, schema={"at": pl.String}),
        rejected=rejected,
        attempt=1,
        delivery=FakeDelivery(),
    )


def places(batch: Batch) -> list[list[str]]:
    """Return what each view says where its rows come from."""
    polars = batch.to_polars(meta=True)
    records = batch.records.to_pylist()
    return [
        batch.to_polars().get_column("at").to_list(),
        batch.to_arrow().column("at").to_pylist(),
        [row["at"] for row in batch.to_pylist()],
        [f"{r['_topic']}{r['_partition']}-{r['_offset']}" for r in polars.to_dicts()],
        [
            f"{topic}{r['partition']}-{r['offset']}"
            for topic, r in zip(batch.topics, records, strict=True)
        ],
        [json.loads(r["value"])["at"] for r in records],
        [
            f"{topic}{r['partition']}-{r['key'].decode().removeprefix(topic)}"
            for topic, r in zip(batch.topics, records, strict=True)
        ],
    ]


def test_row_i_of_every_view_is_the_same_record():
    first, *others = places(batch_of(three_slices()))

    assert first == ["a0-2", "a0-3", "a1-7", "a1-9", "b0-2", "b0-5"]
    assert all(other == first for other in others)


@given(st.sets(st.integers(0, 5), max_size=5))
def test_rejected_rows_are_missing_in_every_view(rejected):
    batch = batch_of(three_slices(), sorted(rejected))

    first, *others = places(batch)

    everything = ["a0-2", "a0-3", "a1-7", "a1-9", "b0-2", "b0-5"]
    assert first == [at for row, at in enumerate(everything) if row not in rejected]
    assert all(other == first for other in others)
    assert len(batch) == 6 - len(rejected) == len(batch.header("n")) == batch.records.num_rows


def test_a_header_is_the_last_of_its_name_and_null_where_there_is_none():
    headers = batch_of(three_slices()).header("n")

    assert headers.to_pylist() == [None, b"3", b"7", b"9", None, b"5"]
    assert batch_of(three_slices(), [0, 2]).header("n").to_pylist() == [b"3", b"9", None, b"5"]
    assert batch_of(three_slices()).header("other").to_pylist() == [None] * 6


def test_the_trace_of_a_batch_is_that_of_the_records_an_agent_sees():
    one, other = (b"00-%032x-%016x-01" % (number, number) for number in (1, 2))
    pieces = [
        slice_of(chunk_of([1, 2], partition=A0, headers=[[(b"traceparent", one)]] * 2,
                          values=[b'{"at": "x"}'] * 2)),
        slice_of(chunk_of([7], partition=A1, headers=[[(b"traceparent", other)]],
                          values=[b'{"at": "x"}'])),
    ]  # fmt: skip

    assert batch_of(pieces).traceparent is None
    assert batch_of(pieces[:1]).traceparent == one
    assert batch_of(pieces, [2]).traceparent == one
    assert batch_of(three_slices()).traceparent is None


def test_records_are_as_kafka_has_them():
    records = batch_of(three_slices()).records

    assert records.schema.names == ["partition", "offset", "timestamp", "key", "value", "headers"]
    assert records.schema.field("partition").type == pa.int32()
    assert records.to_pylist()[1] == {
        "partition": 0,
        "offset": 3,
        "timestamp": EPOCH_MS + 3,
        "key": b"a3",
        "value": b'{"at": "a0-3"}',
        "headers": [{"name": "n", "value": b"x3"}, {"name": "n", "value": b"3"}],
    }


def test_meta_columns_come_after_the_values():
    frame = batch_of(three_slices()).to_polars(meta=True)

    assert frame.columns == ["at", "_topic", "_partition", "_offset", "_timestamp", "_key"]
    assert frame.get_column("_timestamp").to_list()[2] == EPOCH_MS - 5_000 + 7
    assert frame.get_column("_key").to_list()[0] == b"a2"


def test_the_values_are_decoded_once_and_only_when_asked_for():
    made = []
    slices = three_slices()
    batch = batch_of(slices)
    original = batch._make_frame
    batch._make_frame = lambda: (made.append(1), original())[1]

    assert batch.records.num_rows == 6 and made == []
    batch.to_polars(), batch.to_pylist(), batch.to_arrow()

    assert made == [1]


def test_frames_stay_valid_when_the_batch_is_gone():
    batch = batch_of(three_slices())
    frame, records = batch.to_polars(meta=True), batch.records
    before = frame.to_dicts(), records.to_pylist()

    del batch

    assert (frame.to_dicts(), records.to_pylist()) == before


def test_the_columns_of_a_single_slice_are_not_copied():
    piece = three_slices()[1]

    joined = join_columns([piece])

    original = piece.chunk.columns.column("value").buffers()[2]
    assert joined.column("value").buffers()[2].address == original.address


def test_nothing_rejected_leaves_the_very_same_columns():
    columns = join_columns(three_slices())

    assert without_rows(columns, []) is columns


def test_the_deadline_is_that_of_the_oldest_record():
    batch = batch_of(three_slices())

    assert batch.oldest_timestamp_ms == EPOCH_MS - 5_000 + 7
    assert batch.deadline == pytest.approx((EPOCH_MS - 5_000 + 7) / 1e3 + 0.05)
    assert batch.remaining == 0.0


def test_what_remains_is_counted_from_now():
    batch = batch_of(three_slices()[:1], lane=Lane("slow", target="10s"))

    assert batch.remaining == pytest.approx(10.002)


def test_a_lane_without_a_target_has_no_deadline():
    batch = batch_of(three_slices(), lane=Lane("bulk"))

    assert (batch.deadline, batch.remaining) == (None, None)


def test_a_batch_says_what_it_is():
    batch = batch_of(three_slices(), [0])

    assert repr(batch) == "<Batch: 5 records, lane realtime, a[0], a[1], b[0]>"
    assert batch.partitions == {A0, A1, B0}
    assert (batch.attempt, batch.degraded, batch.num_bytes) == (1, False, 600)


def test_a_slice_has_its_share_of_the_bytes_of_its_chunk():
    chunk = chunk_of([0, 1, 2], num_bytes=100)

    assert [Slice(chunk, start, 1).num_bytes for start in range(3)] == [33, 33, 33]
    assert Slice(chunk, 0, 3).num_bytes == 100


# What becomes of its records.


def plain(count: int) -> Batch:
    offsets = range(10, 10 + count)
    values = [b'{"at": "%d"}' % offset for offset in offsets]
    return batch_of([slice_of(chunk_of(list(offsets), partition=A0, values=values))])


def test_rejected_rows_are_left_out_of_all_later_views_and_named_by_their_place():
    batch = plain(5)
    before = batch.to_polars()

    batch.reject([1], "too old")
    batch.reject(pl.Series([True, False, False, True]), "worse")

    assert batch.rejections == {0: "worse", 1: "too old", 4: "worse"}
    assert len(batch) == 2 and len(before) == 5
    assert batch.to_polars().equals(before[2:4])
    assert batch.records.column("offset").to_pylist() == [12, 13]
    assert len(batch.header("any")) == len(batch.to_pylist()) == 2


def test_rows_may_be_rejected_before_any_view_was_made():
    batch, whole = plain(5), plain(5)

    batch.reject(0, "bad")
    batch.reject([0, 3], "bad too")

    assert sorted(batch.rejections) == [0, 1, 4]
    assert batch.to_polars().equals(whole.to_polars()[2:4])


def test_nacked_rows_are_left_out_too_and_keep_their_reason_and_wait():
    batch = plain(4)

    batch.reject([0], "bad")
    batch.nack("later", rows=[0, 2], after="2s")

    assert {row: (nack.reason, nack.after_ns) for row, nack in batch.nacks.items()} == {
        1: ("later", 2_000_000_000), 3: ("later", 2_000_000_000),
    }  # fmt: skip
    assert len(batch) == 1 and batch.nack_all is None


def test_a_nack_without_rows_is_of_the_whole_batch_and_leaves_its_views_as_they_are():
    batch = plain(4)

    batch.nack("no", after=1)

    assert batch.nack_all is not None and batch.nack_all.after_ns == 1_000_000_000
    assert len(batch) == 4


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([5], ValueError),
        ([-1], ValueError),
        ([True, False], ValueError),
        (["a"], TypeError),
        ([0.5], TypeError),
        (object(), TypeError),
    ],
)
def test_rows_that_are_none_are_refused_and_nothing_is_left_out(rows: Any, error: type[Exception]):
    batch = plain(5)

    with pytest.raises(error):
        batch.reject(rows, "bad")

    assert len(batch) == 5 and not batch.rejections


@pytest.mark.parametrize(
    "rows", [[1, 3], {1, 3}, pl.Series([1, 3]), pa.array([1, 3]), np.array([1, 3]),
             np.array([False, True, False, True]), pa.array([None, True, False, True])],
)  # fmt: skip
def test_rows_are_named_in_every_common_way(rows: Any):
    batch = plain(4)

    batch.reject(rows, "bad")

    assert sorted(batch.rejections) == [1, 3]
