"""Dead letters: the record as it was, and why it could not go on."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from flowguard.chunk import TopicPartition
from flowguard.errors import LettersNotWritten, SettleError
from flowguard.settle import dead_letter
from flowguard.settle.dead_letter import VALUE_BYTES_MAX, DeadLetterWriter, letters_of
from flowguard.settle.egress import Outgoing
from tests.builders import EPOCH_MS, chunk_of, slice_of

ORDERS = TopicPartition("orders", 3)


class FakePort:
    """Where letters would be written."""

    def __init__(self) -> None:
        self.declared: list[str] = []
        self.sent: list[tuple[str, Outgoing]] = []
        self.error: Exception | None = None

    async def declare(self, topic: str) -> None:
        self.declared.append(topic)

    async def partition_count(self, topic: str) -> int:
        return 4

    async def send_columns(self, topic: str, outgoing: Outgoing) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append((topic, outgoing))


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


async def test_the_topic_is_declared_once_and_the_letters_counted():
    port = FakePort()
    writer = DeadLetterWriter("app.dlq", port)

    await writer.write(slices(), {0: "bad"}, attempt=1, error="Undecodable")
    await writer.write(slices(), {1: "bad", 2: "bad"}, attempt=1, error="Undecodable")

    assert port.declared == ["app.dlq"]
    assert writer.written_total == 3
    assert [outgoing.keys.to_pylist() for _, outgoing in port.sent] == [[b"a"], [None, b"c"]]


async def test_a_batch_that_is_tried_again_does_not_write_its_letters_again():
    port = FakePort()
    writer = DeadLetterWriter("app.dlq", port)

    await writer.write(slices(), {0: "bad", 2: "bad"}, attempt=1, error="Undecodable")
    await writer.write(slices(), {0: "bad", 2: "bad"}, attempt=2, error="Undecodable")
    await writer.write(slices(), {0: "bad", 1: "new", 2: "bad"}, attempt=3, error="Undecodable")

    assert [outgoing.keys.to_pylist() for _, outgoing in port.sent] == [[b"a", b"c"], [None]]
    assert writer.written_total == 3


async def test_letters_that_were_not_acknowledged_are_written_again():
    port = FakePort()
    writer = DeadLetterWriter("app.dlq", port)
    port.error = SettleError("no")
    with pytest.raises(SettleError):
        await writer.write(slices(), {0: "bad"}, attempt=1, error="Undecodable")
    port.error = None

    await writer.write(slices(), {0: "bad"}, attempt=2, error="Undecodable")

    assert writer.written_total == 1


async def test_what_is_read_anew_is_written_anew():
    port = FakePort()
    writer = DeadLetterWriter("app.dlq", port)

    await writer.write(slices(), {0: "bad"}, attempt=1, error="Undecodable")
    await writer.write(slices(), {0: "bad"}, attempt=1, error="Undecodable")

    assert writer.written_total == 2


async def test_only_the_latest_letters_are_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dead_letter, "REMEMBERED_MAX", 1)
    port = FakePort()
    writer = DeadLetterWriter("app.dlq", port)

    await writer.write(slices(), {0: "bad", 2: "bad"}, attempt=1, error="Undecodable")
    await writer.write(slices(), {0: "bad", 2: "bad"}, attempt=2, error="Undecodable")

    assert [outgoing.keys.to_pylist() for _, outgoing in port.sent] == [[b"a", b"c"], [b"a"]]


async def test_what_the_topic_did_not_take_is_not_counted_and_raises():
    port = FakePort()
    port.error = SettleError("no")
    writer = DeadLetterWriter("app.dlq", port)

    with pytest.raises(SettleError):
        await writer.write(slices(), {0: "bad"}, attempt=1, error="Undecodable")

    assert writer.written_total == 0


class SlowPort(FakePort):
    """Where a write is under way until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.refused: bytes | None = None  # a write with this key fails

    async def send_columns(self, topic: str, outgoing: Outgoing) -> None:
        await self.go_on.wait()
        if self.refused and self.refused in outgoing.keys.to_pylist():
            raise SettleError("no")
        await super().send_columns(topic, outgoing)


async def test_letters_that_come_during_a_write_go_together_with_the_next():
    port = SlowPort()
    writer = DeadLetterWriter("app.dlq", port)
    writing = [
        asyncio.create_task(writer.write(slices(), {row: "bad"}, attempt=1, error="Undecodable"))
        for row in range(3)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    port.go_on.set()
    await asyncio.gather(*writing)

    assert [each.keys.to_pylist() for _, each in port.sent] in ([[b"a", None, b"c"]], [
        [b"a"], [None, b"c"],
    ])  # fmt: skip
    assert writer.written_total == 3


async def test_letters_that_are_refused_do_not_hold_up_those_of_other_batches():
    port = SlowPort()
    port.go_on.set()
    port.refused = b"c"
    writer = DeadLetterWriter("app.dlq", port)

    ended = await asyncio.gather(
        *(writer.write(slices(), {row: "bad"}, attempt=1, error="Undecodable") for row in range(3)),
        return_exceptions=True,
    )

    assert [type(each) for each in ended] == [type(None), type(None), LettersNotWritten]
    assert sorted(key or b"" for _, each in port.sent for key in each.keys.to_pylist()) == [
        b"", b"a",
    ]  # fmt: skip
    assert writer.written_total == 2
