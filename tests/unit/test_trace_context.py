"""Which trace the output of a batch belongs to: the one of all its records, or none."""

from __future__ import annotations

import pyarrow as pa
import pytest

from flowguard._native import wire
from flowguard.trace_context import shared_traceparent

ONE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-01"


def headers(*traceparents: bytes | None) -> pa.BinaryArray:
    """Return the headers column of records with these, and others around them."""
    return pa.array(
        [
            wire.encode_headers(
                [
                    (b"a", b"1"),
                    *([(b"traceparent", each)] if each is not None else []),
                    (b"z", None),
                ]
            )
            for each in traceparents
        ],
        pa.binary(),
    )


def test_what_all_records_have_is_shared():
    assert shared_traceparent([headers(ONE)]) == ONE
    assert shared_traceparent([headers(ONE, ONE), headers(ONE)]) == ONE


@pytest.mark.parametrize(
    "columns",
    [
        [headers(ONE, OTHER)],
        [headers(ONE, OTHER, ONE)],
        [headers(ONE), headers(OTHER)],
        [headers(ONE, None)],
        [headers(ONE, None, ONE)],
        [headers(None, ONE)],
        [headers(None)],
        [headers(ONE), pa.array([b"\0"], pa.binary())],
        [pa.array([b"\0", b"\0"], pa.binary())],
        [headers()],
        [],
    ],
)
def test_records_of_several_traces_or_none_share_nothing(columns: list[pa.BinaryArray]):
    assert shared_traceparent(columns) is None


def test_an_empty_column_says_nothing():
    assert shared_traceparent([headers(), headers(ONE), headers()]) == ONE


@pytest.mark.parametrize(
    "invalid",
    [
        b"", b"x" * 100_000, b"\xff" * 55, ONE.upper(), ONE[:-1], ONE + b"0",
        b"ff" + ONE[2:], ONE.replace(b"4bf92f3577b34da6a3ce929d0e0e4736", b"0" * 32),
        ONE.replace(b"00f067aa0ba902b7", b"0" * 16),
    ],
)  # fmt: skip
def test_what_is_no_traceparent_is_not_passed_on(invalid: bytes):
    assert shared_traceparent([headers(invalid)]) is None


def test_the_last_of_a_repeated_header_counts():
    twice = wire.encode_headers([(b"traceparent", OTHER), (b"traceparent", ONE)])

    assert shared_traceparent([pa.array([twice], pa.binary())]) == ONE


def test_a_slice_is_read_from_where_it_begins():
    assert shared_traceparent([headers(OTHER, ONE, ONE, None).slice(1, 2)]) == ONE
