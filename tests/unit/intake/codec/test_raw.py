"""`codec="raw"`."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest

from flowguard.errors import ConfigError
from flowguard.intake.codec import make_codec
from flowguard.intake.schema import Schema


def test_raw_values_come_back_as_they_were_tombstones_included() -> None:
    codec = make_codec("raw", None)
    array = pa.array([b"skip", b"\xff\x00", None, b""], pa.binary())
    decoded = codec.decode([array[1:3], array[3:]])
    assert decoded.frame["value"].to_list() == [b"\xff\x00", None, b""]
    assert codec.encode(decoded.frame).to_pylist() == [b"\xff\x00", None, b""]


def test_raw_writes_text_as_utf8() -> None:
    assert make_codec("raw", None).encode(pl.DataFrame({"value": ["é"]})).to_pylist() == [
        "é".encode()
    ]


@pytest.mark.parametrize("frame", [{"value": [1]}, {"other": [b"x"]}, {"value": [b"x"], "b": [1]}])
def test_raw_writes_nothing_but_one_binary_column(frame: dict[str, list[object]]) -> None:
    with pytest.raises(ValueError, match='codec "raw" writes'):
        make_codec("raw", None).encode(pl.DataFrame(frame))


def test_raw_with_columns_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="leave columns out"):
        make_codec("raw", Schema.parse({"a": "int64"}))
