"""Choosing a codec, and what a codec of the user's own may do."""

from __future__ import annotations

from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from flowguard.errors import ConfigError
from flowguard.intake.codec import Codec, make_codec
from flowguard.intake.schema import Schema


@pytest.mark.parametrize("name", ["json", "msgpack", "arrow", "raw"])
def test_every_named_codec_takes_no_values_and_no_rows(name: str) -> None:
    codec = make_codec(name, None)
    assert isinstance(codec, Codec)
    assert codec.name == name
    assert codec.decode([]).frame.height == 0
    assert codec.decode([pa.array([], pa.binary())]).rejected == []


def test_an_unknown_codec_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'json'"):
        make_codec("jason", None)


@pytest.mark.parametrize("name", ["avro", "protobuf"])
def test_a_codec_with_schemas_elsewhere_needs_a_registry(name: str) -> None:
    with pytest.raises(ConfigError, match="needs registry="):
        make_codec(name, None)


def test_a_registry_that_nobody_would_read_is_refused() -> None:
    with pytest.raises(ConfigError, match="reads no schema registry"):
        make_codec("json", None, registry=object())  # type: ignore[arg-type]


def test_a_codec_with_a_registry_may_wait_and_no_other() -> None:
    assert make_codec("avro", None, registry=object()).waits  # type: ignore[arg-type]
    assert not any(make_codec(name).waits for name in ("json", "msgpack", "arrow", "raw"))


@pytest.mark.parametrize("name", ["json", "msgpack", "arrow"])
def test_a_projected_codec_reads_the_named_columns_only(name: str) -> None:
    codec = make_codec(name, Schema.parse({"a": "int64", "b": "!string", "c": "int8"}))
    values = make_codec(name).encode(pl.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1, 999]}))
    decoded = codec.project(["b"]).decode([values])
    assert decoded.frame.to_dict(as_series=False) == {"b": ["x"]}
    assert [row for row, _ in decoded.rejected] == [1]


def test_an_object_that_is_no_codec_is_refused() -> None:
    with pytest.raises(ConfigError, match="decode"):
        make_codec(object(), None)


class Lengths:
    """A codec whose column is how long each value is; it cannot take b"bad"."""

    def __init__(self) -> None:
        self.calls = 0

    def decode(self, values: pa.BinaryArray) -> pa.RecordBatch:
        self.calls += 1
        listed = values.to_pylist()
        if b"bad" in listed:
            raise ValueError("bad value")
        return pa.record_batch({"length": pa.array([len(v or b"") for v in listed], pa.int64())})

    def encode(self, batch: pa.RecordBatch) -> Any:
        return [b"x" * length for length in batch["length"].to_pylist()]


def test_an_own_codec_reads_all_values_in_one_call() -> None:
    own = Lengths()
    decoded = make_codec(own, None).decode([pa.array([b"a", None], pa.binary())])
    assert decoded.frame.to_dict(as_series=False) == {"length": [1, 0]}
    assert own.calls == 1


def test_an_own_codec_that_raises_loses_only_the_bad_values() -> None:
    codec = make_codec(Lengths(), Schema.parse({"length": "!int64", "other": "string"}))
    decoded = codec.decode([pa.array([b"aa", b"bad", b"a"], pa.binary())])
    assert decoded.frame.to_dict(as_series=False) == {"length": [2, 1], "other": [None, None]}
    assert [row for row, _ in decoded.rejected] == [1]
    assert "bad value" in decoded.rejected[0].reason


def test_an_own_codec_that_loses_rows_has_all_values_rejected() -> None:
    class Loses(Lengths):
        def decode(self, values: pa.BinaryArray) -> pa.RecordBatch:
            return pa.record_batch({"length": pa.array([1], pa.int64())})

    decoded = make_codec(Loses(), None).decode([pa.array([b"a", b"b", b"c"], pa.binary())])
    assert decoded.frame.height == 0
    assert [row for row, _ in decoded.rejected] == [0, 1, 2]
    assert decoded.rejected[0].reason == "1 rows came out of 3 values"


def test_an_own_codec_must_encode_one_value_a_row() -> None:
    class Short(Lengths):
        def encode(self, batch: pa.RecordBatch) -> Any:
            return []

    frame = pl.DataFrame({"length": [1, 2]})
    assert make_codec(Lengths(), None).encode(frame).to_pylist() == [b"x", b"xx"]
    with pytest.raises(ValueError, match="0 values for 2 rows"):
        make_codec(Short(), None).encode(frame)
