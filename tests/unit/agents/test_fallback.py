"""A second function of an agent, and what an agent says when something is not there."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

import flowguard as fg
from flowguard.agents import agent as module
from flowguard.settle.service import headers_of
from flowguard.units import SECOND
from tests.unit.agents.app import make_app, serving


@pytest.fixture(autouse=True)
def quick_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that ends without a batch waits a second; not here."""
    monkeypatch.setattr(module, "IDLE_RESTART_S", 0.001)


async def primary(batches: Any) -> Any:
    async for batch in batches:
        yield "primary", batch.degraded


async def rules_only(batches: Any) -> Any:
    async for batch in batches:
        yield "fallback", batch.degraded


def declared(**options: Any) -> Any:
    app = make_app()
    return app.agent(app.feed("orders"), name="score", **options)(primary)


# What serves.


async def test_a_degraded_batch_goes_to_the_fallback_and_the_same_sinks() -> None:
    sunk: list[Any] = []
    async with serving(primary, fallback=rules_only, sink=[sunk.append]) as served:
        served.deliver()
        served.deliver(occasion="brownout")
        await served.outcomes.until("finished", 1)
        await served.outcomes.until("finished", 2)

    assert sorted(sunk) == [("fallback", True), ("primary", False)]


async def test_a_batch_names_its_occasion_and_so_do_the_headers_of_what_is_sent() -> None:
    seen: list[Any] = []

    async def note(batches: Any) -> None:
        async for batch in batches:
            headers = headers_of(batches.current)
            seen.append((batch.degraded, batch.occasion, headers))

    async with serving(note, fallback=note) as served:
        served.deliver()
        served.deliver(occasion="deadline")
        await served.outcomes.until("finished", 1)
        await served.outcomes.until("finished", 2)

    lane = ("fg-lane", b"default")
    assert (False, "", [lane]) in seen
    assert (True, "deadline", [lane, ("fg-degraded", b"deadline")]) in seen


async def test_instances_of_both_work_at_once() -> None:
    inside, go_on = set(), asyncio.Event()

    async def wait(batches: Any) -> None:
        async for batch in batches:
            inside.add((batch.to_pylist()[0]["n"], batch.degraded))
            await go_on.wait()

    async with serving(wait, fallback=wait, concurrency=2) as served:
        for number in range(3):
            served.deliver([{"n": number}])
            served.deliver([{"n": number}], occasion="failure")
        await asyncio.sleep(0.01)
        assert inside == {(n, degraded) for n in range(2) for degraded in (False, True)}
        go_on.set()
        for batch_id in range(1, 7):
            await served.outcomes.until("finished", batch_id)


async def test_a_fallback_that_raises_fails_its_batch_and_is_entered_again() -> None:
    calls: list[int] = []

    async def fails_once(batches: Any) -> None:
        async for _ in batches:
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("no rules")

    async with serving(primary, fallback=fails_once) as served:
        served.deliver(occasion="failure")
        await served.outcomes.until("failed", 1)
        served.deliver(occasion="failure")
        await served.outcomes.until("finished", 2)


async def test_stopping_fails_what_the_fallback_has() -> None:
    async def hang(batches: Any) -> None:
        async for _ in batches:
            await asyncio.Event().wait()

    async with serving(primary, fallback=hang) as served:
        served.deliver(occasion="failure")
        await asyncio.sleep(0.01)
    (_, _, error) = await served.outcomes.until("failed", 1)
    assert isinstance(error, asyncio.CancelledError)


# What is declared.


def test_a_fallback_is_declared_with_or_without_its_occasions() -> None:
    agent = declared()
    assert agent.plan().fallback_on == frozenset()

    agent = declared()
    assert agent.fallback(rules_only) is rules_only
    assert agent.plan().fallback_on == {"brownout", "failure", "deadline"}

    agent = declared()
    agent.fallback(on=("failure", "deadline"))(rules_only)
    assert agent.plan().fallback_on == {"failure", "deadline"}

    agent = declared()
    agent.fallback(on="failure")(rules_only)
    assert agent.plan().fallback_on == {"failure"}


@pytest.mark.parametrize(
    ("on", "says"),
    [
        (("brown-out",), "on='brown-out' is no occasion; did you mean 'brownout'"),
        ("failures", "did you mean 'failure'"),
        (("xyz",), "use brownout, failure, deadline"),
        ((), "would never serve"),
        ((7,), "is no occasion"),
    ],
)
def test_an_occasion_that_does_not_exist_is_an_error(on: Any, says: str) -> None:
    with pytest.raises(fg.ConfigError, match=says):
        declared().fallback(on=on)


def test_an_occasion_without_on_says_how_it_is_written() -> None:
    with pytest.raises(fg.ConfigError, match=r"write @agent.fallback\(on='failure'\)"):
        declared().fallback("failure")


def test_a_second_fallback_names_the_first() -> None:
    agent = declared()
    agent.fallback(rules_only)
    with pytest.raises(fg.ConfigError, match="has a fallback already, rules_only"):
        agent.fallback(on="failure")(primary)


def test_a_fallback_must_be_an_agent_function() -> None:
    def plain(batches: Any) -> None: ...

    async def silent(batches: Any) -> None: ...

    with pytest.raises(fg.ConfigError, match="plain is no agent function; write async def"):
        declared().fallback(plain)
    declared().fallback(silent)
    with pytest.raises(fg.ConfigError, match="silent yields nothing, and its sinks wait"):
        declared(sink=[print]).fallback(silent)


def test_a_fallback_that_comes_after_the_start_is_an_error() -> None:
    agent = declared()
    agent.plan()
    with pytest.raises(fg.ConfigError, match="comes too late"):
        agent.fallback(rules_only)


def test_plain_values_have_no_batches_that_a_fallback_could_serve() -> None:
    app = make_app()
    with pytest.raises(fg.ConfigError, match=r"batch=False is not available; use fg.BatchSize"):
        app.agent(app.feed("orders"), batch=False)


# What is not there.


@pytest.mark.parametrize(
    ("given", "retry_after_ns", "text"),
    [
        ((), None, ""),
        ((30,), 30 * SECOND, ""),
        (("2s",), 2 * SECOND, ""),
        ((timedelta(minutes=1),), 60 * SECOND, ""),
        (("the model server is down",), None, "the model server is down"),
        ((-5,), None, ""),
        ((float("nan"),), None, ""),
        ((float("inf"),), None, ""),
        ((object(),), None, ""),
    ],
)
def test_unavailable_takes_anything(given: Any, retry_after_ns: int | None, text: str) -> None:
    error = fg.Unavailable(*given)
    assert error.retry_after_ns == retry_after_ns
    assert str(error) == text


def test_unavailable_says_why_beside_how_long() -> None:
    error = fg.Unavailable(30, why="503")
    assert (str(error), error.retry_after_ns) == ("503", 30 * SECOND)
    assert isinstance(error, fg.FlowguardError)


async def test_unavailable_fails_the_batch_without_a_traceback_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def away(batches: Any) -> None:
        async for _ in batches:
            raise fg.Unavailable(1)

    async with serving(away) as served:
        for batch_id in range(1, 20):
            served.deliver()
            _, _, error = await served.outcomes.until("failed", batch_id)
            assert isinstance(error, fg.Unavailable)
    assert "Traceback" not in caplog.text
