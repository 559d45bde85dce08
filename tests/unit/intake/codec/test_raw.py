"""`codec="raw"`: few values take another way than many, and come out the same."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard.errors import ConfigError
from flowguard.intake.codec import make_codec
from flowguard.intake.codec.raw import FEW_VALUES, RawCodec
from flowguard.intake.schema import Schema

binary = st.one_of(st.none(), st.binary(max_size=20))
arrays = st.lists(st.lists(binary, max_size=FEW_VALUES), max_size=4)


def values_of(arrays: Sequence[Sequence[bytes | None]]) -> list[bytes | None]:
    return [value for array in arrays for value in array]


@settings(deadline=None)  # the first value imports what all need
@given(arrays=arrays)
def test_values_are_what_was_read(arrays: list[list[bytes | None]]) -> None:
    columns = [pa.array([b"before", *array], pa.binary()).slice(1) for array in arrays]

    frame = RawCodec().decode(columns).frame

    assert frame.schema == {"value": pl.Binary}
    assert frame["value"].to_list() == values_of(arrays)


@settings(deadline=None)
@given(arrays=arrays)
def test_what_is_written_is_what_the_frame_has(arrays: list[list[bytes | None]]) -> None:
    values = values_of(arrays)
    frames = (
        pl.DataFrame({"value": pl.Series(values, dtype=pl.Binary)}),
        pa.table({"value": pa.array(values, pa.binary())}),
    )
    for frame in frames:
        encoded = RawCodec().encode(frame)

        assert encoded.type == pa.binary()
        assert encoded.to_pylist() == values


@settings(deadline=None)
@given(values=st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=2 * FEW_VALUES))
def test_text_is_written_in_utf_8(values: list[str | None]) -> None:
    encoded = RawCodec().encode(pl.DataFrame({"value": pl.Series(values, dtype=pl.String)}))

    assert encoded.to_pylist() == [None if value is None else value.encode() for value in values]


@pytest.mark.parametrize("frame", [{"value": [1]}, {"other": [b"x"]}, {"value": [b"x"], "b": [1]}])
def test_raw_writes_nothing_but_one_binary_column(frame: dict[str, list[object]]) -> None:
    with pytest.raises(ValueError, match='codec "raw" writes'):
        RawCodec().encode(pl.DataFrame(frame))


def test_raw_with_columns_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="leave columns out"):
        make_codec("raw", Schema.parse({"a": "int64"}))
