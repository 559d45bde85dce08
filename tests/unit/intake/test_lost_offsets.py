"""Topics that were deleted and made anew: whose offset is it?"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    UnknownTopicOrPartitionError,
)

from flowguard.chunk import TopicPartition
from flowguard.intake.cursors import PartitionPlan
from flowguard.intake.topic_lives import NO_ID, TopicIdRequest, TopicIdResponse_v12, TopicLives
from tests.scripted_broker import ScriptedBroker
from tests.unit.intake.test_fetcher import T0, T1, Reader, plan, reading, settled_requests, until

OLD, NEW = b"old" + bytes(13), b"new" + bytes(13)


class Lives(TopicLives):
    """Says which topic it is, without a broker."""

    def __init__(self, *answers: bytes | Exception) -> None:
        super().__init__(client=self)
        self.answers = list(answers)
        self.asked = 0
        self.meanwhile: Callable[[], None] | None = None  # what happens before the answer is in

    async def send(self, node: int, request: Any) -> Any:
        self.asked += 1
        if self.meanwhile is not None:
            self.meanwhile()
            self.meanwhile = None
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer_of("t", answer)


def answer_of(topic: str, topic_id: bytes, error_code: int = 0) -> TopicIdResponse_v12:
    partitions = [(0, 0, 1, 7, [1, 2], [1], [], {})]
    topics = [(error_code, topic, topic_id, False, partitions, -1, {})]
    return TopicIdResponse_v12(0, [(1, "host", 9092, None, {})], "cluster", 1, topics, {})


@pytest.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with ScriptedBroker().running() as running:
        yield running


def plans(policy: str) -> dict[str, PartitionPlan]:
    return {"t": plan(on_offset_loss=policy)}


async def earliest_is_0(name: TopicPartition, which: str) -> int:
    return 0 if which == "earliest" else 3


def begin_with(broker: ScriptedBroker, lives: Lives, reader: Reader) -> None:
    reader.fetcher._lost_offsets._lives = lives
    reader.assign(T0, T1)


async def make_anew(broker: ScriptedBroker, reader: Reader, code: int = 3) -> None:
    """Delete the topic, and write a new one that has the offset where reading was."""
    broker.errors[T0] = code
    await until(lambda: reader.client.updates)
    broker.errors.clear()


async def test_a_topic_that_is_the_same_is_read_on(broker: ScriptedBroker) -> None:
    broker.append(T0, 3)
    async with reading(broker, plans=plans("stop"), find_offset=earliest_is_0) as reader:
        begin_with(broker, Lives(OLD), reader)
        await until(lambda: reader.offsets(T0))
        await make_anew(broker, reader, code=6)
        broker.append(T0, 3)
        await until(lambda: len(reader.offsets(T0)) == 6)

    assert reader.stopped() == {}


async def test_a_topic_that_was_made_anew_stops_its_partitions_and_says_so(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, 3)
    async with reading(broker, plans=plans("stop"), find_offset=earliest_is_0) as reader:
        begin_with(broker, Lives(OLD, NEW), reader)
        await until(lambda: reader.offsets(T0))
        await make_anew(broker, reader)
        broker.append(T0, 3)
        await until(reader.stopped)
        await settled_requests(broker)

    assert reader.stopped()[T0].startswith(
        "t[0]: the topic was deleted and made anew, and offset 3 is of the former one"
    )
    assert reader.offsets(T0) == [0, 1, 2]


@pytest.mark.parametrize(("policy", "offset"), [("earliest", 0), ("latest", 3)])
async def test_the_new_topic_is_begun_where_the_feed_says(
    broker: ScriptedBroker, policy: str, offset: int
) -> None:
    broker.append(T0, 3)
    async with reading(broker, plans=plans(policy), find_offset=earliest_is_0) as reader:
        begin_with(broker, Lives(OLD, NEW), reader)
        await until(lambda: reader.offsets(T0))
        await make_anew(broker, reader)
        await until(lambda: reader.begun_anew)

    assert reader.begun_anew == [(T0, 1, offset)], "nothing was read of the other partition"


async def test_a_partition_that_had_no_position_in_the_former_topic_is_simply_read(
    broker: ScriptedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.append(T0, 3)
    async with reading(broker, plans=plans("stop"), find_offset=earliest_is_0) as reader:
        begin_with(broker, Lives(OLD, NEW), reader)
        await until(lambda: reader.offsets(T0))
        reader.facts.clear()
        reader.assign(T0, offset=0, epoch=2)  # Kafka has deleted the group's offset, too
        await until(lambda: reader.offsets(T0))

    assert reader.stopped() == {}
    assert "made anew; it is read from its beginning" in caplog.text


async def test_a_partition_that_was_let_go_while_its_topic_was_made_anew_is_told_when_it_returns(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, 3)
    async with reading(broker, plans=plans("stop"), find_offset=earliest_is_0) as reader:
        lives = Lives(OLD, NEW)
        begin_with(broker, lives, reader)
        await until(lambda: reader.offsets(T0))
        lives.meanwhile = lambda: reader.fetcher.assign({T1: (0, 1)})
        await make_anew(broker, reader)
        await until(lambda: lives.meanwhile is None)
        broker.append(T0, 3)
        reader.assign(T0, T1, offset=3, epoch=2)  # committed when it was let go
        await until(reader.stopped)

    assert reader.offsets(T0) == [0, 1, 2]


async def test_nothing_is_read_until_it_is_certain_which_topic_it_is(
    broker: ScriptedBroker,
) -> None:
    broker.append(T0, 3)
    doubts = [KafkaConnectionError(), TimeoutError(), UnknownTopicOrPartitionError()]
    async with reading(broker, plans=plans("stop"), find_offset=earliest_is_0) as reader:
        lives = Lives(OLD, *doubts, NEW)
        begin_with(broker, lives, reader)
        await until(lambda: reader.offsets(T0))
        await make_anew(broker, reader)
        broker.append(T0, 3)
        await until(reader.stopped)

    assert lives.asked == 5
    assert reader.offsets(T0) == [0, 1, 2]


async def test_a_broker_without_ids_is_taken_at_its_word(broker: ScriptedBroker) -> None:
    broker.append(T0, 3)
    async with reading(broker, plans=plans("stop"), find_offset=earliest_is_0) as reader:
        begin_with(broker, Lives(IncompatibleBrokerVersion()), reader)
        await until(lambda: reader.offsets(T0))
        await make_anew(broker, reader)
        broker.append(T0, 3)
        await until(lambda: len(reader.offsets(T0)) == 6)


async def test_a_connection_that_was_lost_is_reason_enough_to_ask(broker: ScriptedBroker) -> None:
    broker.append(T0, 3)
    async with reading(broker, plans=plans("stop"), find_offset=earliest_is_0) as reader:
        begin_with(broker, Lives(OLD, NEW), reader)
        await until(lambda: reader.offsets(T0))
        broker.drop_connections()
        await until(reader.stopped)


def test_the_request_and_its_answer_are_laid_out_as_the_protocol_says() -> None:
    request = TopicIdRequest("t").prepare({3: (0, 13)})
    header = request.build_request_header(correlation_id=5, client_id="me")

    assert header.encode() == b"\0\x03\0\x0c\0\0\0\x05\0\x02me\0"
    assert request.encode() == b"\x02" + NO_ID + b"\x02t" + b"\0" + b"\0" + b"\0" + b"\0"
    answer = answer_of("t", OLD)
    assert TopicIdResponse_v12.decode(io.BytesIO(answer.encode())) == answer
