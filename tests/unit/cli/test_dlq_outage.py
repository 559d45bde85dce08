"""`flowguard dlq` when the broker goes away in the middle: it ends, and says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import MessageSizeTooLargeError

from flowguard.cli import dlq_reading, dlq_sending
from flowguard.cli.broker import Access
from flowguard.cli.dlq_letters import Selection
from flowguard.cli.dlq_progress import Progress
from flowguard.cli.dlq_reading import Piece, until
from flowguard.cli.dlq_sending import Order, Redriver, Sorted
from flowguard.cli.exit_codes import NO_BROKER, CommandError
from tests.unit.cli.test_dlq import letter

PLACE = TopicPartition("shop.dlq", 0)


class SilentConsumer:
    """Nothing comes any more."""

    async def getmany(self, *_: TopicPartition, **__: int) -> dict[TopicPartition, list[Any]]:
        await asyncio.sleep(0)
        return {}

    async def position(self, _: TopicPartition) -> int:
        return 3


class Producer:
    """Acknowledges what `answers` says, by position in the batch: True, an error, or never."""

    def __init__(self, answers: dict[int, bool | Exception]) -> None:
        self.answers = answers
        self.sent: list[asyncio.Future[None]] = []

    async def partitions_for(self, _: str) -> set[int]:
        return {0, 1, 2, 3}

    async def send(self, *_: Any) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        answer = self.answers.get(len(self.sent))
        if isinstance(answer, Exception):
            future.set_exception(answer)
        elif answer:
            future.set_result(None)
        self.sent.append(future)
        return future


class Committer:
    """Remembers commits."""

    def __init__(self) -> None:
        self.commits: list[dict[TopicPartition, tuple[int, str]]] = []

    async def commit(self, offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        self.commits.append(offsets)


def redriver(producer: Producer, committer: Committer) -> Redriver:
    return Redriver(
        Access((), {}), Order(selection=Selection()), producer=producer, committer=committer,  # type: ignore[arg-type]
        topics=frozenset({"orders"}), progress={PLACE: Progress()}, done={PLACE: Progress()},
        result=Sorted(),
    )  # fmt: skip


async def test_reading_from_a_broker_that_is_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlq_reading, "ANSWER_WITHIN_S", 0.01)

    with pytest.raises(CommandError, match="sends no letters of") as error:
        async for _ in until(SilentConsumer(), {PLACE: 10}, 500):  # type: ignore[arg-type]
            pass

    assert error.value.exit_code == NO_BROKER


async def test_what_is_acknowledged_is_committed_and_what_is_not_is_not() -> None:
    committer = Committer()
    sending = redriver(Producer({0: True, 1: True}), committer)

    await sending._redrive(Piece(PLACE, [letter(0), letter(1)], 2))

    assert committer.commits == [{PLACE: (2, "")}]


async def test_without_an_acknowledgement_nothing_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dlq_sending, "ACKNOWLEDGED_WITHIN_S", 0.01)
    producer, committer = Producer({0: True, 2: True}), Committer()

    with pytest.raises(CommandError, match=r"stopped at shop.dlq\[0\] 1.*no answer within"):
        await redriver(producer, committer)._redrive(
            Piece(PLACE, [letter(0), letter(1), letter(2)], 3)
        )

    assert committer.commits == [] and producer.sent[1].cancelled()


async def test_the_letter_that_was_refused_is_the_one_that_is_named() -> None:
    producer = Producer({0: True, 1: MessageSizeTooLargeError(), 2: MessageSizeTooLargeError()})
    committer = Committer()

    with pytest.raises(CommandError, match=r"stopped at shop.dlq\[0\] 1.*MessageSizeTooLarge"):
        await redriver(producer, committer)._redrive(
            Piece(PLACE, [letter(0), letter(1), letter(2)], 3)
        )

    assert committer.commits == []
