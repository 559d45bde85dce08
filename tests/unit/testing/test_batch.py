"""One batch through one agent, without anything around it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import flowguard as fg
from flowguard import testing
from flowguard.errors import ConfigError, HookError
from tests.unit.agents.app import make_app, put_away


@pytest.fixture(autouse=True)
def _put_away() -> Any:
    yield
    put_away()


def agent_of(function: Any, **options: Any) -> Any:
    """Return an agent on a feed of an app that connects to nothing."""
    app = make_app(lanes=[fg.Lane("fast", target="50ms"), fg.Lane("slow")])
    feed = app.feed("orders", columns={"n": "int64"}, lanes=fg.by_header("lane", {}, _slow(app)))
    return app.agent(feed, name="agent", **options)(function)


def _slow(app: fg.App) -> fg.Lane:
    return list(app._declared_lanes)[-1]


async def doubled(batches: Any) -> AsyncIterator[pl.DataFrame]:
    async for batch in batches:
        yield batch.to_polars().with_columns(twice=pl.col("n") * 2)


@pytest.mark.parametrize(
    "given",
    [
        pl.DataFrame({"n": [1, 2]}),
        pa.table({"n": [1, 2]}),
        [{"n": 1}, {"n": 2}],
    ],
)
async def test_an_agent_gets_a_frame_a_table_or_dicts(given: Any) -> None:
    agent = agent_of(doubled)
    assert [each.to_dicts() for each in await agent.call(testing.batch(given))] == [
        [{"n": 1, "twice": 2}, {"n": 2, "twice": 4}]
    ]


async def test_a_function_that_yields_nothing_is_called_too() -> None:
    seen = []

    async def function(batches: Any) -> None:
        async for batch in batches:
            seen.append(len(batch))  # noqa: PERF401

    assert await agent_of(function).call(testing.batch([{"n": 1}])) == []
    assert seen == [1]


async def test_what_it_raises_comes_through() -> None:
    async def function(batches: Any) -> AsyncIterator[Any]:
        async for _ in batches:
            raise fg.Unavailable("5s")
            yield

    with pytest.raises(fg.Unavailable):
        await agent_of(function).call(testing.batch([{"n": 1}]))


async def test_leaving_the_loop_is_the_error_that_it_is_in_a_worker() -> None:
    async def function(batches: Any) -> None:
        async for _ in batches:
            break

    with pytest.raises(HookError, match="left its loop"):
        await agent_of(function).call(testing.batch([{"n": 1}]))


async def test_a_degraded_batch_goes_to_the_fallback() -> None:
    agent = agent_of(doubled)

    @agent.fallback
    async def rules(batches: Any) -> AsyncIterator[Any]:
        async for batch in batches:
            yield batch.occasion, batch.degraded

    assert await agent.call(testing.batch([{"n": 1}], degraded=True)) == [("brownout", True)]
    assert await agent.call(testing.batch([{"n": 1}], degraded="deadline")) == [("deadline", True)]


async def test_what_it_sends_itself_is_kept_and_not_sent() -> None:
    async def function(batches: Any) -> None:
        async for batch in batches:
            await batch.feed.send(batch.to_polars())

    agent = agent_of(function)
    called = await agent.call(testing.batch([{"n": 1}], feed=agent.feed))
    [(feed, frame)] = called.sent
    assert feed is agent.feed and frame.to_dicts() == [{"n": 1}]


def test_a_batch_has_lane_headers_keys_and_times() -> None:
    frame = pl.DataFrame({"n": [1, 2], "_key": ["a", None], "_timestamp": [1000, 2000]})
    batch = testing.batch(frame, lane="urgent", headers={"tenant": "x"}, attempt=3)
    assert batch.lane.name == "urgent" and batch.attempt == 3 and len(batch) == 2
    assert batch.header("tenant").to_pylist() == [b"x", b"x"]
    assert batch.records["key"].to_pylist() == [b"a", None]
    assert batch.records["timestamp"].to_pylist() == [1000, 2000]
    assert batch.to_polars().columns == ["n"]
    assert batch.to_polars(meta=True).columns[0] == "n"


def test_headers_of_each_record_stand_in_a_column() -> None:
    frame = pl.DataFrame({"n": [1, 2], "_headers": [{"tenant": "x"}, None]})
    batch = testing.batch(frame, headers={"tenant": "all"})
    assert batch.header("tenant").to_pylist() == [b"x", b"all"]


def test_records_of_several_partitions_stay_in_their_rows() -> None:
    frame = pl.DataFrame({"n": [1, 2, 3], "_partition": [1, 0, 1]})
    batch = testing.batch(frame)
    assert batch.records["partition"].to_pylist() == [1, 0, 1]
    assert batch.records["offset"].to_pylist() == [0, 0, 1]
    assert batch.to_polars()["n"].to_list() == [1, 2, 3]


def test_with_a_feed_values_go_through_its_codec_and_its_lanes_are_known() -> None:
    feed = agent_of(doubled).feed
    frame = pl.DataFrame({"n": [1, 2**63], "more": "x"}, schema_overrides={"n": pl.UInt64})
    batch = testing.batch(frame, feed=feed, lane="fast")
    assert batch.lane.target == 0.05
    assert batch.to_polars().to_dicts() == [{"n": 1}]
    assert len(batch) == 1
    assert len(testing.batch(5, feed=feed)) == 5


def test_an_empty_batch_is_one() -> None:
    batch = testing.batch(pl.DataFrame({"n": []}, schema={"n": pl.Int64}))
    assert len(batch) == 0 and batch.to_polars().is_empty()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: testing.batch("text"), "str cannot become records"),
        (lambda: testing.batch(3), "only a feed tells"),
        (lambda: testing.batch([{"n": 1}], degraded="sometimes"), "no occasion"),
        (lambda: testing.batch(1, feed=agent_of(doubled).feed, lane="fats"), "no lane 'fats'"),
    ],
)
def test_bad_input_says_what_to_give(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
