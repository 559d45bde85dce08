"""The wire parser against aiokafka's, and against bytes that no broker should send."""

from __future__ import annotations

import random
import resource
import struct
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cramjam
import pyarrow as pa
import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard._native import wire
from flowguard._native.wire import LaneRule, Parsed, PartitionSection, parse_records
from flowguard.errors import WireError
from flowguard.intake.compression import TooLarge, decompress
from tests.native.batches import (
    ABORT,
    AT_CRC,
    AT_LAST_OFFSET_DELTA,
    AT_LENGTH,
    AT_MAGIC,
    AT_RECORD_COUNT,
    AT_RECORDS,
    COMMIT,
    GZIP,
    LOG_APPEND_TIME,
    LZ4,
    SNAPPY,
    TRANSACTIONAL,
    ZSTD,
    Row,
    frame_of,
    marker,
    patch,
    renew_crc,
    section_of,
    wire_batch,
)

MIB = 1 << 20
CODECS = (0, GZIP, SNAPPY, LZ4, ZSTD)


def parse(
    data: bytes,
    section: PartitionSection | None = None,
    *,
    aborted: Sequence[tuple[int, int]] = (),
    asked_offset: int = 0,
    rule: LaneRule | None = None,
    lane_count: int = 1,
    max_bytes: int = 64 * MIB,
    batch_bytes_max: int = 16 * MIB,
    check_crc: bool = True,
) -> Parsed:
    return parse_records(
        data,
        section or section_of(data, aborted),
        asked_offset=asked_offset,
        rule=rule or LaneRule.constant(0),
        lane_count=lane_count,
        max_bytes=max_bytes,
        batch_bytes_max=batch_bytes_max,
        decompress=decompress,
        check_crc=check_crc,
    )


def rows_of(parsed: Parsed) -> list[tuple[Any, ...]]:
    """Return all records as (offset, timestamp, key, value, headers), in offset order."""
    rows = []
    for lane in parsed.lanes:
        lane.columns.validate(full=True)
        columns = lane.columns.to_pydict()
        headers: list[Any] = wire.decode_headers(lane.columns["headers"]).to_pylist()
        columns["headers"] = [[(pair["name"], pair["value"]) for pair in row] for row in headers]
        rows += list(zip(*columns.values(), strict=True))
    return sorted(rows)


def oracle_rows(
    data: bytes, aborted: Sequence[tuple[int, int]], asked_offset: int
) -> tuple[list[tuple[Any, ...]], int]:
    """Return the same as aiokafka reads it, and its next position.

    It goes back with each batch that ends before the position, which a broker sends one
    of at most; so its records and its position are cut off at what was asked for.
    """
    records = PartitionRecords(
        TopicPartition("topic", 3),
        MemoryRecords(data),
        aborted,
        asked_offset,
        None,
        None,
        True,
        READ_COMMITTED,
    )
    rows = [
        (record.offset, record.timestamp, record.key, record.value, list(record.headers))
        for record in records
        if record.offset >= asked_offset
    ]
    return rows, max(records.next_fetch_offset, asked_offset)


def offsets_of(parsed: Parsed) -> list[int]:
    return [row[0] for row in rows_of(parsed)]


# A log: batches of plain, committed and aborted producers, with gaps from compaction.

small_bytes = st.binary(max_size=20)
texts = st.text(st.characters(codec="utf-8"), max_size=8)
wide_rows = st.builds(
    Row,
    key=st.none() | small_bytes,
    value=st.none() | small_bytes | st.binary(min_size=200, max_size=400),
    headers=st.lists(st.tuples(texts, st.none() | small_bytes), max_size=4),
    timestamp=st.integers(0, 2**42),
)


