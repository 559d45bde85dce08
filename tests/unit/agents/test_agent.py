"""Agents on feeds: what acknowledges a batch, and what does not."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import polars as pl
import pytest
from faust.exceptions import ImproperlyConfigured

import flowguard as fg
from flowguard.agents import agent as module
from flowguard.agents.delivered import current_delivered
from flowguard.agents.stuck import StuckWatch
from flowguard.errors import ConfigError, HookError
from flowguard.facts import Nack
from tests.unit.agents.app import make_app, serving


@pytest.fixture(autouse=True)
def quick_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that ends without a batch waits a second; not here."""
    monkeypatch.setattr(module, "IDLE_RESTART_S", 0.001)


async def test_coming_back_for_the_next_batch_finishes_the_last_one() -> None:
    async def agent(batches: Any) -> None:
        async for _ in batches:
            pass

    async with serving(agent) as served:
        served.deliver()
        await served.outcomes.until("finished", 1)

    assert served.outcomes.told == [("returned", 1), ("finished", 1, 0)]
    assert served.outcomes.at_once == {1}


async def test_a_batch_is_not_finished_while_the_agent_works_on_it() -> None:
    go_on = asyncio.Event()

    async def agent(batches: Any) -> None:
        async for _ in batches:
            await go_on.wait()

    async with serving(agent) as served:
        served.deliver()
        await asyncio.sleep(0.01)
        assert served.outcomes.told == []
        go_on.set()
        await served.outcomes.until("finished", 1)


async def test_an_exception_is_a_failure_and_the_function_is_entered_again_at_once() -> None:
    seen: list[int] = []

    async def agent(batches: Any) -> None:
        async for batch in batches:
            seen.append(batch.to_pylist()[0]["n"])
            if seen[-1] == 1:
                raise ValueError("bad row")

    async with serving(agent) as served:
        served.deliver([{"n": 1}])
        served.deliver([{"n": 2}])
        await served.outcomes.until("finished", 2)

    assert seen == [1, 2]
    assert "finished" not in served.outcomes.names(1)
    assert isinstance(served.agent.last_error, ValueError)


@pytest.mark.parametrize("how", ["return", "break"])
async def test_leaving_the_loop_acknowledges_nothing(how: str) -> None:
    left: list[int] = []

    async def agent(batches: Any) -> None:
        async for _ in batches:
            if not left:
                left.append(1)
                if how == "return":
                    return
                break

    async with serving(agent) as served:
        served.deliver()
        served.deliver()
        _, _, error = await served.outcomes.until("failed", 1)
        await served.outcomes.until("finished", 2)

    assert isinstance(error, HookError)
    assert "left its loop" in str(error)
    assert "finished" not in served.outcomes.names(1)


async def test_a_function_that_ends_without_a_batch_is_entered_again() -> None:
    entered: list[int] = []

    async def agent(batches: Any) -> None:
        entered.append(1)
        if len(entered) < 3:
            return
        async for _ in batches:
            pass

    async with serving(agent) as served:
        served.deliver()
        await served.outcomes.until("finished", 1)

    assert len(entered) == 3


async def test_a_cancelled_agent_fails_its_batch() -> None:
    async def agent(batches: Any) -> None:
        async for _ in batches:
            await asyncio.Event().wait()

    async with serving(agent) as served:
        served.deliver()
        await asyncio.sleep(0.01)

    assert served.outcomes.names(1)[-1] == "failed"
    assert "finished" not in served.outcomes.names(1)


async def test_each_instance_has_a_batch_of_its_own() -> None:
    together = asyncio.Event()
    inside: list[int] = []

    async def agent(batches: Any) -> None:
        async for batch in batches:
            inside.append(batch.to_pylist()[0]["n"])
            if len(inside) == 2:
                together.set()
            await together.wait()

    async with serving(agent, concurrency=2) as served:
        served.deliver([{"n": 1}])
        served.deliver([{"n": 2}])
        await served.outcomes.until("finished", 1)
        await served.outcomes.until("finished", 2)

    assert sorted(inside) == [1, 2]


# Sends hold the batch.


