"""Dead letters: the record as it was, and why it could not go on."""

from __future__ import annotations

import hashlib

from flowguard.chunk import TopicPartition
from flowguard.settle.dead_letter import VALUE_BYTES_MAX, letters_of
from tests.builders import EPOCH_MS, chunk_of, slice_of

ORDERS = TopicPartition("orders", 3)


def slices(values: list[bytes | None] | None = None):
    chunk = chunk_of(
        [10, 11, 15],
        partition=ORDERS,
        keys=[b"a", None, b"c"],
        values=values or [b"not json", None, b"\xff\xfe"],
        headers=[[(b"trace", b"1"), (b"trace", None)], [], [(b"x", b"")]],
        timestamps=[EPOCH_MS, EPOCH_MS + 1, EPOCH_MS + 2],
    )
    return [slice_of(chunk, 0, 1), slice_of(chunk, 1, 2)]


def test_a_letter_has_the_original_bytes():
    first, last = letters_of(slices(), {0: "bad", 2: "worse"}, attempt=1, error="Undecodable")

    assert (first["key"], first["value"], first["timestamp"]) == (b"a", b"not json", EPOCH_MS)
    assert (last["key"], last["value"], last["timestamp"]) == (b"c", b"\xff\xfe", EPOCH_MS + 2)


def test_a_letter_keeps_its_headers_and_adds_where_it_came_from_and_why():
    (letter,) = letters_of(slices(), {2: "no such column"}, attempt=3, error="Undecodable")

    assert letter["headers"] == [
        ("x", b""),
        ("fg-error-type", b"Undecodable"),
        ("fg-error-reason", b"no such column"),
        ("fg-attempt", b"3"),
        ("fg-orig-topic", b"orders"),
        ("fg-orig-partition", b"3"),
        ("fg-orig-offset", b"15"),
        ("fg-orig-timestamp", str(EPOCH_MS + 2).encode()),
    ]


def test_repeated_headers_and_null_values_survive():
    (letter,) = letters_of(slices(), {0: "bad"}, attempt=1, error="Undecodable")

    assert letter["headers"][:2] == [("trace", b"1"), ("trace", None)]


def test_letters_are_in_the_order_of_their_records():
    letters = letters_of(slices(), {2: "c", 0: "a", 1: "b"}, attempt=1, error="Undecodable")

    assert [letter["key"] for letter in letters] == [b"a", None, b"c"]


def test_a_value_that_no_broker_would_take_is_replaced_by_its_digest():
    large = b"x" * (VALUE_BYTES_MAX + 1)

    (letter,) = letters_of(slices([large, b"", b""]), {0: "bad"}, attempt=1, error="Undecodable")

    reason = dict(letter["headers"])["fg-error-reason"].decode()
    assert letter["value"] is None
    assert str(len(large)) in reason and hashlib.sha256(large).hexdigest() in reason


def test_a_value_at_the_limit_is_kept():
    large = b"x" * VALUE_BYTES_MAX

    (letter,) = letters_of(slices([large, b"", b""]), {0: "bad"}, attempt=1, error="Undecodable")

    assert letter["value"] == large
