"""What the encoder writes is what aiokafka, and our own parser, read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard._native import wire
from flowguard._native.record_batches import RecordBatch, Rows
from flowguard.intake.compression import decompress
from flowguard.intake.halving import halve
from tests.native.batches import section_of

CODECS: dict[int, Callable[[Any], Any]] = {
    1: gzip_encode, 2: snappy_encode, 3: lz4_encode, 4: zstd_encode,
}  # fmt: skip
LIMIT = 1 << 20
NOW_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Sent:
    """A record as a test thinks of it."""

    key: bytes | None = None
    value: bytes | None = b"v"
    timestamp: int = NOW_MS
    headers: tuple[tuple[str, bytes | None], ...] = ()
    partition: int = 0


def encoded(headers: tuple[tuple[str, bytes | None], ...]) -> bytes:
    return wire.encode_headers([(name.encode(), value) for name, value in headers])


def rows_of(records: list[Sent], partition_count: int = 4, *, own_headers: bool = True) -> Rows:
    return Rows(
        pa.array([each.key for each in records], pa.binary()),
        pa.array([each.value for each in records], pa.binary()),
        pa.array([each.partition for each in records], pa.int32()),
        pa.array([each.timestamp for each in records], pa.int64()),
        pa.array([encoded(each.headers) for each in records], pa.binary())
        if own_headers
        else encoded(records[0].headers if records else ()),
        partition_count,
    )


def read_by_aiokafka(batch: RecordBatch, partition: int) -> list[Sent]:
    theirs = DefaultRecordBatch(bytes(memoryview(batch)))
    assert theirs.validate_crc()
    return [
        Sent(each.key, each.value, each.timestamp, tuple(each.headers), partition)
        for each in theirs
    ]


def read_by_flowguard(batches: list[RecordBatch], partition: int) -> list[Sent]:
    data = b"".join(bytes(memoryview(each)) for each in batches)
    records: list[Sent] = []
    for batch in batches:  # each begins at offset 0
        data = bytes(memoryview(batch))
        parsed = wire.parse_records(
            data, section_of(data), asked_offset=0, rule=wire.LaneRule.constant(0), lane_count=1,
            max_bytes=1 << 40, batch_bytes_max=1 << 40, decompress=decompress,
        )  # fmt: skip
        assert parsed.error is None
        assert parsed.num_records == batch.count == parsed.next_offset
        (lane,) = parsed.lanes
        columns = lane.columns
        headers = wire.decode_headers(columns.column("headers")).to_pylist()
        assert columns.column("offset").to_pylist() == list(range(batch.count))
        records += [
            Sent(row["key"], row["value"], row["timestamp"],
                 tuple((each["name"], each["value"]) for each in own), partition)
            for row, own in zip(columns.drop_columns(["headers"]).to_pylist(), headers, strict=True)
        ]  # fmt: skip
    return records


def sealed(rows: Rows, limit: int = LIMIT, codec: int = 0) -> dict[int, list[RecordBatch]]:
    found: dict[int, list[RecordBatch]] = {}
    for partition, batch in rows.encode(limit):
        if codec:
            batch.compress(codec, CODECS[codec])
        batch.seal(77, 3, 5)
        found.setdefault(partition, []).append(batch)
    return found


small = st.binary(max_size=40)
header = st.tuples(st.text(st.characters(codec="utf-8"), max_size=8), st.none() | small)
record = st.builds(
    Sent,
    key=st.none() | small,
    value=st.none() | small | st.just(b"x" * 300),
    timestamp=st.integers(0, 2**62) | st.just(NOW_MS) | st.integers(NOW_MS, NOW_MS + 100),
    headers=st.lists(header, max_size=3).map(tuple),
    partition=st.integers(0, 3),
)


@settings(max_examples=300, deadline=None)
@given(
    records=st.lists(record, max_size=40),
    limit=st.sampled_from([100, 400, LIMIT]),
    codec=st.sampled_from([0, 0, *CODECS]),
)
def test_what_is_written_is_read_back_by_aiokafka_and_by_our_parser(
    records: list[Sent], limit: int, codec: int
) -> None:
    found = sealed(rows_of(records), limit, codec)

    for partition in range(4):
        expected = [each for each in records if each.partition == partition]
        batches = found.pop(partition, [])
        theirs = [each for batch in batches for each in read_by_aiokafka(batch, partition)]
        assert theirs == expected
        assert read_by_flowguard(batches, partition) == expected
        for batch in batches:
            assert len(batch) <= limit or batch.count == 1
    assert not found


@settings(max_examples=100, deadline=None)
@given(records=st.lists(record, min_size=1, max_size=20), data=st.data())
def test_slices_of_arrays_are_read_where_they_begin(records: list[Sent], data: Any) -> None:
    first = data.draw(st.integers(0, len(records) - 1))
    part = records[first:]
    columns = [
        pa.array([each.key for each in records], pa.binary()),
        pa.array([each.value for each in records], pa.binary()),
        pa.array([each.partition for each in records], pa.int32()),
        pa.array([each.timestamp for each in records], pa.int64()),
        pa.array([encoded(each.headers) for each in records], pa.binary()),
    ]

    batches = Rows(*(each.slice(first) for each in columns), 4).encode(LIMIT)  # type: ignore[arg-type]

    for partition, batch in batches:
        batch.seal()
        expected = [each for each in part if each.partition == partition]
        assert read_by_aiokafka(batch, partition) == expected


def test_common_headers_are_those_of_every_record() -> None:
    records = [Sent(value=b"%d" % i, headers=(("fg-lane", b"rt"), ("n", None))) for i in range(9)]

    (batch,) = sealed(rows_of(records, own_headers=False))[0]

    assert read_by_aiokafka(batch, 0) == records


def test_the_header_has_the_sequence_the_times_and_the_count() -> None:
    records = [Sent(timestamp=50), Sent(timestamp=20), Sent(timestamp=90), Sent(timestamp=60)]

    (batch,) = sealed(rows_of(records))[0]

    theirs = DefaultRecordBatch(bytes(memoryview(batch)))
    assert (theirs.producer_id, theirs.producer_epoch, theirs.base_sequence) == (77, 3, 5)
    assert (theirs.first_timestamp, theirs.max_timestamp) == (50, 90)
    assert (theirs.last_offset_delta, theirs.magic, theirs.base_offset) == (3, 2, 0)
    assert not theirs.is_transactional and not theirs.is_control_batch


def test_a_batch_may_be_sealed_again_with_another_sequence() -> None:
    records = [Sent(value=b"a" * 100), Sent(value=None)]
    (batch,) = sealed(rows_of(records))[0]

    batch.seal(78, 0, 0)

    assert DefaultRecordBatch(bytes(memoryview(batch))).producer_id == 78
    assert read_by_aiokafka(batch, 0) == records


def test_a_compressed_batch_may_be_sealed_again() -> None:
    records = [Sent(value=b"a" * 1000)] * 3
    (batch,) = sealed(rows_of(records), codec=4)[0]

    batch.seal(78, 0, 0)

    assert len(batch) < 1000
    assert read_by_aiokafka(batch, 0) == records


def test_a_record_larger_than_the_limit_has_a_batch_of_its_own() -> None:
    records = [Sent(value=b"a"), Sent(value=b"b" * 5000), Sent(value=b"c"), Sent(value=b"d")]

    batches = sealed(rows_of(records), 1000)[0]

    assert [batch.count for batch in batches] == [1, 1, 2]
    assert read_by_flowguard(batches, 0) == records


def test_rows_may_join_a_batch_that_is_open() -> None:
    batch = RecordBatch(LIMIT)
    first, second = rows_of([Sent(value=b"1", timestamp=9)]), rows_of([Sent(value=b"2")] * 2000)

    assert first.append_to(batch, 0, 1) == 1
    assert second.append_to(batch, 0, 2000) == 2000
    batch.seal()

    assert [each.value for each in read_by_aiokafka(batch, 0)] == [b"1"] + [b"2"] * 2000


def test_a_full_batch_says_where_it_stopped() -> None:
    batch = RecordBatch(300)
    rows = rows_of([Sent(value=b"x" * 90)] * 5)

    assert rows.append_to(batch, 0, 5) == 2
    assert rows.append_to(batch, 2, 5) == 2


def test_packed_records_that_are_no_smaller_are_left_as_they_are() -> None:
    (_, batch), *_ = rows_of([Sent()]).encode(LIMIT)

    batch.compress(1, gzip_encode)
    batch.seal()

    assert DefaultRecordBatch(bytes(memoryview(batch))).compression_type == 0


def test_an_open_batch_is_no_buffer_and_a_closed_one_takes_no_rows() -> None:
    batch, rows = RecordBatch(LIMIT), rows_of([Sent()])

    with pytest.raises(BufferError):
        memoryview(batch)
    with pytest.raises(ValueError, match="one record or more"):
        batch.seal()
    rows.append_to(batch, 0, 1)
    batch.close()
    with pytest.raises(ValueError, match="closed"):
        rows.append_to(batch, 0, 1)


def test_spans_are_the_rows_of_each_partition_in_their_order() -> None:
    records = [Sent(value=b"%d" % i, partition=(7 * i) % 4) for i in range(100)]
    rows = rows_of(records)

    assert rows.spans() == [(p, 25 * p, 25 * p + 25) for p in range(4)]
    assert len(rows) == 100


GOOD: dict[str, Any] = {
    "keys": pa.array([b"k"]),
    "values": pa.array([b"v"]),
    "partitions": pa.array([0], pa.int32()),
    "timestamps": pa.array([0], pa.int64()),
    "headers": b"\0",
    "partition_count": 1,
}


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"keys": pa.array(["k"])}, "keys must be a BinaryArray"),
        ({"values": pa.array([b"v", b"w"])}, "rows"),
        ({"partitions": pa.array([0], pa.int64())}, "partitions must be an array of int32"),
        ({"partitions": pa.array([1], pa.int32())}, "row 0 is for partition 1"),
        ({"partitions": pa.array([-1], pa.int32())}, "row 0 is for partition -1"),
        ({"partitions": pa.array([None], pa.int32())}, "partitions must not be null"),
        ({"timestamps": pa.array([None], pa.int64())}, "timestamps must not be null"),
        ({"timestamps": pa.array([1, 2], pa.int64())}, "not one for each"),
        ({"headers": pa.array([None], pa.binary())}, "headers must not be null"),
        ({"headers": "text"}, "headers must be a BinaryArray"),
        ({"partition_count": 0}, "1 partition or more|does not exist"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(wrong: dict[str, Any], what: str) -> None:
    with pytest.raises((TypeError, ValueError), match=what):
        Rows(**{**GOOD, **wrong})


def test_no_rows_are_no_batches() -> None:
    assert rows_of([]).encode(LIMIT) == []
    assert Rows(**{**GOOD, "keys": pa.nulls(1, pa.binary())}).encode(LIMIT)[0][1].count == 1


@settings(max_examples=200, deadline=None)
@given(records=st.lists(record, min_size=2, max_size=40), codec=st.sampled_from([0, 0, *CODECS]))
def test_the_halves_of_a_batch_have_its_records_in_their_order(
    records: list[Sent], codec: int
) -> None:
    ours = [replace(each, partition=0) for each in records]
    (batch,) = sealed(rows_of(ours, 1), codec=codec)[0]

    halves = halve(batch)

    for each in halves:
        each.seal(1, 0, 0)
    assert all(each.count for each in halves)
    assert [row for each in halves for row in read_by_aiokafka(each, 0)] == ours
    assert read_by_flowguard(list(halves), 0) == ours


def test_the_halves_of_a_batch_are_about_equal_in_bytes() -> None:
    large = Sent(value=b"x" * 10_000)
    small = Sent(value=b"x")

    def counts(*records: Sent) -> list[int]:
        (batch,) = sealed(rows_of(list(records), 1))[0]
        return [each.count for each in halve(batch)]

    assert counts(*[small] * 8) == [4, 4]
    assert counts(large, *[small] * 7) == [1, 7]
    assert counts(*[small] * 7, large) == [7, 1]
    assert counts(small, large, small) == [2, 1]
