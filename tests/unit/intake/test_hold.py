"""Partitions that are left out of requests: nothing is repeated, nothing is lost, nothing moves."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator

import pytest

from flowguard.chunk import TopicPartition
from flowguard.facts import Fetched
from flowguard.intake.fetcher import HELD_WAIT_MS, SHARED_WAIT_MS
from tests.scripted_broker import ScriptedBroker
from tests.unit.intake.test_fetcher import T0, T1, reading, settled_requests, until

T2 = TopicPartition("t", 2)
NOTHING: frozenset[TopicPartition] = frozenset()


@pytest.fixture
async def broker() -> AsyncIterator[ScriptedBroker]:
    async with ScriptedBroker().running() as running:
        yield running


async def test_what_is_held_is_not_asked_for_and_others_are(broker: ScriptedBroker) -> None:
    broker.append(T0, 5)
    broker.append(T1, 5)
    async with reading(broker) as reader:
        reader.fetcher.hold(frozenset({T0}))
        reader.assign(T0, T1)
        await until(lambda: reader.offsets(T1) == [0, 1, 2, 3, 4])
        await settled_requests(broker)

        assert all(set(asked.offsets) == {T1} for asked in broker.requests)
        assert reader.offsets(T0) == []


async def test_it_goes_on_where_it_was(broker: ScriptedBroker) -> None:
    broker.append(T0, 5)
    async with reading(broker) as reader:
        reader.assign(T0, T1)
        await until(lambda: len(reader.offsets(T0)) == 5)
        reader.fetcher.hold(frozenset({T0}))
        await settled_requests(broker)
        broker.append(T0, 5)
        await settled_requests(broker)
        assert len(reader.offsets(T0)) == 5
        reader.fetcher.hold(NOTHING)
        await until(lambda: len(reader.offsets(T0)) == 10)

    assert reader.offsets(T0) == list(range(10))


async def test_when_everything_is_held_nothing_is_asked_and_it_goes_on_at_once(
    broker: ScriptedBroker,
) -> None:
    async with reading(broker) as reader:
        reader.fetcher.hold(frozenset({T0}))
        broker.append(T0, 5)
        reader.assign(T0)
        await asyncio.sleep(0.05)
        assert broker.requests == []
        reader.fetcher.hold(NOTHING)
        await until(lambda: len(reader.offsets(T0)) == 5)


async def test_what_a_request_under_way_brings_is_taken_in(broker: ScriptedBroker) -> None:
    broker.append(T0, 5)
    broker.hold()
    async with reading(broker) as reader:
        reader.assign(T0)
        await until(lambda: broker.requests)
        reader.fetcher.hold(frozenset({T0}))
        broker.go_on()
        await until(lambda: len(reader.offsets(T0)) == 5)
        broker.append(T0, 5)
        reader.fetcher.hold(NOTHING)
        await until(lambda: len(reader.offsets(T0)) == 10)

    assert reader.offsets(T0) == list(range(10))


async def test_it_is_still_left_out_after_an_assignment(broker: ScriptedBroker) -> None:
    broker.append(T0, 5)
    async with reading(broker) as reader:
        reader.fetcher.hold(frozenset({T0}))
        reader.assign(T0, T1)
        await settled_requests(broker)
        reader.assign(T1, epoch=2)
        reader.assign(T0, T1, epoch=3)
        await settled_requests(broker)

        assert not any(T0 in asked.offsets for asked in broker.requests)


async def test_a_request_holds_up_what_is_taken_in_again_for_a_short_while_only(
    broker: ScriptedBroker,
) -> None:
    async with reading(broker) as reader:
        reader.assign(T0, T1)
        await settled_requests(broker)
        assert broker.requests[-1].max_wait_ms == SHARED_WAIT_MS
        reader.fetcher.hold(frozenset({T0}))
        await settled_requests(broker)

    assert broker.requests[-1].max_wait_ms == HELD_WAIT_MS <= 25


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_of_holds_and_rebalances_reads_each_record_once(
    broker: ScriptedBroker, seed: int
) -> None:
    """A model: within one assignment, offsets follow one another from where it began."""
    rng = random.Random(seed)
    names = [T0, T1, T2]
    ends = dict.fromkeys(names, 0)
    async with reading(broker) as reader:
        ours, epoch = set(names), 1
        reader.assign(*names)
        for _ in range(40):
            move = rng.choice(["hold", "append", "append", "assign"])
            if move == "hold":
                reader.fetcher.hold(frozenset(rng.sample(names, rng.randint(0, 3))))
            elif move == "append":
                name = rng.choice(names)
                broker.append(name, 7)
                ends[name] += 7
            else:
                epoch += 1
                ours = set(rng.sample(names, rng.randint(1, 3)))
                reader.memory.revoke((name, epoch - 1) for name in names)
                reader.assign(*ours, epoch=epoch)
            await asyncio.sleep(rng.choice([0, 0.003]))
        reader.fetcher.hold(NOTHING)

        def newest(name: TopicPartition) -> list[int]:
            return offsets_by_epoch(reader.facts)[name, epoch]

        await until(lambda: all(len(newest(name)) == ends[name] for name in ours))

    for (name, _), offsets in offsets_by_epoch(reader.facts).items():
        assert offsets == list(range(len(offsets))), f"{name}: repeated or left out"


def offsets_by_epoch(facts: list[object]) -> dict[tuple[TopicPartition, int], list[int]]:
    found: dict[tuple[TopicPartition, int], list[int]] = defaultdict(list)
    for fact in facts:
        if isinstance(fact, Fetched):
            for chunk in fact.chunks:
                found[fact.partition, fact.epoch] += chunk.columns.column(0).to_pylist()
    return found
