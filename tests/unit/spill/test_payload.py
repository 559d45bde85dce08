"""Records become buffers and come back, byte for byte; what is no payload is said to be none."""

from __future__ import annotations

from random import Random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowguard._native.frame import crc32c
from flowguard.spill.payload import SCHEMA, Compression, Encoder, Malformed, decode, probe_crc
from tests.builders import columns_of
from tests.spill.builders import A, records

PACKINGS: list[Compression] = ["none", "lz4", "zstd"]


def joined(parts: list[object]) -> pa.Buffer:
    return pa.py_buffer(b"".join(bytes(part) for part in parts))  # type: ignore[call-overload]


def round_trip(
    batches: list[pa.RecordBatch], packing: Compression = "none"
) -> list[pa.RecordBatch]:
    payload = joined(Encoder(packing).encode(batches))
    rows = sum(batch.num_rows for batch in batches)
    return decode(payload, batches=len(batches), records=rows)


@pytest.mark.parametrize("packing", PACKINGS)
def test_keys_values_headers_and_tombstones_come_back_as_they_were(packing: Compression) -> None:
    batches = [records(A, range(100)), records(A, range(100, 101))]

    found = round_trip(batches, packing)

    assert all(left.equals(right) for left, right in zip(found, batches, strict=True))


def test_a_slice_takes_along_only_its_own_rows() -> None:
    batch = records(A, range(10_000), size=100)

    parts = Encoder().encode([batch.slice(5_003, 10)])

    assert sum(len(memoryview(part)) for part in parts) < 10_000
    assert decode(joined(parts), batches=1, records=10)[0].equals(batch.slice(5_003, 10))


def test_buffers_of_columns_are_not_copied() -> None:
    batch = records(A, range(1000))
    values = batch.column(3).buffers()[2]

    parts = Encoder().encode([batch])

    assert values.address in [part.address for part in parts if isinstance(part, pa.Buffer)]


def test_columns_that_come_back_lie_in_the_payload() -> None:
    payload = joined(Encoder().encode([records(A, range(1000))]))

    (batch,) = decode(payload, batches=1, records=1000)

    values = batch.column(3).buffers()[2]
    assert payload.address <= values.address < payload.address + payload.size


def test_an_encoder_goes_on_after_columns_that_it_refuses() -> None:
    encoder = Encoder()
    other = pa.record_batch({"offset": pa.array([1], pa.int32())})

    with pytest.raises(ValueError, match="columns must be those of a chunk"):
        encoder.encode([records(A, [1]), other])

    payload = joined(encoder.encode([records(A, [2])]))
    assert decode(payload, batches=1, records=1)[0].equals(records(A, [2]))


def test_a_million_tiny_records_come_back() -> None:
    size = 1_000_000
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(range(size), pa.int64()),
            pa.array([0] * size, pa.int64()),
            pa.nulls(size, pa.binary()),
            pa.nulls(size, pa.binary()),
            pa.array([b""] * size, pa.binary()),
        ],
        schema=SCHEMA,
    )

    assert round_trip([batch])[0].equals(batch)


def test_a_batch_of_nothing_comes_back() -> None:
    assert round_trip([columns_of([])])[0].num_rows == 0


@pytest.mark.parametrize(
    ("batches", "rows", "why"),
    [(1, 9, "9 records"), (2, 10, "no Arrow batch"), (0, 0, "left over")],
)
def test_a_payload_that_is_not_what_its_header_says_is_malformed(
    batches: int, rows: int, why: str
) -> None:
    payload = joined(Encoder().encode([records(A, range(10))]))

    with pytest.raises(Malformed, match=why):
        decode(payload, batches=batches, records=rows)


def test_nulls_where_none_may_be_are_malformed() -> None:
    batch = records(A, range(3)).set_column(1, "timestamp", pa.array([1, None, 3], pa.int64()))

    with pytest.raises(Malformed, match="null"):
        round_trip([batch])


def test_bytes_that_were_changed_with_their_checksum_are_malformed_or_harmless() -> None:
    random = Random(1)
    whole = joined(Encoder().encode([records(A, range(50))])).to_pybytes()

    for _ in range(3_000):
        data = bytearray(whole)
        for _ in range(random.randint(1, 3)):
            data[random.randrange(len(data))] = random.choice([0, 1, 0x7F, 0x80, 0xFF])
        try:
            found = decode(pa.py_buffer(bytes(data)), batches=1, records=50)
        except Malformed:
            continue
        for batch in found:
            batch.to_pylist()


cells = st.none() | st.binary(max_size=40)


@given(
    rows=st.lists(st.tuples(cells, cells, st.integers(-(2**63), 2**63 - 1)), max_size=20),
    packing=st.sampled_from(PACKINGS),
    start=st.integers(0, 5),
)
def test_any_records_come_back(
    rows: list[tuple[bytes | None, bytes | None, int]], packing: Compression, start: int
) -> None:
    batch = columns_of(
        range(len(rows)),
        timestamps=[at for *_, at in rows],
        keys=[key for key, *_ in rows],
        values=[value for _, value, _ in rows],
    ).slice(start)

    (found,) = round_trip([batch], packing)

    assert found.equals(batch)
    found.validate(full=True)


def test_a_probe_tells_null_from_empty_and_each_field_from_the_next() -> None:
    records: list[tuple[int, bytes | None, bytes | None, bytes | None]] = [
        (1, None, b"ab", b""), (1, b"", b"ab", b""), (1, b"a", b"b", b""), (1, b"ab", b"", b""),
        (1, b"ab", None, b""), (2, None, b"ab", b""), (1, None, b"ab", b"h"),
        (1, None, None, b"ab"),
    ]  # fmt: skip

    assert len({probe_crc(*record) for record in records}) == len(records)
    assert crc32c([b"123456789"]) == 0xE3069283  # the published check value
