"""Liveness and readiness."""

from __future__ import annotations

import asyncio

from flowguard.observe.health import (
    AWAY_MAX_S,
    SILENCE_MAX_S,
    Absence,
    Pulse,
    liveness,
    readiness,
)


def test_a_quiet_worker_is_alive() -> None:
    assert liveness([("loop", 0.0)], idle_s=1.0, idle_max_s=30.0).status == 200


def test_a_hanging_loop_is_not_alive() -> None:
    health = liveness([("the loop", SILENCE_MAX_S + 1)], idle_s=0.0, idle_max_s=30.0)
    assert (health.status, health.why) == (503, "the loop has not answered for 11 s")


def test_a_hanging_loop_is_named_with_the_place_where_it_hangs() -> None:
    health = liveness([("the loop", 11.0)], idle_s=0.0, idle_max_s=30.0, place="a.py:3 score")
    assert health.why == "the loop has not answered for 11 s; it is in a.py:3 score"


def test_a_consumer_that_does_not_poll_is_not_alive() -> None:
    assert "has not polled for 31 s" in str(liveness([], idle_s=31.0, idle_max_s=30.0).why)


async def test_a_pulse_measures_how_long_its_question_waits() -> None:
    pulse, loop = Pulse("loop"), asyncio.get_running_loop()
    assert pulse.silence_s(loop, 0.0) == 0.0
    assert pulse.silence_s(loop, 12.0) == 12.0  # nothing else has run meanwhile
    await asyncio.sleep(0)
    assert pulse.silence_s(loop, 20.0) == 0.0


def test_a_pulse_asks_nothing_of_a_closed_loop() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert Pulse("loop").silence_s(loop, 0.0) == 0.0


def test_readiness() -> None:
    assert readiness(joined=True, stopping=False).ok
    assert readiness(joined=False, stopping=False).status == 503
    assert readiness(joined=True, stopping=True).why == "the worker is stopping"


def test_a_worker_without_a_broker_is_not_ready_after_a_while() -> None:
    assert readiness(joined=True, stopping=False, away_s=AWAY_MAX_S).ok
    health = readiness(joined=True, stopping=False, away_s=AWAY_MAX_S + 1)
    assert health.why == "no broker has spoken for the group for 11 s"


def test_an_absence_begins_when_it_is_first_seen_and_ends_at_once() -> None:
    absence = Absence()
    assert [absence.away_s(away, now_s) for away, now_s in (
        (False, 0.0), (True, 5.0), (True, 17.0), (False, 18.0), (True, 19.0),
    )] == [0.0, 0.0, 12.0, 0.0, 0.0]  # fmt: skip
