"""The harness: an app of a user's, run and hurt on a virtual clock."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import polars as pl
import pytest

import flowguard as fg
from flowguard.errors import ConfigError, SimulationError
from flowguard.testing import Harness

COLUMNS = {"n": "int64", "account": "string"}


class Shop:
    """An app with two lanes, an agent and a sink; `work` is what the agent does with a batch."""

    def __init__(self, **options: Any) -> None:
        self.urgent = fg.Lane("urgent", target="100ms")
        self.bulk = fg.Lane("bulk", **options.pop("bulk", {}))
        self.app = fg.App(
            "shop",
            broker="kafka://127.0.0.1:1",
            lanes=[self.urgent, self.bulk],
            memory=options.pop("memory", "64MiB"),
        )
        self.orders = self.app.feed(
            "orders", columns=COLUMNS, key_by="account",
            lanes=fg.by_header("lane", {"now": self.urgent}, self.bulk),
        )  # fmt: skip
        self.results = self.app.feed("results", columns={"n": "int64"})
        self.work: Callable[[fg.Batch], Any] = lambda _: None
        self.agent = self.app.agent(self.orders, name="agent", sink=[self.results], **options)(
            self.serve
        )

    async def serve(self, batches: Any) -> AsyncIterator[pl.DataFrame]:
        async for batch in batches:
            await asyncio.sleep(0.01)
            result = self.work(batch)
            if asyncio.iscoroutine(result):
                await result
            yield batch.to_polars().select("n")


def numbers(harness: Harness, feed: Any) -> list[int]:
    """Return the numbers in a feed, in ascending order."""
    return sorted(harness.sent(feed)["n"].to_list())


async def test_records_go_through_the_app_and_come_out() -> None:
    shop = Shop()
    with Harness(shop.app) as h:
        assert h.produce(shop.orders, 500, every="10ms") == 500
        await h.run("6s")
        assert numbers(h, shop.results) == list(range(500))
        assert (h.lost, h.unfinished, h.duplicates) == (0, 0, 0)
        assert h.now == pytest.approx(6)


async def test_lanes_are_those_of_the_rule_and_each_has_its_latency() -> None:
    shop = Shop()
    with Harness(shop.app) as h:
        h.produce(shop.orders, 3000, lane=shop.bulk)
        h.produce(shop.orders, 100, every="10ms", lane="urgent")
        await h.run("5s")
        assert h.counts("urgent")["settled"] == 100
        assert h.counts(shop.bulk)["settled"] == 3000
        urgent = h.latency("urgent")
        assert urgent.count == 100 and urgent.p99 is not None and urgent.p99 < 0.1
        assert h.latency().count == 3100
        assert 0 < h.peak_bytes <= 64 * 1024**2
        assert h.state["lanes"]["urgent"]["settled"] == 100


async def test_what_cannot_be_decoded_is_a_dead_letter() -> None:
    shop = Shop()
    with Harness(shop.app) as h:
        h.produce(shop.orders, [b"no json", b'{"n": 1, "account": "a"}'], at="1s")
        await h.run("3s")
        [letter] = h.dead_letters().to_dicts()
        assert letter["value"] == b"no json" and letter["topic"] == "orders"
        assert letter["error"] == "Undecodable" and letter["letter_topic"] == "shop.dlq"
        assert numbers(h, shop.results) == [1]
        assert h.unfinished == 0


async def test_a_sink_that_is_down_holds_records_until_it_is_back() -> None:
    shop = Shop()
    with Harness(shop.app) as h:
        h.produce(shop.orders, 200, every="10ms")
        h.at("1s").kill_sink(shop.results, for_="3s")
        await h.run("3.5s")
        assert h.unfinished > 50
        await h.run("5s")
        assert numbers(h, shop.results) == list(range(200))
        assert (h.lost, h.unfinished) == (0, 0)


async def test_a_crash_loses_nothing_and_repeats_only_what_was_not_committed() -> None:
    shop = Shop()
    with Harness(shop.app) as h:
        h.produce(shop.orders, 600, every="5ms")
        h.at("2.5s").crash(down="1s")
        await h.run("12s")
        assert set(numbers(h, shop.results)) == set(range(600))
        assert (h.lost, h.unfinished) == (0, 0)
        # Commits come each second, 200 records arrive in one; what was in flight comes on top.
        assert 0 < h.duplicates <= 300
        assert len(h.sent(shop.results)) <= 600 + h.duplicates


async def test_what_an_agent_sends_again_after_it_raised_is_a_duplicate() -> None:
    shop = Shop(retries=fg.Retry(2, backoff="1ms..5ms"))
    mirror = shop.app.feed("mirror", columns={"n": "int64"})

    async def work(batch: fg.Batch) -> None:
        frame = batch.to_polars().select("n")
        await mirror.send(frame)
        if 5 in frame["n"]:
            raise ValueError("five")

    shop.work = work
    with Harness(shop.app) as h:
        h.produce(shop.orders, 8)
        await h.run("5s")
        assert len(h.sent(mirror)) > 8
        assert h.duplicates == len(h.sent(mirror)) - 8
        assert (h.lost, h.unfinished, len(h.dead_letters())) == (0, 0, 1)


async def test_a_rebalance_repeats_nothing() -> None:
    shop = Shop()
    with Harness(shop.app) as h:
        h.produce(shop.orders, 600, every="5ms")
        h.at("1s").rebalance()
        h.at("2s").rebalance(away=0.5, for_="2s")
        await h.run("12s")
        assert numbers(h, shop.results) == list(range(600))
        assert (h.lost, h.unfinished, h.duplicates) == (0, 0, 0)


async def test_partitions_that_stay_away_are_not_read() -> None:
    shop = Shop()
    with Harness(shop.app) as h:
        h.at("0.5s").rebalance(away=1.0)
        h.produce(shop.orders, 10, at="3s")
        await h.run("8s")
        assert h.unfinished == 10 and h.lost == 0


async def test_a_broker_that_pauses_delays_and_loses_nothing() -> None:
    shop = Shop()
    with Harness(shop.app) as h:
        h.produce(shop.orders, 300, every="10ms")
        h.at("1s").pause_broker(for_="2s")
        h.at("1s").slow_sink(shop.results, by="200ms", for_="4s")
        await h.run("12s")
        assert numbers(h, shop.results) == list(range(300))
        assert (h.lost, h.unfinished) == (0, 0)
        latency = h.latency()
        assert latency.max is not None and latency.max > 1


async def test_an_agent_that_fails_is_tried_again() -> None:
    shop = Shop()
    failures = []

    def work(batch: fg.Batch) -> None:
        if not failures:
            failures.append(batch.attempt)
            raise RuntimeError("once")

    shop.work = work
    with Harness(shop.app) as h:
        h.produce(shop.orders, 10)
        await h.run("5s")
        assert numbers(h, shop.results) == list(range(10))
        assert failures == [1] and h.unfinished == 0


async def test_a_dependency_can_be_switched_off_and_on() -> None:
    shop = Shop()
    there = [True]

    def work(_: fg.Batch) -> None:
        if not there[0]:
            raise fg.Unavailable(why="the model")

    async def back() -> None:
        await asyncio.sleep(1)
        there[0] = True

    shop.work = work
    with Harness(shop.app) as h:
        h.at("1s").call(lambda: there.__setitem__(0, False)).call(back)
        h.produce(shop.orders, 100, every="20ms")
        await h.run("20s")
        assert numbers(h, shop.results) == list(range(100))
        assert h.dead_letters().is_empty()


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_same_seed_is_the_same_run(seed: int) -> None:
    async def once() -> tuple[Any, ...]:
        shop = Shop(concurrency=4)
        with Harness(shop.app, seed=seed) as h:
            h.produce(shop.orders, 400, every="5ms")
            h.at("1s").crash()
            h.at("4s").rebalance(away=0.5, for_="1s")
            await h.run("10s")
            return h.sent(shop.results, meta=True).rows(), h.latency(), h.duplicates, h.state

    first, second = await once(), await once()
    assert first == second


async def test_one_app_can_be_run_by_one_harness_after_another() -> None:
    shop = Shop()
    for seed in (1, 2):
        with Harness(shop.app, seed=seed) as h:
            h.produce(shop.orders, 50)
            await h.run("2s")
            assert numbers(h, shop.results) == list(range(50))


async def test_stopping_in_order_commits_all_that_was_finished() -> None:
    shop = Shop()
    h = Harness(shop.app)
    h.produce(shop.orders, 100)
    await h.run("0.5s")
    await h.stop()
    assert (h.lost, h.unfinished, h.duplicates) == (0, 0, 0)
    h.close()
    h.close()


def test_it_runs_without_async() -> None:
    shop = Shop()
    with Harness(shop.app) as h:
        h.produce(shop.orders, [{"n": 7, "account": "a"}])
        h.run_now("1s")
        assert numbers(h, shop.results) == [7]


async def test_functions_on_threads_run_and_take_virtual_time() -> None:
    shop = Shop()
    shop.work = lambda _: asyncio.to_thread(time.sleep, 0.5)
    with Harness(shop.app) as h:
        h.produce(shop.orders, 1)
        await h.run("3s")
        latency = h.latency()
        assert latency.p50 is not None and 0.5 <= latency.p50 < 0.7


async def test_a_thread_in_an_agent_fails_its_batch_with_what_to_do() -> None:
    shop = Shop()
    shop.work = lambda _: threading.Thread(target=print).start()
    with Harness(shop.app) as h:
        h.produce(shop.orders, 1)
        await h.run("1s")
        assert isinstance(shop.agent.last_error, SimulationError)
        assert "asyncio.to_thread" in str(shop.agent.last_error)


async def test_records_carry_keys_headers_and_times_of_their_own() -> None:
    shop = Shop()
    seen: list[Any] = []
    shop.work = lambda batch: seen.append(
        (batch.header("tenant").to_pylist(), batch.records["timestamp"].to_pylist())
    )
    with Harness(shop.app) as h:
        frame = pl.DataFrame({"n": [1], "account": ["a"], "_timestamp": [5]})
        h.produce(shop.orders, frame, headers={"tenant": "x"})
        await h.run("1s")
        assert seen == [([b"x"], [5])]
        [row] = h.sent(shop.orders, meta=True).to_dicts()
        assert row["_key"] == b"a" and row["_timestamp"] == 5 and row["n"] == 1
        assert row["_headers"] == [{"name": "tenant", "value": b"x"}]


async def test_plain_topics_can_be_written_and_looked_at() -> None:
    shop = Shop()
    audit = shop.app.topic("audit", value_type=bytes)
    shop.work = lambda _: audit.send(key=b"k", value=b"seen")
    with Harness(shop.app) as h:
        h.produce(shop.orders, 1)
        await h.run("1s")
        assert h.sent(audit).to_dicts() == [{"key": b"k", "value": b"seen"}]
        assert h.sent("audit").height == 1
        assert h.sent("nowhere").is_empty()


async def test_a_lane_that_sheds_loses_no_account() -> None:
    shop = Shop(bulk={"max_age": "1s"})
    shop.work = lambda _: asyncio.sleep(0.3)
    with Harness(shop.app) as h:
        frame = pl.DataFrame({"n": range(20), "account": "a", "_timestamp": [5] * 20})
        h.produce(shop.orders, frame, at="1s", lane="bulk")
        await h.run("5s")
        assert h.counts("bulk")["expired"] == 20
        assert (h.lost, h.unfinished) == (0, 0)
        assert h.sent(shop.results).is_empty()


async def test_a_lane_that_spills_does_so_to_a_directory_that_a_crash_leaves() -> None:
    shop = Shop(bulk={"overflow": fg.Spill("64MiB")}, memory="8MiB")
    shop.work = lambda _: asyncio.sleep(0.1)
    spilled: list[int] = []
    with Harness(shop.app) as h:
        frame = pl.DataFrame({"n": range(12_000), "account": ["x" * 1000] * 12_000})
        h.produce(shop.orders, frame, lane="bulk")
        h.at("1s").call(lambda: spilled.append(h.counts("bulk")["spilled"]))
        h.at("1.5s").crash()
        h.at("6s").call(lambda: spilled.append(h.counts("bulk")["spilled"]))
        await h.run("25s")
        assert all(each > 0 for each in spilled) and len(spilled) == 2
        assert set(numbers(h, shop.results)) == set(range(12_000))
        assert (h.lost, h.unfinished) == (0, 0)
        assert h.duplicates <= h.duplicates_allowed
        assert h.peak_bytes <= 8 * 1024**2


async def test_a_table_is_recovered_from_its_changelog_after_a_crash() -> None:
    app = fg.App("tables", broker="kafka://127.0.0.1:1", store="memory://")
    orders = app.feed("orders", columns=COLUMNS, key_by="account")
    counts = app.Table("counts", default=int, partitions=4)

    @app.agent(orders, batch=fg.BatchSize(by_partition=True))
    async def count(batches: Any) -> None:
        async for batch in batches:
            for account in batch.to_polars()["account"]:
                counts[account] += 1
            await asyncio.sleep(0.01)

    with Harness(app) as h:
        frame = pl.DataFrame({"n": range(200), "account": [f"a{n % 7}" for n in range(200)]})
        h.produce(orders, frame, every="10ms")
        h.at("1s").crash()
        await h.run("10s")
        assert 200 <= sum(counts.values()) <= 200 + h.duplicates_allowed
        assert (h.lost, h.unfinished) == (0, 0)


async def test_an_app_that_ends_by_itself_raises_why() -> None:
    shop = Shop()

    @shop.app.task
    async def broken() -> None:
        raise RuntimeError("a task of the user's")

    with Harness(shop.app) as h, pytest.raises(RuntimeError, match="a task of the user's"):
        await h.run("2s")


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (lambda h, shop: h.produce("orders", 1), "is no feed"),
        (lambda h, shop: h.produce(shop.orders, "text"), "cannot become records"),
        (lambda h, shop: h.produce(shop.orders, 1, lane="urgnt"), "no lane 'urgnt'"),
        (lambda h, shop: h.produce(shop.orders, 1, at="soon"), "at"),
        (lambda h, shop: h.latency("none"), "no lane 'none'"),
        (lambda h, shop: h.at("1s").kill_sink(3), "no feed or topic"),
        (lambda h, shop: h.at("1s").rebalance(away=2), "no share"),
    ],
)
def test_bad_input_says_what_to_give(do: Any, says: str) -> None:
    shop = Shop()
    with Harness(shop.app) as h, pytest.raises(ConfigError, match=says):
        do(h, shop)


async def test_an_instant_that_has_passed_is_refused() -> None:
    shop = Shop()
    with Harness(shop.app) as h:
        await h.run("2s")
        with pytest.raises(ConfigError, match="has passed"):
            h.at("1s")


async def test_there_is_no_state_without_a_worker_and_no_run_after_the_end() -> None:
    shop = Shop()
    h = Harness(shop.app)
    with pytest.raises(SimulationError, match="no worker"):
        _ = h.state
    h.close()
    with pytest.raises(SimulationError, match="closed"):
        await h.run("1s")


def test_an_app_without_feeds_is_refused() -> None:
    with pytest.raises(ConfigError, match="no agent"):
        Harness(fg.App("plain", broker="kafka://127.0.0.1:1"))


async def test_an_agent_that_comes_after_the_first_harness_is_refused() -> None:
    shop = Shop()
    with Harness(shop.app) as h:
        await h.run("0.1s")
    shop.app.agent(shop.orders, name="late")(shop.serve)
    with Harness(shop.app) as h, pytest.raises(SimulationError, match="agent late"):
        await h.run("0.1s")


def test_a_harness_that_nobody_closes_goes_away_quietly() -> None:
    shop = Shop()
    h = Harness(shop.app)
    h.produce(shop.orders, 10)
    h.run_now("1s")
    del h, shop
    gc.collect()