async def test_a_send_inside_the_loop_holds_the_batch() -> None:
    acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def agent(batches: Any) -> None:
        async for _ in batches:
            delivered = current_delivered()
            assert delivered is not None
            delivered.hold(acknowledged)

    async with serving(agent) as served:
        served.deliver()
        await served.outcomes.until("returned", 1)
        assert served.outcomes.names(1) == ["returned"]
        assert not served.outcomes.at_once
        acknowledged.set_result(None)
        await served.outcomes.until("finished", 1)


async def test_a_send_that_fails_fails_the_batch_though_the_agent_came_back() -> None:
    acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def agent(batches: Any) -> None:
        async for _ in batches:
            delivered = current_delivered()
            assert delivered is not None
            delivered.hold(acknowledged)

    async with serving(agent) as served:
        served.deliver()
        await served.outcomes.until("returned", 1)
        acknowledged.set_exception(OSError("not acknowledged"))
        _, _, error = await served.outcomes.until("failed", 1)

    assert isinstance(error, OSError)
    assert served.outcomes.names(1) == ["returned", "failed"]


async def test_a_send_that_is_cancelled_fails_the_batch() -> None:
    acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def agent(batches: Any) -> None:
        async for _ in batches:
            delivered = current_delivered()
            assert delivered is not None
            delivered.hold(acknowledged)

    async with serving(agent) as served:
        served.deliver()
        await served.outcomes.until("returned", 1)
        acknowledged.cancel()
        await served.outcomes.until("failed", 1)


async def test_an_exception_waits_for_the_sends_under_way_and_then_fails_once() -> None:
    acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def agent(batches: Any) -> None:
        async for _ in batches:
            delivered = current_delivered()
            assert delivered is not None
            delivered.hold(acknowledged)
            raise ValueError("no")

    async with serving(agent) as served:
        served.deliver()
        await asyncio.sleep(0.01)
        assert "failed" not in served.outcomes.names(1)
        acknowledged.set_result(None)
        await served.outcomes.until("failed", 1)

    assert served.outcomes.names(1).count("failed") == 1
    assert "finished" not in served.outcomes.names(1)


async def test_outside_of_the_loop_nothing_is_held() -> None:
    seen: list[Any] = []

    async def agent(batches: Any) -> None:
        seen.append(current_delivered())
        async for _ in batches:
            pass

    async with serving(agent) as served:
        served.deliver()
        await served.outcomes.until("finished", 1)

    assert seen == [None]
    assert current_delivered() is None


# Sinks.