@dataclass(frozen=True)
class Log:
    data: bytes
    aborted: list[tuple[int, int]]
    end: int


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Return wire batches in which up to three transactions interleave."""
    data = b""
    offset = draw(st.integers(0, 2**40))
    open_since: dict[int, int] = {}
    aborted = []
    for _ in range(draw(st.integers(0, 6))):
        offset += draw(st.integers(0, 3))
        producer_id = draw(st.sampled_from([-1, 7, 8, 9]))
        if producer_id in open_since and draw(st.booleans()):
            kind = draw(st.sampled_from([ABORT, COMMIT]))
            first_offset = open_since.pop(producer_id)
            if kind == ABORT:
                aborted.append((producer_id, first_offset))
            data += marker(kind, base_offset=offset, producer_id=producer_id)
            offset += 1
            continue
        rows = [
            Row(key=row.key, value=row.value, headers=row.headers, timestamp=row.timestamp, delta=d)
            for row, d in zip(
                draw(st.lists(wide_rows, min_size=1, max_size=6)),
                sorted(draw(st.sets(st.integers(0, 9), min_size=6, max_size=6))),
                strict=False,
            )
        ]
        if producer_id >= 0:
            open_since.setdefault(producer_id, offset)
        data += wire_batch(
            rows,
            base_offset=offset,
            codec=draw(st.sampled_from(CODECS)),
            flags=(TRANSACTIONAL if producer_id >= 0 else 0)
            | draw(st.sampled_from([0, LOG_APPEND_TIME])),
            producer_id=producer_id,
            last_delta=10,
        )
        offset += 11
    return Log(data, aborted, offset)


@settings(deadline=None, max_examples=200)
@given(logs(), st.data())
def test_records_are_the_same_as_aiokafka_reads_them(log: Log, data: st.DataObject) -> None:
    asked_offset = data.draw(st.integers(max(log.end - 40, 0), log.end))

    parsed = parse(log.data, aborted=log.aborted, asked_offset=asked_offset)

    expected, next_offset = oracle_rows(log.data, log.aborted, asked_offset)
    assert parsed.error is None
    assert rows_of(parsed) == expected
    assert parsed.num_records == len(expected)
    assert parsed.next_offset == next_offset


@settings(deadline=None, max_examples=50)
@given(logs(), st.integers(1, 2000))
def test_a_log_read_in_bounded_calls_is_the_same_log(log: Log, max_bytes: int) -> None:
    whole = parse(log.data, aborted=log.aborted)
    rows: list[tuple[Any, ...]] = []
    position = 0
    for _ in range(30):
        parsed = parse(log.data, aborted=log.aborted, asked_offset=position, max_bytes=max_bytes)
        rows += rows_of(parsed)
        assert sum(lane.num_bytes for lane in parsed.lanes) <= max_bytes
        position = parsed.next_offset
        if not parsed.needed_bytes:
            break
        max_bytes = max(max_bytes, parsed.needed_bytes)

    assert rows == rows_of(whole)
    assert position == whole.next_offset


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_of_a_real_producer_is_read(codec: int) -> None:
    rows = [Row(key=b"%d" % i, value=b"value %d " % i * 50) for i in range(2000)]
    data = wire_batch(rows, codec=codec) + wire_batch(rows, base_offset=2000, codec=codec)

    parsed = parse(data)

    assert rows_of(parsed) == oracle_rows(data, (), 0)[0]
    assert parsed.num_records == 4000
    assert wire.skim(data, 0, len(data)) == (4000, codec != 0)


# Lanes.


def values_by_lane(
    rule: LaneRule, rows: Sequence[Row], lane_count: int = 3
) -> dict[int, list[Any]]:
    parsed = parse(wire_batch(rows), rule=rule, lane_count=lane_count)
    assert sum(lane.num_records for lane in parsed.lanes) == parsed.num_records == len(rows)
    return {lane.lane: lane.columns["value"].to_pylist() for lane in parsed.lanes}


def test_a_constant_rule_puts_every_record_into_one_lane() -> None:
    rows = [Row(value=b"a"), Row(value=b"b")]
    assert values_by_lane(LaneRule.constant(2), rows) == {2: [b"a", b"b"]}


def test_the_last_header_of_a_name_decides_the_lane() -> None:
    rule = LaneRule.by_header(b"lane", {b"fast": 0, b"slow": 2}, 1)
    rows = [
        Row(value=b"a", headers=[("lane", b"fast")]),
        Row(value=b"b", headers=[("lane", b"fast"), ("x", None), ("lane", b"slow")]),
        Row(value=b"c", headers=[("lane", b"fast"), ("lane", None)]),
        Row(value=b"d", headers=[("lanes", b"fast"), ("lan", b"slow")]),
        Row(value=b"e", headers=[("lane", b"faster")]),
        Row(value=b"f"),
        Row(value=b"g", headers=[("lane", b"")]),
    ]
    assert values_by_lane(rule, rows) == {
        0: [b"a"],
        1: [b"c", b"d", b"e", b"f", b"g"],
        2: [b"b"],
    }


def test_the_longest_key_prefix_decides_the_lane() -> None:
    rule = LaneRule.by_key_prefix({b"a": 0, b"abc": 2, b"ab": 0}, 1)
    rows = [
        Row(key=b"abcd", value=b"a"),
        Row(key=b"abd", value=b"b"),
        Row(key=b"b", value=b"c"),
        Row(key=None, value=b"d"),
        Row(key=b"", value=b"e"),
    ]
    assert values_by_lane(rule, rows) == {0: [b"b"], 1: [b"c", b"d", b"e"], 2: [b"a"]}


def test_each_lane_says_what_it_holds() -> None:
    rule = LaneRule.by_key_prefix({b"x": 1}, 0)
    rows = [
        Row(key=b"a", timestamp=50),
        Row(key=b"x", timestamp=40, value=None),
        Row(key=b"x", timestamp=30),
        Row(key=b"a", timestamp=60),
    ]

    first, second = parse(wire_batch(rows, base_offset=10), rule=rule, lane_count=2).lanes

    assert (first.lane, first.num_records, first.first_offset, first.last_offset) == (0, 2, 10, 13)
    assert (second.lane, second.first_offset, second.last_offset) == (1, 11, 12)
    assert (first.first_timestamp, second.first_timestamp) == (50, 30)
    buffers = [b for column in second.columns.columns for b in column.buffers() if b is not None]
    assert second.num_bytes == sum(buffer.size for buffer in buffers)
    assert second.columns.schema.field("key").nullable
    assert not second.columns.schema.field("headers").nullable


def test_null_bitmaps_exist_only_where_a_null_is() -> None:
    columns = parse(wire_batch([Row(value=None), Row()])).lanes[0].columns
    assert columns["key"].buffers()[0] is None
    assert columns["value"].null_count == 1


def test_a_rule_that_names_a_lane_beyond_the_count_is_refused() -> None:
    with pytest.raises(ValueError, match="lane 3 of 3"):
        parse(wire_batch(), rule=LaneRule.constant(3), lane_count=3)
    with pytest.raises(ValueError, match="numbered"):
        LaneRule.constant(-1)


# Positions.


def test_a_batch_that_begins_before_the_position_gives_its_later_records() -> None:
    data = wire_batch([Row()] * 10, base_offset=100)
    parsed = parse(data, asked_offset=104)
    assert offsets_of(parsed) == [104, 105, 106, 107, 108, 109]
    assert parsed.next_offset == 110


def test_a_batch_before_the_position_is_skipped() -> None:
    data = wire_batch([Row()] * 3, base_offset=5) + wire_batch([Row()], base_offset=20)
    parsed = parse(data, asked_offset=20)
    assert offsets_of(parsed) == [20]
    assert parse(data, asked_offset=50).next_offset == 50


@pytest.mark.parametrize("missing", [1, 40, 61, 70])
def test_a_partial_last_batch_is_left_for_the_next_fetch(missing: int) -> None:
    data = wire_batch([Row()] * 2) + wire_batch([Row()] * 2, base_offset=2)
    cut = data[:-missing]
    assert offsets_of(parse(cut)) == [0, 1]
    assert parse(cut).next_offset == 2
    assert parse(cut).error is None
    assert wire.skim(cut, 0, len(cut)) == (2, False)


def test_a_partial_first_batch_moves_nothing() -> None:
    cut = wire_batch(base_offset=7)[:-1]
    parsed = parse(cut, asked_offset=7)
    assert (parsed.next_offset, parsed.num_records, parsed.error) == (7, 0, None)
    assert wire.skim(cut, 0, len(cut)) == (-1, False)


def test_gaps_of_compaction_are_stepped_over() -> None:
    rows = [Row(delta=2), Row(delta=5)]
    data = wire_batch(rows, base_offset=10, last_delta=9) + wire_batch(base_offset=30)
    parsed = parse(data, asked_offset=10)
    assert offsets_of(parsed) == [12, 15, 30]
    assert parse(data[:-1], asked_offset=10).next_offset == 20


def test_a_batch_emptied_by_compaction_moves_the_position() -> None:
    empty = wire_batch([], base_offset=10, last_delta=4)
    parsed = parse(empty, asked_offset=10)
    assert (parsed.next_offset, parsed.lanes, parsed.error) == (15, [], None)


def test_log_append_time_stamps_every_record() -> None:
    rows = [Row(timestamp=5), Row(timestamp=6)]
    parsed = parse(wire_batch(rows, flags=LOG_APPEND_TIME, max_timestamp=99))
    assert [row[1] for row in rows_of(parsed)] == [99, 99]


def test_aborted_transactions_and_markers_are_skipped_and_stepped_over() -> None:
    data = (
        wire_batch([Row()] * 2, base_offset=0, flags=TRANSACTIONAL, producer_id=7)
        + wire_batch([Row()], base_offset=2, flags=TRANSACTIONAL, producer_id=8)
        + wire_batch([Row()], base_offset=3, producer_id=7)
        + marker(ABORT, base_offset=4, producer_id=7)
        + wire_batch([Row()], base_offset=5, flags=TRANSACTIONAL, producer_id=7)
        + marker(COMMIT, base_offset=6, producer_id=8)
    )
    parsed = parse(data, aborted=[(7, 0)])
    assert offsets_of(parsed) == [2, 3, 5]
    assert parsed.next_offset == 7


def test_an_abort_marker_before_the_position_still_ends_its_transaction() -> None:
    data = (
        wire_batch(base_offset=0, flags=TRANSACTIONAL, producer_id=7)
        + marker(ABORT, base_offset=1, producer_id=7)
        + wire_batch(base_offset=2, flags=TRANSACTIONAL, producer_id=7)
    )
    assert offsets_of(parse(data, aborted=[(7, 0)], asked_offset=2)) == [2]


# Bytes that cannot be read.


def assert_stops_at(data: bytes, offset: int, reason: str, **options: Any) -> WireError:
    parsed = parse(wire_batch() + data, **options)
    error = parsed.error
    assert error is not None, parsed
    assert reason in str(error)
    assert (error.topic, error.partition, error.offset) == ("topic", 3, offset)
    assert offsets_of(parsed) == [0]
    assert parsed.next_offset == 1
    return error


@pytest.mark.parametrize("magic", [0, 1])
def test_old_message_formats_are_named(magic: int) -> None:
    batch = bytearray(wire_batch(base_offset=1))
    batch[AT_MAGIC] = magic
    assert_stops_at(bytes(batch), 1, f"message format v{magic}")


def test_a_flipped_bit_stops_at_the_batch_and_keeps_what_came_before() -> None:
    batch = bytearray(wire_batch([Row()] * 3, base_offset=1))
    batch[-1] ^= 1
    assert_stops_at(bytes(batch), 1, "checksum")


def test_an_unknown_codec_is_named() -> None:
    assert_stops_at(wire_batch(base_offset=1, flags=6), 1, "codec 6")


@pytest.mark.parametrize("length", [-1, 0, 48])
def test_an_impossible_batch_length_is_an_error(length: int) -> None:
    batch = bytearray(wire_batch(base_offset=1))
    patch(batch, ">i", AT_LENGTH, length)
    with_length = parse(wire_batch() + bytes(batch))
    assert with_length.error is not None
    assert "length" in str(with_length.error)
    assert with_length.next_offset == 1


@pytest.mark.parametrize("count", [-1, 0, 1, 3, 2**31 - 1])
def test_a_record_count_that_does_not_match_is_an_error(count: int) -> None:
    batch = bytearray(wire_batch([Row()] * 2, base_offset=1))
    patch(batch, ">i", AT_RECORD_COUNT, count)
    renew_crc(batch)
    assert parse(bytes(batch)).error is not None
    assert parse(bytes(batch)).num_records == 0


def test_offsets_that_overflow_are_an_error() -> None:
    batch = bytearray(wire_batch(base_offset=2**63 - 1))
    assert "offsets" in str(parse(bytes(batch)).error)
    patch(batch, ">q", 0, 0)
    patch(batch, ">i", AT_LAST_OFFSET_DELTA, -1)
    renew_crc(batch)
    assert "offsets" in str(parse(bytes(batch)).error)


def test_records_out_of_order_are_an_error() -> None:
    batch = wire_batch([Row(delta=3), Row(delta=2)], base_offset=1, last_delta=5)
    assert_stops_at(batch, 1, "ascend")


def record(*fields: bytes) -> bytes:
    """Return a record of raw fields; its own length is right."""
    body = b"\x00" + b"".join(fields)
    return bytes([2 * len(body)]) + body


@pytest.mark.parametrize(
    "broken",
    [
        record(b"\x00", b"\x00", b"\x01", b"\x01", b"\x01"),  # -1 headers
        record(b"\x00", b"\x00", b"\x03", b"\x01", b"\x00"),  # a key of -2 bytes
        record(b"\x00", b"\x00", b"\x01", b"\x08", b"\x00"),  # a value beyond the end
        record(b"\x00", b"\x00", b"\x01", b"\x01", b"\x02", b"\x01\x00"),  # a null name
        record(b"\x80" * 10 + b"\x00", b"\x00", b"\x01", b"\x01", b"\x00"),  # varlong too long
        record(b"\x80" * 9 + b"\x02", b"\x00", b"\x01", b"\x01", b"\x00"),  # and too large
        record(b"\x00", b"\x80" * 5 + b"\x00", b"\x01", b"\x01", b"\x00"),  # varint too long
        record(b"\x00", b"\xff\xff\xff\xff\x7f", b"\x01", b"\x01", b"\x00"),  # and too large
        record(b"\x00", b"\x00", b"\x01", b"\x01", b"\x00", b"\x00"),  # a byte left over
        b"\x7e" + record(b"\x00", b"\x00", b"\x01", b"\x01", b"\x00"),  # longer than the batch
    ],
)
def test_a_malformed_record_fails_its_whole_batch(broken: bytes) -> None:
    good = wire_batch([Row()], base_offset=1)
    batch = bytearray(good + broken)
    patch(batch, ">i", AT_LENGTH, len(batch) - AT_LENGTH - 4)
    patch(batch, ">i", AT_RECORD_COUNT, 2)
    renew_crc(batch)
    assert_stops_at(bytes(batch), 1, "one record")


@pytest.mark.parametrize("check_crc", [True, False])
@pytest.mark.parametrize("codec", [0, SNAPPY])
def test_no_flipped_byte_does_more_than_an_error(check_crc: bool, codec: int) -> None:
    rows = [Row(headers=[("lane", b"fast"), ("x", None)]), Row(key=None), Row(value=None)]
    data = wire_batch(rows, codec=codec) + marker(ABORT, base_offset=3, producer_id=7)
    expected = rows_of(parse(data))
    rule = LaneRule.by_header(b"lane", {b"fast": 0}, 0)
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            flipped = bytearray(data)
            flipped[at] ^= mask
            parsed = parse(bytes(flipped), rule=rule, check_crc=check_crc)
            if at >= AT_CRC and check_crc:
                assert parsed.error is not None or rows_of(parsed) == expected
            assert parsed.next_offset >= 0
            rows_of(parsed)


def test_no_truncation_does_more_than_wait_for_more() -> None:
    data = wire_batch([Row(headers=[("a", b"b")])] * 3) + wire_batch(base_offset=3)
    for size in range(len(data)):
        parsed = parse(data[:size])
        assert parsed.error is None
        assert parsed.next_offset in (0, 3)


def test_a_section_outside_the_frame_is_refused() -> None:
    outside = PartitionSection(topic="t", partition=0, start=5, size=10)
    with pytest.raises(ValueError, match="no bytes"):
        parse(b"0123456789", outside)
    with pytest.raises(ValueError, match="no bytes"):
        wire.skim(b"0123456789", 0, 11)


# Bounds.


def test_reading_stops_before_the_bound_and_says_what_the_next_batch_needs() -> None:
    data = b"".join(wire_batch([Row(value=b"x" * 1000)], base_offset=i) for i in range(5))
    parsed = parse(data, max_bytes=2500)
    assert offsets_of(parsed) == [0, 1]
    assert parsed.next_offset == 2
    assert 1000 < parsed.needed_bytes < 1100
    assert offsets_of(parse(data, asked_offset=2, max_bytes=parsed.needed_bytes)) == [2]


def test_a_first_batch_over_the_bound_is_not_read_either() -> None:
    parsed = parse(wire_batch([Row(value=b"x" * 1000)], codec=ZSTD), max_bytes=500)
    assert parsed.num_records == 0
    assert parsed.next_offset == 0
    assert parsed.error is None
    assert parsed.needed_bytes > 1000


def test_a_batch_over_a_quarter_of_memory_is_an_error_with_its_size() -> None:
    batch = wire_batch([Row(value=b"x" * 5000)], base_offset=1)
    error = assert_stops_at(batch, 1, "quarter of memory", batch_bytes_max=4000)
    assert 5000 < error.needed_bytes < 5100


def test_a_decompression_bomb_is_refused_with_its_size_and_never_held() -> None:
    size = 270 * 10**6
    compressor = cramjam.zstd.Compressor(level=3)
    for _ in range(270):
        compressor.compress(bytes(10**6))
    packed = bytes(compressor.finish())
    assert len(packed) < 30_000
    batch = bytearray(wire_batch(base_offset=1, flags=ZSTD)[:AT_RECORDS] + packed)
    patch(batch, ">i", AT_LENGTH, len(batch) - AT_LENGTH - 4)
    renew_crc(batch)
    resident_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()

    error = assert_stops_at(bytes(batch), 1, f"unpacks to {size} bytes")

    assert error.needed_bytes == size
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 40 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident_kib < 40 * 1024


# Compression.


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_corrupt_packed_bytes_are_wire_errors(codec: int) -> None:
    packed = wire_batch([Row(value=b"value " * 100)] * 10, codec=codec)[AT_RECORDS:]
    generator = random.Random(codec)
    for _ in range(300):
        broken = bytearray(packed)
        broken[generator.randrange(len(broken))] ^= 1 << generator.randrange(8)
        del broken[generator.randrange(len(broken)) :]
        try:
            decompress(codec, memoryview(broken), MIB)
        except WireError:
            continue


@pytest.mark.parametrize(("codec", "library"), [(GZIP, "gzip"), (LZ4, "lz4"), (ZSTD, "zstd")])
def test_several_frames_are_one_stream(codec: int, library: str) -> None:
    compress = getattr(cramjam, library).compress
    packed = bytes(compress(b"one ")) + bytes(compress(b"two"))
    assert bytes(decompress(codec, memoryview(packed), 7)) == b"one two"
    with pytest.raises(TooLarge) as caught:
        decompress(codec, memoryview(packed), 6)
    assert caught.value.size == 7


def test_snappy_is_read_raw_and_in_xerial_blocks() -> None:
    raw = bytes(cramjam.snappy.compress_raw(b"some bytes"))
    framed = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
    for _ in range(2):
        framed += struct.pack(">i", len(raw)) + raw
    assert decompress(SNAPPY, memoryview(raw), 10) == b"some bytes"
    assert decompress(SNAPPY, memoryview(framed), 20) == b"some bytessome bytes"
    with pytest.raises(TooLarge):
        decompress(SNAPPY, memoryview(framed), 19)
    with pytest.raises(WireError):
        decompress(SNAPPY, memoryview(framed[:-1]), 20)


def test_a_snappy_block_that_lies_about_its_size_is_corrupt() -> None:
    lie = b"\xff\xff\xff\xff\x0f" + b"\x00a"
    with pytest.raises(WireError, match="cannot unpack to 4294967295"):
        decompress(SNAPPY, memoryview(lie), 100)


def test_an_unknown_codec_cannot_be_decompressed() -> None:
    with pytest.raises(WireError, match="codec 5"):
        decompress(5, memoryview(b""), 100)


# Fetch responses.


def test_a_fetch_response_is_split_into_partitions() -> None:
    data = wire_batch([Row()] * 3)
    frame = frame_of(data, [(7, 100), (8, 200)])

    throttle_ms, error_code, [section] = wire.read_fetch_response(frame)

    assert (throttle_ms, error_code) == (5, 0)
    assert (section.topic, section.partition, section.error_code) == ("topic", 3, 0)
    assert (section.high_watermark, section.last_stable_offset) == (1000, 999)
    assert section.log_start_offset == 7
    assert section.aborted == [(7, 100), (8, 200)]
    assert frame[section.start : section.start + section.size] == data
    assert parse(frame, section).num_records == 3


def test_null_arrays_of_a_fetch_response_are_empty() -> None:
    nulls = struct.pack(">ihiqqqiii", 3, 0, 0, 0, 0, 0, -1, -1, -1)
    frame = struct.pack(">ihii", 5, 0, 0, 1) + b"\x00\x01t" + struct.pack(">i", 1)
    frame += nulls[:4] + nulls[4:6] + nulls[10:]
    _, _, [section] = wire.read_fetch_response(frame)
    assert (section.aborted, section.size) == ([], 0)


def test_every_cut_of_a_fetch_response_is_a_wire_error() -> None:
    frame = frame_of(wire_batch(), [(7, 100)])
    for size in range(len(frame)):
        with pytest.raises(WireError, match="cut or malformed"):
            wire.read_fetch_response(frame[:size])


def test_negative_lengths_of_a_fetch_response_are_wire_errors() -> None:
    frame = frame_of(wire_batch(), [(7, 100)])
    with pytest.raises(WireError):
        wire.read_fetch_response(frame[:10] + b"\xff\xff\xff\xff" + frame[14:])
    with pytest.raises(WireError):
        wire.read_fetch_response(frame[:14] + b"\xff\xff" + frame[16:])


# Headers, lines and checksums.

header_pairs = st.lists(st.tuples(small_bytes, st.none() | small_bytes), max_size=5)


@given(st.lists(header_pairs, max_size=8), small_bytes, st.integers(0, 3))
def test_headers_decode_to_what_was_encoded(
    rows: list[list[tuple[bytes, bytes | None]]], name: bytes, skipped: int
) -> None:
    encoded = pa.array([wire.encode_headers(row) for row in rows], pa.binary())[skipped:]
    rows = rows[skipped:]

    decoded = wire.decode_headers(encoded)
    values = wire.header_values(encoded, name)

    decoded.validate(full=True)
    assert decoded.to_pylist() == [
        [{"name": key.decode("utf-8", "replace"), "value": value} for key, value in row]
        for row in rows
    ]
    assert values.to_pylist() == [dict(row).get(name) for row in rows]


@given(header_pairs, header_pairs | st.lists(st.just((b"x", b"")), min_size=60, max_size=70))
def test_headers_are_appended_byte_for_byte(
    first: list[tuple[bytes, bytes | None]], more: list[tuple[bytes, bytes | None]]
) -> None:
    appended = wire.append_headers(wire.encode_headers(first), more)

    assert appended == wire.encode_headers([*first, *more])


def test_headers_without_a_count_are_a_wire_error() -> None:
    with pytest.raises(WireError):
        wire.append_headers(b"", [(b"x", b"1")])


@pytest.mark.parametrize("headers", [b"", b"\x01", b"\x02", b"\x02\x01\x01", b"\x00\x00"])
def test_malformed_headers_name_their_row(headers: bytes) -> None:
    column = pa.array([b"\x00", headers], pa.binary())
    with pytest.raises(WireError, match="row 1"):
        wire.decode_headers(column)
    with pytest.raises(WireError, match="row 1"):
        wire.header_values(column, b"a")


def test_null_headers_are_no_headers() -> None:
    column = pa.array([None, b"\x00"], pa.binary())
    assert wire.decode_headers(column).to_pylist() == [[], []]
    assert wire.header_values(column, b"a").to_pylist() == [None, None]


def test_other_columns_are_refused() -> None:
    with pytest.raises(TypeError, match="BinaryArray"):
        wire.join_lines([pa.array(["text"])])


line_values = st.none() | st.binary(max_size=6) | st.sampled_from([b" \t", b"\n", b"a\nb", b"\r"])


@given(st.lists(st.lists(line_values, max_size=12), max_size=3), st.integers(0, 3))
def test_line_i_is_row_i(columns: list[list[bytes | None]], skipped: int) -> None:
    arrays = [pa.array(column, pa.binary())[skipped:] for column in columns]
    values = [value for column in columns for value in column[skipped:]]
    lines = [value if value and not value.isspace() else b"{}" for value in values]

    buffer, one_each = wire.join_lines(arrays)

    assert buffer.to_pybytes() == b"".join(line + b"\n" for line in lines)
    assert one_each == all(b"\n" not in line and b"\r" not in line for line in lines)


@given(st.binary(max_size=40), st.integers(0, 20_000), st.integers(0, 7))
def test_checksums_agree_with_aiokafka(pattern: bytes, size: int, skipped: int) -> None:
    data = ((pattern + b"\x01") * size)[:size]
    view = memoryview(data)[skipped:]
    assert wire.crc32c(view) == wire.crc32c_portable(view) == calc_crc32c(bytes(view))


def test_the_checksum_is_the_one_of_the_standard() -> None:
    """RFC 3720, B.4, and the check value of the catalogue of CRCs."""
    assert wire.crc32c(b"123456789") == 0xE3069283
    assert wire.crc32c(bytes(32)) == 0x8A9136AA
