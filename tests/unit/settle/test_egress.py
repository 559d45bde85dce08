"""What a frame becomes on its way out."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa
import pytest
from aiokafka.partitioner import DefaultPartitioner, murmur2

from flowguard._native.murmur2 import partitions_of
from flowguard.errors import ConfigError
from flowguard.settle.egress import Outgoing, make_outgoing, split_frame


def outgoing(frame: pl.DataFrame, *, key_by: str | None = None, partitions: int = 8) -> Outgoing:
    value, keys = split_frame(frame, key_by)
    return make_outgoing(
        frame,
        keys=keys,
        values=pa.array([b"{}"] * len(value), pa.binary()),
        partition_count=partitions,
        keyless_partition=5,
        timestamp_ms=1_700_000_000_000,
        headers=[("fg-lane", b"realtime")],
    )


@pytest.mark.parametrize("count", [1, 2, 3, 12, 1000])
def test_keys_go_to_the_partition_that_java_and_aiokafka_choose(count: int):
    rng = random.Random(count)
    keys = [rng.randbytes(rng.randrange(0, 40)) for _ in range(2000)]
    everywhere = list(range(count))

    chosen = partitions_of(pa.array(keys, pa.binary()), count).to_pylist()

    assert chosen == [DefaultPartitioner()(key, everywhere, everywhere) for key in keys]


def test_the_hash_is_right_for_every_length_of_its_tail():
    keys = [bytes([0xFF - i] * i) for i in range(33)]

    chosen = partitions_of(pa.array(keys, pa.binary()), 2**31 - 1).to_pylist()

    assert chosen == [(murmur2(key) & 0x7FFFFFFF) % (2**31 - 1) for key in keys]


def test_records_without_a_key_go_where_it_is_their_turn():
    keys = pa.array([b"a", None, b"b"], pa.binary())

    assert partitions_of(keys, 8, 5).to_pylist()[1] == 5


def test_keys_in_a_slice_of_an_array_are_those_of_the_slice():
    keys = pa.array([b"x", b"a", None, b"c", b"y"], pa.binary())

    assert partitions_of(keys.slice(1, 3), 8, 5).to_pylist() == [
        *partitions_of(pa.array([b"a"]), 8, 5).to_pylist(),
        5,
        *partitions_of(pa.array([b"c"]), 8, 5).to_pylist(),
    ]


def test_the_key_is_the_text_of_the_column():
    frame = pl.DataFrame({"id": [1, None, 30], "x": [1.0, 2.0, 3.0]})

    value, keys = split_frame(frame, "id")

    assert keys.to_pylist() == [b"1", None, b"30"]
    assert value.columns == ["id", "x"]


def test_bytes_are_keys_as_they_are():
    frame = pl.DataFrame({"id": [b"\xff\x00", None]}, schema={"id": pl.Binary})

    assert split_frame(frame, "id")[1].to_pylist() == [b"\xff\x00", None]


def test_the_column_key_beats_key_by_and_is_no_part_of_the_value():
    frame = pl.DataFrame({"id": ["a"], "_key": ["k"], "_partition": [3], "x": [1]})

    value, keys = split_frame(frame, "id")

    assert keys.to_pylist() == [b"k"]
    assert value.columns == ["id", "x"]


def test_without_key_by_there_is_no_key():
    assert split_frame(pl.DataFrame({"x": [1, 2]}), None)[1].to_pylist() == [None, None]


def test_an_unknown_key_column_names_the_nearest_one():
    frame = pl.DataFrame({"account": ["a"], "amount": [1]})

    with pytest.raises(ConfigError, match=r"'acount' is no column .* did you mean 'account'"):
        split_frame(frame, "acount")
    with pytest.raises(ConfigError, match="it has account, amount"):
        split_frame(frame, "zzz")


def test_partitions_are_overridden_row_by_row():
    frame = pl.DataFrame({"_partition": [7, None, 0], "_key": ["a", "a", None]})

    out = outgoing(frame)

    assert out.partitions.to_pylist() == [7, *partitions_of(pa.array([b"a"]), 8).to_pylist(), 0]


def test_timestamps_are_overridden_row_by_row():
    at = datetime(2026, 1, 2, tzinfo=UTC)
    numbers = outgoing(pl.DataFrame({"_timestamp": [5, None]}))
    times = outgoing(pl.DataFrame({"_timestamp": [at, None]}))

    assert numbers.timestamps.to_pylist() == [5, 1_700_000_000_000]
    assert times.timestamps.to_pylist() == [int(at.timestamp() * 1000), 1_700_000_000_000]


def test_headers_are_overridden_row_by_row():
    frame = pl.DataFrame({"_headers": [{"trace": "1", "n": None}, {"trace": None, "n": 2}]})

    out = outgoing(frame)

    assert out.headers_of(0) == [("trace", b"1")]
    assert out.headers_of(1) == [("n", b"2")]


def test_headers_may_be_a_list_of_names_and_values():
    frame = pl.DataFrame(
        {"_headers": [[{"name": "a", "value": b"1"}, {"name": "a", "value": None}]]}
    )

    assert outgoing(frame).headers_of(0) == [("a", b"1"), ("a", None)]


def test_without_overrides_every_record_has_the_common_headers_and_timestamp():
    out = outgoing(pl.DataFrame({"x": [1, 2]}))

    assert out.headers_of(1) == [("fg-lane", b"realtime")]
    assert out.timestamps == 1_700_000_000_000
    assert out.partitions.to_pylist() == [5, 5]


def test_a_row_whose_headers_are_null_has_the_common_ones():
    frame = pl.DataFrame(
        {"_headers": [None, [{"name": "a", "value": b"1"}]]},
        schema={"_headers": pl.List(pl.Struct({"name": pl.String, "value": pl.Binary}))},
    )

    assert outgoing(frame).headers_of(0) == [("fg-lane", b"realtime")]


@pytest.mark.parametrize("partition", [8, -1])
def test_a_partition_that_the_topic_does_not_have_is_refused_before_anything_is_sent(
    partition: int,
):
    with pytest.raises(ConfigError, match=f"_partition.*{partition}"):
        outgoing(pl.DataFrame({"x": [1, 2], "_partition": [0, partition]}))


def test_the_size_is_what_is_sent_without_framing():
    out = outgoing(pl.DataFrame({"_key": ["abc"]}))

    assert out.num_bytes >= len(b"abc") + len(b"{}") + 8
