"""An app on the harness, hurt at random: nothing is lost, order holds, repeats are bounded.

What runs is the worker itself, from the wire to the sink; only Kafka and time are made up. A
schedule that fails is printed with its seed, and runs again with

    pytest tests/stateful/test_harness.py -k SEED
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, Literal

import polars as pl
import pytest

import flowguard as fg
from flowguard.testing import Harness

COLUMNS = {"n": "int64", "account": "string", "size": "int64"}
KEYS = 8
SECONDS = 6  # of faults; what is held meanwhile comes after
AFTERWARDS = 24
COUNTS = {"urgent": 100, "bulk": 400}

Order = Literal["partition", "key", "none"]


class Run:
    """One app, one schedule of faults, and what came of it.

    Args:
        seed: Of the schedule, and of the harness.
        order: What may not be reordered.
    """

    def __init__(self, seed: int, order: Order) -> None:
        self.chance = random.Random(seed)
        self.urgent = fg.Lane("urgent", target="200ms")
        self.bulk = fg.Lane("bulk")
        app = fg.App("stateful", broker="kafka://127.0.0.1:1", lanes=[self.urgent, self.bulk])
        self.orders = app.feed(
            "orders", columns=COLUMNS, key_by="account", order=order,
            lanes=fg.by_header("lane", {"now": self.urgent}, self.bulk),
        )  # fmt: skip
        self.results = app.feed("results", columns=COLUMNS, key_by="account")
        self.unavailable = False
        app.agent(self.orders, name="agent", sink=[self.results], concurrency=4)(self.serve)
        self.harness = Harness(app, seed=seed)
        self.produced: dict[str, list[int]] = {}

    async def serve(self, batches: Any) -> AsyncIterator[pl.DataFrame]:
        async for batch in batches:
            await asyncio.sleep(random.expovariate(100))
            if self.unavailable:
                raise fg.Unavailable
            if random.random() < 0.05:
                raise RuntimeError("now and then")
            yield batch.to_polars()

    def produce(self) -> None:
        """Let both lanes have records of a few keys, from the beginning to the end."""
        for lane, count in COUNTS.items():
            accounts = [f"{lane}-{self.chance.randrange(KEYS)}" for _ in range(count)]
            frame = pl.DataFrame({"n": range(count), "account": accounts, "size": 1})
            self.harness.produce(
                self.orders, frame, lane=lane, every=f"{SECONDS * 1000 // count}ms"
            )
            self.produced[lane] = list(range(count))

    def hurt(self) -> None:
        """Let up to six things go wrong."""
        for _ in range(self.chance.randint(1, 6)):
            at_s = self.chance.uniform(0.2, SECONDS)
            for_s = self.chance.uniform(0.1, 3)
            moment = self.harness.at(at_s)
            match self.chance.choice(("crash", "rebalance", "away", "sink", "broker", "model")):
                case "crash":
                    moment.crash(down=self.chance.choice((0.0, for_s)))
                case "rebalance":
                    moment.rebalance()
                case "away":
                    moment.rebalance(away=self.chance.random(), for_=for_s)
                case "sink":
                    moment.kill_sink(self.results, for_=for_s)
                case "broker":
                    moment.pause_broker(for_=for_s)
                case "model":
                    moment.call(lambda: setattr(self, "unavailable", True))
                    self.harness.at(at_s + for_s).call(lambda: setattr(self, "unavailable", False))

    def first_of_each_key(self) -> dict[str, list[int]]:
        """Return of each key the numbers in the sink in their order, each where it is new."""
        seen: dict[str, dict[int, None]] = defaultdict(dict)
        for n, account in self.harness.sent(self.results).select("n", "account").iter_rows():
            seen[account].setdefault(n)
        return {account: list(numbers) for account, numbers in seen.items()}


SEEDS = range(8)


@pytest.mark.parametrize("order", ["partition", "key"])
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_the_order_of_each_key_is_kept(seed: int, order: Order) -> None:
    run = Run(seed, order)
    run.produce()
    run.hurt()
    with run.harness as h:
        h.run_now(SECONDS + AFTERWARDS)
        assert (h.lost, h.unfinished) == (0, 0), f"seed {seed}"
        sent = h.sent(run.results)
        for lane, numbers in run.produced.items():
            found = sent.filter(pl.col("account").str.starts_with(lane))["n"].to_list()
            assert set(found) == set(numbers), f"seed {seed}, lane {lane}"
        for account, numbers in run.first_of_each_key().items():
            assert numbers == sorted(numbers), f"seed {seed}, key {account}"
        for lane in run.produced:
            counts = h.counts(lane)
            assert counts["read"] == sum(counts.values()) - counts["read"], f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_repeats_stay_below_what_was_in_flight_and_settled_since_a_commit(seed: int) -> None:
    run = Run(seed, "partition")
    run.produce()
    run.hurt()
    with run.harness as h:
        h.run_now(SECONDS + AFTERWARDS)
        assert h.duplicates <= h.duplicates_allowed, f"seed {seed}"
        repeated = len(h.sent(run.results)) - sum(COUNTS.values())
        assert repeated <= h.duplicates_allowed, f"seed {seed}"


def test_without_faults_nothing_is_repeated() -> None:
    run = Run(1, "partition")
    run.produce()
    with run.harness as h:
        h.run_now(SECONDS + AFTERWARDS)
        assert (h.lost, h.unfinished, h.duplicates, h.duplicates_allowed) == (0, 0, 0, 0)
        assert len(h.sent(run.results)) == sum(COUNTS.values())


@pytest.mark.parametrize("seed", range(2))
def test_a_schedule_gives_the_same_run_again(seed: int) -> None:
    def once() -> list[tuple[Any, ...]]:
        run = Run(seed, "key")
        run.produce()
        run.hurt()
        with run.harness as h:
            h.run_now(SECONDS + AFTERWARDS)
            return h.sent(run.results, meta=True).rows()

    assert once() == once()
