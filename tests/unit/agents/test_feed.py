"""What a feed declares about codecs and lanes."""

from __future__ import annotations

import polars as pl
import pytest

import flowguard as fg
from tests.unit.agents.app import make_app

FAST, SLOW = fg.Lane("fast"), fg.Lane("slow")
COLUMNS = {"kind": "string", "tenant": "string"}


def test_a_rule_by_column_gives_the_parser_the_default_and_the_splitter_the_rest():
    app = make_app(lanes=[FAST, SLOW])
    feed = app.feed("orders", columns=COLUMNS, lanes=fg.by_column({"kind": {"f": FAST}}, SLOW))

    [route] = feed.routes(app.feed_settings.lanes).values()
    [splitter] = feed.splitters(app.feed_settings.lanes).values()

    assert (route.default, route.table, route.ranks) == (1, (), {0, 1})
    assert splitter.needed and splitter.decodes


def test_a_feed_without_rule_and_fairness_needs_no_splitting():
    app = make_app(lanes=[FAST, SLOW])

    [splitter] = app.feed("orders").splitters(app.feed_settings.lanes).values()

    assert not splitter.needed


def test_an_expression_is_a_rule():
    app = make_app(lanes=[FAST, SLOW])
    feed = app.feed(
        "orders", columns=COLUMNS, lanes=pl.when(pl.col("kind") == "f").then(pl.lit("fast"))
    )

    assert feed.splitters(app.feed_settings.lanes)["orders"].needed


def test_a_rule_by_columns_without_columns_is_an_error_where_the_feed_is_declared():
    with pytest.raises(fg.ConfigError, match="declare columns"):
        make_app(lanes=[FAST]).feed("orders", lanes=fg.by_column({"kind": {}}, FAST))


def test_a_fair_lane_in_a_feed_ordered_by_partition_is_an_error_where_it_is_declared():
    fair = fg.Lane("fair", fair_by=fg.header("tenant"))
    app = make_app(lanes=[fair, SLOW])
    with pytest.raises(fg.ConfigError, match='order="key"'):
        app.feed("orders", lanes=fair)

    assert app.feed("others", lanes=fair, order="key").splitters(app.feed_settings.lanes)


def test_a_feed_that_is_only_sent_to_need_not_permit_fair_lanes():
    app = make_app(lanes=[fg.Lane("fair", fair_by=fg.key()), SLOW])

    sink = app.feed("scores")

    with pytest.raises(fg.ConfigError, match='order="key"'):
        sink.splitters(app.feed_settings.lanes)  # asked by who reads it


def test_a_fingerprint_is_one_of_each_topic():
    app = make_app(lanes=[FAST, SLOW])
    feed = app.feed("a", "b", lanes=fg.by_topic({"a": FAST}, SLOW))

    prints = feed.rule_fingerprints(app.feed_settings.lanes)

    assert prints.keys() == {"a", "b"} and prints["a"] != prints["b"]


@pytest.mark.parametrize("codec", ["avro", "protobuf"])
def test_a_registry_is_an_address_or_an_object(codec: str):
    class Own:
        def schema(self, id: int) -> str:
            raise LookupError

    app = make_app()
    assert app.feed("a", codec=codec, registry="https://u:p@h").codec.waits
    assert app.feed("b", codec=codec, registry=Own()).codec.waits
    with pytest.raises(fg.ConfigError, match="is no registry"):
        app.feed("c", codec=codec, registry=5)
    with pytest.raises(fg.ConfigError, match="needs registry="):
        app.feed("d", codec=codec)
    with pytest.raises(fg.ConfigError, match="is no address"):
        app.feed("e", codec=codec, registry="h:8081")


def test_a_registry_for_another_codec_is_an_error():
    with pytest.raises(fg.ConfigError, match="reads no schema registry"):
        make_app().feed("a", registry="https://h")
