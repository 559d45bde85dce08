"""Events: how Faust's own parts see a batch and its records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import faust
import pytest

import flowguard as fg
from flowguard.agents.event import BatchEvent, set_current_event
from flowguard.chunk import Slice
from flowguard.errors import HookError
from tests.builders import EPOCH_MS, chunk_of, slice_of
from tests.unit.agents.app import P0, P1, batch_of, make_app, serving


@pytest.fixture
def app() -> fg.App:
    return make_app()


def two_partitions() -> list[Slice]:
    return [
        slice_of(
            chunk_of(
                [5, 6], partition=P0, keys=[b"a", None], values=[b'{"n":1}', b'{"n":2}'],
                headers=[[(b"h", b"1"), (b"h", b"2")], []],
                timestamps=[EPOCH_MS, EPOCH_MS + 1],
            )
        ),
        slice_of(chunk_of([9], partition=P1, keys=[b"c"], values=[b'{"n":3}'])),
    ]  # fmt: skip


def test_each_record_is_an_ordinary_event_and_current_in_its_turn(app: fg.App) -> None:
    batch = batch_of(app, app.feed("orders"), [{"n": 1}, {"n": 2}, {"n": 3}], two_partitions())
    seen = []

    for event in batch.events():
        assert faust.current_event() is event
        message = event.message
        seen.append((event.key, event.value, message.topic, message.partition, message.offset))

    assert seen == [
        (b"a", {"n": 1}, "orders", 0, 5),
        (None, {"n": 2}, "orders", 0, 6),
        (b"c", {"n": 3}, "orders", 1, 9),
    ]


def test_an_event_has_timestamp_and_headers_of_its_record(app: fg.App) -> None:
    batch = batch_of(app, app.feed("orders"), [{"n": 1}, {"n": 2}, {"n": 3}], two_partitions())

    first, second, _ = list(batch.events())

    assert first.message.timestamp == EPOCH_MS / 1e3
    assert first.headers == {"h": b"2"}
    assert second.headers == {}


def test_after_the_loop_the_event_before_is_current_again(app: fg.App) -> None:
    feed = app.feed("orders")
    before = BatchEvent(app, batch_of(app, feed, [{"n": 1}]))
    set_current_event(before)
    try:
        for _ in batch_of(app, feed, [{"n": 1}]).events():
            break
        list(batch_of(app, feed, [{"n": 1}]).events())

        assert faust.current_event() is before
    finally:
        set_current_event(None)


def test_keys_are_read_as_the_topic_says(app: fg.App) -> None:
    feed = app.feed("orders", key_type=str)
    batch = batch_of(app, feed, [{"n": 1}, {"n": 2}, {"n": 3}], two_partitions())

    assert [event.key for event in batch.events()] == ["a", None, "c"]


def test_a_batch_event_has_no_key_and_says_what_to_do(app: fg.App) -> None:
    event = BatchEvent(app, batch_of(app, app.feed("orders"), [{"n": 1}]))

    with pytest.raises(HookError, match=r"no key.*batch\.events\(\)"):
        _ = event.key


@pytest.mark.parametrize("name", ["offset", "timestamp", "key", "value"])
def test_a_batch_event_has_no_position_and_says_what_to_do(app: fg.App, name: str) -> None:
    event = BatchEvent(app, batch_of(app, app.feed("orders"), [{"n": 1}]))

    with pytest.raises(HookError, match=rf"no {name}.*batch\.events\(\)"):
        getattr(event.message, name)


def test_a_batch_of_one_partition_has_that_partition(app: fg.App) -> None:
    message = BatchEvent(app, batch_of(app, app.feed("orders"), [{"n": 1}])).message

    assert (message.topic, message.partition, message.tp) == ("orders", 0, P0)


def test_a_batch_of_two_partitions_has_none_and_says_so(app: fg.App) -> None:
    batch = batch_of(app, app.feed("orders"), [{"n": 1}, {"n": 2}, {"n": 3}], two_partitions())
    message = BatchEvent(app, batch).message

    for name in ("tp", "topic", "partition"):
        with pytest.raises(HookError, match="by_partition=True"):
            getattr(message, name)


async def test_while_an_agent_works_its_batch_is_the_current_event() -> None:
    values: list[Any] = []

    async def agent(batches: Any) -> None:
        async for batch in batches:
            event = faust.current_event()
            assert event is not None
            values.append(event.value is batch)

    async with serving(agent) as served:
        served.deliver()
        await served.outcomes.until("finished", 1)

    assert values == [True]


async def test_a_table_works_inside_the_events_of_a_batch() -> None:
    app = make_app()
    app.finalize()
    counts = app.Table("counts", default=int, partitions=2)
    changes: list[tuple[int, Any, Any]] = []

    def note(partition: int, key: Any, value: Any) -> Any:
        changes.append((partition, key, value))
        return SimpleNamespace(message=SimpleNamespace(partition=partition))

    counts.send_changelog = note  # type: ignore[method-assign]

    async def agent(batches: Any) -> None:
        async for batch in batches:
            for event in batch.events():
                counts[event.key] += event.value["n"]

    async with serving(agent, app=app) as served:
        served.deliver([{"n": 1}, {"n": 2}, {"n": 3}], slices=two_partitions())
        told = await served.outcomes.until("returned", 1)

    assert told == ("returned", 1)
    assert changes == [(0, b"a", 1), (0, None, 2), (1, b"c", 3)]
    assert (counts[b"a"], counts[b"c"]) == (1, 3)


async def test_a_table_outside_of_events_fails_a_batch_of_several_partitions() -> None:
    app = make_app()
    app.finalize()
    counts = app.Table("counts", default=int, partitions=2)

    async def agent(batches: Any) -> None:
        async for _ in batches:
            counts["all"] += 1

    async with serving(agent, app=app) as served:
        served.deliver([{"n": 1}, {"n": 2}, {"n": 3}], slices=two_partitions())
        _, _, error = await served.outcomes.until("failed", 1)

    assert isinstance(error, HookError)
    assert "by_partition=True" in str(error)
