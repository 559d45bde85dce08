"""A load for an app of the user's: the right topic, header, key and values for each lane."""

from __future__ import annotations

import random
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import flowguard as fg
from flowguard.errors import ConfigError
from flowguard.stress.scenario import Scenario, parse_scenario
from flowguard.stress.users_app import Address, UsersApp, made_up

REALTIME = fg.Lane("realtime", target="50ms")
BULK = fg.Lane("bulk")


def scenario(lane: str = "realtime", topic: str = "") -> Scenario:
    """Return a scenario with one stream."""
    where = f'topic = "{topic}"' if topic else ""
    return parse_scenario(
        f"""
        [scenario]
        name = "s"
        duration = "1s"
        [worker]
        rule = "by_header"
        [[worker.lanes]]
        name = "{lane}"
        [[arrivals]]
        lane = "{lane}"
        model = "poisson"
        rate = 1
        {where}
        """,
        file="s.toml",
    )


def app_with(*topics: str, **options: Any) -> fg.App:
    """Return an app whose one agent reads these topics."""
    app = fg.App("shop", broker="kafka://localhost:9092", lanes=[REALTIME, BULK])
    feed = app.feed(*topics, **options)
    out = app.feed("results")

    @app.agent(feed, sink=[out])
    async def serve(batches: Any) -> Any:
        async for batch in batches:
            yield batch.to_polars()

    return app


def address(app: fg.App, lane: str = "realtime", topic: str = "") -> Address:
    return UsersApp(app, "shop", scenario(lane, topic)).addresses[lane]


def test_a_topic_of_its_own_is_the_plainest_way_to_a_lane() -> None:
    app = app_with("now", "later", lanes=fg.by_topic({"now": REALTIME}, default=BULK))

    assert address(app) == Address(topic="now", headers={})
    assert address(app, "bulk") == Address(topic="later", headers={})


def test_a_header_is_sent_where_a_header_decides() -> None:
    app = app_with("orders", lanes=fg.by_header("kind", {"rt": REALTIME}, default=BULK))

    assert address(app) == Address(topic="orders", headers={"kind": "rt"})
    assert address(app, "bulk") == Address(topic="orders", headers={})


def test_a_key_begins_with_the_prefix_that_decides() -> None:
    app = app_with("orders", lanes=fg.by_key_prefix({"vip-": REALTIME}, default=BULK))

    assert address(app) == Address(topic="orders", headers={}, key_prefix="vip-")


def test_a_feed_without_a_rule_reads_the_header_of_flowguard() -> None:
    assert address(app_with("orders")).headers == {"fg-lane": "realtime"}


def test_the_topic_that_a_scenario_names_is_used() -> None:
    rule = fg.by_header("kind", {"rt": REALTIME}, default=BULK)

    assert address(app_with("a", "b", lanes=rule), topic="b").topic == "b"


def test_a_lane_that_only_columns_can_yield_cannot_be_reached() -> None:
    rule = fg.by_column({"kind": {"rt": REALTIME}}, default=BULK)
    app = app_with("orders", columns={"kind": "string"}, lanes=rule)

    with pytest.raises(ConfigError, match="no record can be made that gets lane 'realtime'"):
        address(app)


def test_a_misspelt_lane_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'realtme'.*did you mean 'realtime'"):
        address(app_with("orders"), "realtme")


def test_a_topic_that_nobody_reads_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'ordrs'.*did you mean 'orders'"):
        address(app_with("orders"), topic="ordrs")


def test_sinks_and_dead_letters_are_among_the_topics() -> None:
    found = UsersApp(app_with("orders"), "shop", scenario())

    assert found.sinks == ["results"]
    assert found.topics == ["orders", "results", "shop.dlq"]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_values_are_what_the_feed_can_read(codec: str) -> None:
    columns = {"id": "!int64", "amount": "decimal128(12,2)", "at": "timestamp[s, UTC]",
               "who": "string"}  # fmt: skip
    app = app_with("orders", codec=codec, columns=columns)

    values = UsersApp(app, "shop", scenario()).values("orders", seed=1)

    decoded = app.runtime.declared.feeds["orders"].codec.decode([pa.array(values, pa.binary())])
    assert not decoded.rejected
    assert decoded.frame.null_count().row(0) == (0, 0, 0, 0)


def test_the_same_seed_makes_up_the_same_values() -> None:
    found = UsersApp(app_with("orders", columns={"id": "int64"}), "shop", scenario())

    assert found.values("orders", seed=3) == found.values("orders", seed=3)


def test_raw_values_are_bytes() -> None:
    found = UsersApp(app_with("orders", codec="raw"), "shop", scenario())

    assert all(isinstance(each, bytes) and each for each in found.values("orders", seed=1))


def test_types_that_nothing_simple_is_made_of_are_null() -> None:
    schema = pa.schema({"tags": pa.list_(pa.string()), "ok": pa.bool_()})

    frame = made_up(schema, 10, random.Random(1))

    assert frame["tags"].null_count() == 10
    assert frame["ok"].dtype == pl.Boolean