class FakeEgress:
    """Frames that would be sent; acknowledged when the test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        self.sent: list[tuple[str, pl.DataFrame, str | None]] = []
        self.gate = asyncio.Event()
        self.error = error

    def begin(self, feed: Any, frame: pl.DataFrame, *, key_by: str | None) -> asyncio.Future[None]:
        self.sent.append((feed.get_topic_name(), frame, key_by))
        sending = asyncio.ensure_future(self.acknowledge())
        delivered = current_delivered()
        assert delivered is not None
        delivered.hold(sending)
        return sending

    async def acknowledge(self) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error

    async def wait_for_room(self) -> None:
        pass


async def yielding(batches: Any) -> Any:
    async for batch in batches:
        yield batch.to_polars()


async def test_what_is_yielded_goes_to_the_sink_and_holds_the_batch() -> None:
    app = make_app()
    egress = app.__dict__["egress"] = FakeEgress()
    scores = app.feed("scores", key_by="n")
    async with serving(yielding, app=app, sink=[scores]) as served:
        served.deliver([{"n": 5}])
        await served.outcomes.until("returned", 1)
        await asyncio.sleep(0)
        assert served.outcomes.names(1) == ["returned"]
        egress.gate.set()
        await served.outcomes.until("finished", 1)

    ((topic, frame, key_by),) = egress.sent
    assert (topic, frame.to_dicts(), key_by) == ("scores", [{"n": 5}], "n")


async def test_the_agent_works_on_while_its_sink_has_not_acknowledged() -> None:
    app = make_app()
    egress = app.__dict__["egress"] = FakeEgress()
    async with serving(yielding, app=app, sink=[app.feed("scores")]) as served:
        served.deliver()
        served.deliver()
        await served.outcomes.until("returned", 2)
        assert [each[0] for each in served.outcomes.told] == ["returned", "returned"]
        egress.gate.set()
        await served.outcomes.until("finished", 2)


async def test_a_sink_that_fails_fails_the_batch() -> None:
    app = make_app()
    egress = app.__dict__["egress"] = FakeEgress(fg.SettleError("refused"))
    egress.gate.set()
    async with serving(yielding, app=app, sink=[app.feed("scores")]) as served:
        served.deliver()
        _, _, error = await served.outcomes.until("failed", 1)

    assert isinstance(error, fg.SettleError)
    assert "finished" not in served.outcomes.names(1)


async def test_a_callable_sink_that_raises_fails_the_batch_and_the_agent_goes_on() -> None:
    calls: list[Any] = []

    def sink(value: Any) -> None:
        calls.append(value)
        if len(calls) == 1:
            raise ValueError("no")

    async with serving(yielding, sink=[sink]) as served:
        served.deliver()
        served.deliver()
        await served.outcomes.until("failed", 1)
        await served.outcomes.until("finished", 2)


async def test_a_function_that_does_not_yield_cannot_have_sinks() -> None:
    async def agent(batches: Any) -> None:
        async for _ in batches:
            pass

    app = make_app()
    made = app.agent(app.feed("orders"), name="agent", sink=[print])(agent)
    actor = made(stream=made.stream(), index=None)

    with pytest.raises(ImproperlyConfigured, match="must yield"):
        await made._prepare_actor(actor, made.beacon)
    actor.it.close()


# Streams.


@pytest.mark.parametrize(
    "name", ["take", "take_events", "take_with_timestamp", "noack_take", "group_by", "through"]
)
async def test_what_batches_cannot_do_says_so(name: str) -> None:
    app = make_app()
    agent = app.agent(app.feed("orders"), name="agent")(yielding)

    with pytest.raises(HookError, match="not available on batches"):
        getattr(agent.stream(), name)(1)


async def test_the_engine_learns_what_was_declared() -> None:
    app = make_app()
    feed = app.feed("orders", "returns", order="none")
    agent = app.agent(
        feed, name="a", concurrency=3, batch=fg.BatchSize(max=7, linger="1ms", by_partition=True)
    )(yielding)

    plan = agent.plan()

    assert (plan.name, plan.topics, plan.seats) == ("a", {"orders", "returns"}, 3)
    assert (plan.records_max, plan.linger_ns, plan.by_partition) == (7, 1_000_000, True)
    assert plan.order == "none"


async def test_an_adaptive_agent_has_as_many_instances_as_there_can_be_seats() -> None:
    app = make_app()
    adaptive = fg.Adaptive(min=2, max=5, algorithm="vegas")
    agent = app.agent(app.feed("orders"), name="a", concurrency=adaptive)(yielding)

    plan = agent.plan()

    assert (plan.seats, plan.adaptive, agent.concurrency) == (5, adaptive, 5)


async def test_concurrency_is_one_batch_at_a_time_unless_it_is_given() -> None:
    app = make_app()
    agent = app.agent(app.feed("orders"), name="a")(yielding)

    assert (agent.plan().seats, agent.plan().adaptive) == (1, None)


@pytest.mark.parametrize("concurrency", [0, "many", 2.5, True])
async def test_a_concurrency_that_is_none_is_refused(concurrency: object) -> None:
    app = make_app()

    with pytest.raises(ConfigError, match=r"or fg\.Adaptive"):
        app.agent(app.feed("orders"), concurrency=concurrency)(yielding)


async def test_one_algorithm_cannot_steer_two_agents() -> None:
    class Mine:
        def update(self, window: object) -> object:
            raise NotImplementedError

    app = make_app()
    orders, shared = app.feed("orders"), fg.Adaptive(algorithm=Mine())
    app.agent(orders, name="a", concurrency=shared)(yielding)
    app.agent(orders, name="b", concurrency=shared)(yielding)

    with pytest.raises(ConfigError, match="agents a and b share one algorithm object"):
        app.runtime.declared.check()


async def test_rejected_rows_are_buried_when_the_agent_comes_back_and_counted() -> None:
    async def agent(batches: Any) -> None:
        async for batch in batches:
            batch.reject(batch.to_polars()["n"] > 2, "too large")

    async with serving(agent) as served:
        served.deliver([{"n": n} for n in range(5)])
        finished = await served.outcomes.until("finished", 1)

    assert served.buried == [{3: "too large", 4: "too large"}]
    assert finished == ("finished", 1, 2)


async def test_what_was_rejected_before_an_exception_is_not_buried() -> None:
    async def agent(batches: Any) -> None:
        async for batch in batches:
            batch.reject([0], "bad")
            raise ValueError("no")

    async with serving(agent) as served:
        served.deliver([{"n": 1}, {"n": 2}])
        await served.outcomes.until("failed", 1)

    assert served.buried == []


async def test_nacked_rows_are_told_with_the_rest_settled_and_the_loop_goes_on() -> None:
    async def agent(batches: Any) -> None:
        async for batch in batches:
            batch.nack("no", rows=[1])

    async with serving(agent) as served:
        served.deliver([{"n": 1}, {"n": 2}])
        served.deliver([{"n": 1}, {"n": 2}])
        await served.outcomes.until("finished", 2)

    assert served.outcomes.nacked == {1: {1: Nack("no")}, 2: {1: Nack("no")}}


async def test_a_batch_that_is_nacked_as_a_whole_has_failed_though_the_loop_goes_on() -> None:
    async def agent(batches: Any) -> None:
        async for batch in batches:
            batch.nack("the model warms up", after="3s")

    async with serving(agent) as served:
        served.deliver()
        served.deliver()
        _, _, error = await served.outcomes.until("failed", 2)

    assert str(error) == "the model warms up" and error.retry_after_ns == 3_000_000_000
    assert "finished" not in served.outcomes.names(1)


async def test_a_function_that_takes_longer_than_its_timeout_is_interrupted_and_entered_again() -> (
    None
):
    async def wait_for_model() -> None:
        await asyncio.Event().wait()

    async def agent(batches: Any) -> None:
        async for batch in batches:
            if batch.to_pylist()[0]["n"] == 1:
                await wait_for_model()

    async with serving(agent, timeout="20ms") as served:
        served.deliver([{"n": 1}])
        served.deliver([{"n": 2}])
        _, _, error = await served.outcomes.until("failed", 1)
        await served.outcomes.until("finished", 2)

    assert isinstance(error, TimeoutError)
    assert "longer than timeout=20.0 ms" in str(error) and "wait_for_model" in str(error)


async def test_a_timeout_is_for_each_batch_and_not_for_the_loop() -> None:
    async def agent(batches: Any) -> None:
        async for _ in batches:
            await asyncio.sleep(0.02)

    async with serving(agent, timeout="10s") as served:
        for _ in range(5):
            served.deliver()
        await served.outcomes.until("finished", 5)

    assert not [told for told in served.outcomes.told if told[0] == "failed"]


async def test_an_agent_that_is_stopped_while_its_time_runs_does_not_go_on() -> None:
    async def agent(batches: Any) -> None:
        async for _ in batches:
            await asyncio.Event().wait()

    async with serving(agent, timeout="10s") as served:
        served.deliver()
        await asyncio.sleep(0.01)
    _, _, error = await served.outcomes.until("failed", 1)

    assert isinstance(error, asyncio.CancelledError)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": "5"}, "use fg.Retry"),
        ({"timeout": 0}, "leaves no time"),
        ({"dead_letters": "dlq"}, "use fg.DeadLetters"),
        ({"timeouts": 1}, "did you mean timeout"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    app = make_app()
    with pytest.raises(ConfigError, match=message):
        app.agent(app.feed("orders"), **options)(lambda batches: None)


async def test_an_agent_that_does_not_come_back_is_named_once_with_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ask_model() -> None:
        await asyncio.Event().wait()

    async def agent(batches: Any) -> None:
        async for _ in batches:
            await ask_model()

    async with serving(agent) as served:
        served.deliver()
        await asyncio.sleep(0.01)
        watch = StuckWatch([served.agent], logging.getLogger("test"))
        now_s = asyncio.get_running_loop().time()
        watch.look(now_s)
        assert not caplog.messages
        for _ in range(3):
            watch.look(now_s + 61)

    (said,) = [each for each in caplog.messages if "has had a batch" in each]
    assert "agent has had a batch for 61.0 s: <Batch: 1 records" in said
    assert "ask_model" in said and "timeout= of the agent" in said
