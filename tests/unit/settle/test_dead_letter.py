"""Dead letters: the record as it was, and why it could not go on."""

from __future__ import annotations

import hashlib

import pytest

from flowguard.chunk import TopicPartition
from flowguard.settle.dead_letter import VALUE_BYTES_MAX, Rejects, letters_of
from tests.builders import EPOCH_MS, chunk_of, headers_of, slice_of

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
    first, last = letters_of(Rejects(slices(), {0: "bad", 2: "worse"}, 1, "Undecodable"))

    assert (first.key, first.value, first.timestamp) == (b"a", b"not json", EPOCH_MS)
    assert (last.key, last.value, last.timestamp) == (b"c", b"\xff\xfe", EPOCH_MS + 2)


def test_a_letter_keeps_its_headers_and_adds_where_it_came_from_and_why():
    (letter,) = letters_of(Rejects(slices(), {2: "no such column"}, 3, "Undecodable"))

    assert headers_of(letter) == [
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
    (letter,) = letters_of(Rejects(slices(), {0: "bad"}, 1, "Undecodable"))

    assert headers_of(letter)[:2] == [("trace", b"1"), ("trace", None)]


def test_letters_are_in_the_order_of_their_records():
    letters = letters_of(Rejects(slices(), {2: "c", 0: "a", 1: "b"}, 1, "Undecodable"))

    assert [letter.key for letter in letters] == [b"a", None, b"c"]


def test_letters_of_several_batches_have_each_its_own_marks():
    letters = letters_of(
        Rejects(slices(), {0: "bad", 2: "worse"}, 1, "Undecodable"),
        Rejects(slices(), {1: "not wanted"}, 4, "Rejected"),
    )

    told = [dict(headers_of(letter)) for letter in letters]
    assert [letter.key for letter in letters] == [b"a", b"c", None]
    assert [each["fg-error-type"] for each in told] == [b"Undecodable"] * 2 + [b"Rejected"]
    assert [each["fg-error-reason"] for each in told] == [b"bad", b"worse", b"not wanted"]
    assert [each["fg-attempt"] for each in told] == [b"1", b"1", b"4"]
    assert [each["fg-orig-offset"] for each in told] == [b"10", b"15", b"11"]
    assert "x" in told[1] and "x" not in told[2]


@pytest.mark.parametrize("count", [1, 9])
def test_many_letters_of_one_slice_are_those_of_its_rows(count: int):
    chunk = chunk_of(range(100, 140), values=[b"%d" % number for number in range(40)])
    rows = [2 * number + 1 for number in range(count)]

    letters = letters_of(Rejects([slice_of(chunk, 3, 30)], dict.fromkeys(rows, "bad"), 1, "X"))

    assert [letter.value for letter in letters] == [b"%d" % (3 + row) for row in rows]
    offsets = [dict(headers_of(letter))["fg-orig-offset"] for letter in letters]
    assert offsets == [b"%d" % (103 + row) for row in rows]


def test_a_value_that_no_broker_would_take_is_replaced_by_its_digest():
    large = b"x" * (VALUE_BYTES_MAX + 1)

    (letter,) = letters_of(Rejects(slices([large, b"", b""]), {0: "bad"}, 1, "Undecodable"))

    reason = dict(headers_of(letter))["fg-error-reason"].decode()
    assert letter.value is None
    assert str(len(large)) in reason and hashlib.sha256(large).hexdigest() in reason


def test_a_value_at_the_limit_is_kept():
    large = b"x" * VALUE_BYTES_MAX

    (letter,) = letters_of(Rejects(slices([large, b"", b""]), {0: "bad"}, 1, "Undecodable"))

    assert letter.value == large
