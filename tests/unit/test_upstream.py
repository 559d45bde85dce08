"""What upstream services hear, and what they make of garbage."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowguard.upstream import WORKERS_MAX, Heard, parse


def value(**changes: Any) -> bytes:
    document = {
        "schema": "flowguard.pressure/v1", "worker": "a:1", "level": 0.4, "rung": 2,
        "lanes": {"hints": {"admitted": 0.3}, "realtime": {"admitted": 1.0}}, "ttl": 15,
    } | changes  # fmt: skip
    return json.dumps(document).encode()


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_report_is_read() -> None:
    report = parse(value())
    assert report is not None
    assert (report.level, report.rung, report.ttl_s) == (0.4, 2, 15.0)
    assert report.admitted == {"hints": 0.3, "realtime": 1.0}


def test_keys_that_are_not_known_yet_are_no_trouble() -> None:
    assert parse(value(more={"x": 1})) is not None
    assert parse(value(lanes={"hints": {"admitted": 1, "why": "because"}})) is not None


@pytest.mark.parametrize(
    "garbage",
    [
        None, b"", b"{}", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"[" * 100_000,
        value(schema="flowguard.pressure/v2"), value(schema=None), value(level="high"),
        value(level=1.5), value(level=-0.1), value(level=True), value(level=float("nan")),
        value(rung="two"), value(rung=None), value(lanes=[]), value(lanes={"hints": 0.3}),
        value(lanes={"hints": {}}), value(lanes={"hints": {"admitted": 2}}), value(lanes="ab"),
        value(ttl=-1), value(ttl="soon"), value(ttl=float("inf")), value(rung=float("inf")),
        value(lanes={"x" * 70_000: {"admitted": 1}}),
    ],
)  # fmt: skip
def test_garbage_is_no_report_and_changes_nothing(garbage: bytes | None) -> None:
    assert parse(garbage) is None
    heard = Heard(Clock())
    heard.take(b"a:1", value())
    if garbage is not None:
        heard.take(b"a:1", garbage)
    assert heard.admitted("hints") == 0.3


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    raw=st.binary(max_size=100)
    | json_values.map(lambda each: json.dumps(each).encode())
    | st.dictionaries(
        st.sampled_from(["level", "rung", "lanes", "ttl", "schema"]), json_values
    ).map(lambda each: value(**each))
)
def test_nothing_that_is_written_there_can_hurt(raw: bytes) -> None:
    heard = Heard(Clock())
    heard.take(b"x", raw)
    assert 0.0 <= heard.admitted("hints") <= 1.0
    assert 0.0 <= heard.level <= 1.0


def test_nothing_known_admits_everything() -> None:
    heard = Heard(Clock())
    assert heard.admitted("hints") == 1.0 and heard.level == 0.0
    heard.take(b"a:1", value())
    assert heard.admitted("another lane") == 1.0


def test_the_least_of_all_living_workers_counts() -> None:
    heard = Heard(Clock())
    heard.take(b"a:1", value())
    heard.take(b"b:1", value(lanes={"hints": {"admitted": 0.1}}, level=0.9))
    assert heard.admitted("hints") == 0.1 and heard.level == 0.9
    heard.take(b"b:1", None)
    assert heard.admitted("hints") == 0.3, "it has taken leave"


def test_a_worker_that_says_nothing_more_is_forgotten() -> None:
    clock = Clock()
    heard = Heard(clock)
    heard.take(b"a:1", value())
    clock.now_s += 14.9
    assert heard.admitted("hints") == 0.3
    clock.now_s += 0.2
    assert heard.admitted("hints") == 1.0 and heard.living == []


def test_what_is_old_when_it_is_read_lives_for_less() -> None:
    clock = Clock()
    heard = Heard(clock)
    heard.take(b"a:1", value(), age_s=14)
    assert heard.admitted("hints") == 0.3
    clock.now_s += 2
    assert heard.admitted("hints") == 1.0
    heard.take(b"b:1", value(), age_s=3600)
    assert heard.admitted("hints") == 1.0
    heard.take(b"c:1", value(), age_s=-3600)  # a clock that is ahead
    clock.now_s += 16
    assert heard.admitted("hints") == 1.0


def test_a_record_without_a_key_is_nobodys() -> None:
    heard = Heard(Clock())
    heard.take(None, value())
    assert heard.living == []


def test_a_flood_of_keys_is_bounded_and_the_dead_make_room() -> None:
    clock = Clock()
    heard = Heard(clock)
    for number in range(WORKERS_MAX + 100):
        heard.take(b"%d" % number, value(ttl=10))
    assert len(heard.living) == WORKERS_MAX
    clock.now_s += 11
    heard.take(b"late", value())
    assert len(heard.living) == 1
