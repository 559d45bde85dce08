"""Diverted records: as they were, in their order."""

from __future__ import annotations

import pyarrow as pa
import pytest

from flowguard._native import wire
from flowguard._native.murmur2 import partitions_of
from flowguard.chunk import TopicPartition
from flowguard.errors import SettleError
from flowguard.settle.divert import Diverter, outgoing_of
from tests.builders import EPOCH_MS, chunk_of, slice_of
from tests.unit.settle.test_letter_writer import FakePort as LettersPort


class FakePort(LettersPort):
    """Where records would be written."""

    async def find_topic(self, topic: str) -> int:
        return await self.partition_count(topic)


FIRST, SECOND = TopicPartition("orders", 3), TopicPartition("orders", 5)
HEADERS = [[(b"trace", b"1"), (b"trace", None)], [], [(b"x", b"")]]


def slices():
    first = chunk_of(
        [10, 11, 15], partition=FIRST, keys=[b"a", None, b""], values=[b"1", None, b""],
        headers=HEADERS, timestamps=[EPOCH_MS, EPOCH_MS - 5, -1],
    )  # fmt: skip
    second = chunk_of([7], partition=SECOND, keys=[None], values=[b"x"])
    return [slice_of(first, 0, 1), slice_of(first, 1, 2), slice_of(second)]


def test_records_leave_as_they_were():
    outgoing = outgoing_of(slices(), 4)

    assert outgoing.keys.to_pylist() == [b"a", None, b"", None]
    assert outgoing.values.to_pylist() == [b"1", None, b"", b"x"]
    assert outgoing.timestamps.to_pylist() == [EPOCH_MS, EPOCH_MS - 5, -1, EPOCH_MS]  # type: ignore[union-attr]
    assert outgoing.encoded_headers is not None
    decoded = wire.decode_headers(outgoing.encoded_headers).to_pylist()
    assert [[(each["name"].encode(), each["value"]) for each in row] for row in decoded] == [
        *HEADERS, [],
    ]  # fmt: skip
    assert len(outgoing.rows()) == 4


def test_the_key_decides_the_partition_and_without_one_its_own_partition_does():
    outgoing = outgoing_of(slices(), 4)

    by_key = partitions_of(pa.array([b"a", b""]), 4).to_pylist()
    assert outgoing.partitions.to_pylist() == [by_key[0], 3, by_key[1], 5 % 4]


async def test_a_topic_is_declared_once():
    port = FakePort()
    diverter = Diverter(port)

    await diverter.write("later", slices())
    await diverter.write("later", slices())

    assert port.declared == ["later"]
    assert [topic for topic, _ in port.sent] == ["later", "later"]


async def test_after_a_failure_the_topic_is_looked_at_again():
    port = FakePort()
    diverter = Diverter(port)
    port.error = SettleError("no", topic="later")

    with pytest.raises(SettleError):
        await diverter.write("later", slices())
    port.error = None
    await diverter.write("later", slices())

    assert port.declared == ["later", "later"]
    assert len(port.sent) == 1
