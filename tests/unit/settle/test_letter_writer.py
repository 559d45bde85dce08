"""Dead letters on their way: gathered, written once, and told of when they cannot be."""

from __future__ import annotations

import asyncio

import pytest

from flowguard.errors import LettersNotWritten, SettleError
from flowguard.settle import letter_writer
from flowguard.settle.egress import Outgoing
from flowguard.settle.letter_writer import DeadLetterWriter
from tests.unit.settle.test_dead_letter import slices


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
    monkeypatch.setattr(letter_writer, "REMEMBERED_MAX", 1)
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
        writer.write(slices(), {row: "bad"}, attempt=1, error="Undecodable") for row in range(3)
    ]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    port.go_on.set()
    await asyncio.gather(*writing)

    assert [each.keys.to_pylist() for _, each in port.sent] in ([[b"a", None, b"c"]], [
        [b"a"], [None, b"c"],
    ])  # fmt: skip
    assert writer.written_total == 3


async def test_a_letter_that_none_came_before_goes_at_once_and_the_next_ones_together():
    port = FakePort()
    writer = DeadLetterWriter("app.dlq", port)
    began_s = asyncio.get_running_loop().time()

    await writer.write(slices(), {0: "bad"}, attempt=1, error="Undecodable")
    first_s = asyncio.get_running_loop().time() - began_s
    second = writer.write(slices(), {1: "bad"}, attempt=1, error="Undecodable")
    await asyncio.sleep(letter_writer.PACE_S / 4)
    third = writer.write(slices(), {2: "bad"}, attempt=1, error="Undecodable")
    await asyncio.gather(second, third)

    assert first_s < letter_writer.PACE_S
    assert [each.keys.to_pylist() for _, each in port.sent] == [[b"a"], [None, b"c"]]
    assert asyncio.get_running_loop().time() - began_s >= letter_writer.PACE_S


async def test_what_was_written_together_is_remembered_of_each_batch():
    port = FakePort()
    writer = DeadLetterWriter("app.dlq", port)
    await asyncio.gather(
        *(writer.write(slices(), {row: "bad"}, attempt=1, error="Undecodable") for row in range(3))
    )

    await writer.write(slices(), dict.fromkeys(range(3), "bad"), attempt=2, error="Undecodable")

    assert [each.keys.to_pylist() for _, each in port.sent] == [[b"a", None, b"c"]]


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


async def test_nobody_waits_for_letters_for_ever_when_the_worker_stops():
    port = SlowPort()
    writer = DeadLetterWriter("app.dlq", port)
    writing = [writer.write(slices(), {0: "bad"}, attempt=1, error="Undecodable")]
    await asyncio.sleep(0.01)  # the first is under way
    writing.append(writer.write(slices(), {1: "bad"}, attempt=1, error="Undecodable"))
    await asyncio.sleep(0)

    writer.stop()

    ended = await asyncio.gather(*writing, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended)
