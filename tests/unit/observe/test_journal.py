"""The log is told of each rung, and of what is unavailable, once."""

from __future__ import annotations

import logging

import pytest

from flowguard.facts import Ticked
from flowguard.observe.journal import Journal
from flowguard.units import MILLISECOND
from tests.builders import A, EngineDriver


def driver(*on: str) -> tuple[EngineDriver, Journal]:
    d = EngineDriver(fallback_on=frozenset(on))
    d.assign(A=0)
    return d, Journal(d.engine, logging.getLogger("journal"))


def test_each_rung_is_said_once_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    d, journal = driver()
    for _ in range(30):
        d.now_ns += 100 * MILLISECOND
        d.tell(Ticked(at_ns=d.now_ns, loop_lag_ns=90 * MILLISECOND))
        journal.look(0)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "rung 0 → 1: pressure 0.90 (the event loop is mostly 90 ms late): bulk"
    )
    for _ in range(300):
        d.wait(100)
        journal.look(0)
    assert caplog.records[-1].levelname == "INFO"
    assert "rung 1 → 0" in caplog.records[-1].getMessage()


def test_an_outage_is_said_when_it_begins_and_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    d, journal = driver()
    (cut,) = d.records(A, [0])
    for _ in range(5):
        d.refuse(cut)
        journal.look(0)
        d.wait(10_000)
    d.finish(cut)
    journal.look(0)
    journal.look(0)
    said = [each.getMessage() for each in caplog.records if "rung" not in each.getMessage()]
    assert said == [
        "agent: Unavailable; its batches are held, and one tries now and then whether it is back",
        "agent: what was unavailable is back",
    ]


def test_an_outage_shorter_than_a_tick_is_said_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    d, journal = driver("failure")
    (cut,) = d.records(A, [0])
    d.refuse(cut)
    d.finish(cut)
    d.wait(100)
    (probe,) = d.records(A, [1])
    d.finish(probe)
    journal.look(0)
    assert len(caplog.records) == 2
