"""Faults of a real run: shown while they last, and at the instants of the scenario."""

from __future__ import annotations

import pytest

from flowguard.errors import ConfigError
from flowguard.stress.faults import Crash, Fault, Rebalance, Slow
from flowguard.stress.real import check_real, check_users
from flowguard.stress.scenario import Scenario, parse_scenario
from flowguard.stress.trouble import Mishaps, instants
from flowguard.units import SECOND


def fault(kind: object, at: int = 10, until: int = 20, target: str = "provider") -> Fault:
    return Fault(at_ns=at * SECOND, until_ns=until * SECOND, target=target, type="x", kind=kind)  # type: ignore[arg-type]


def scenario_with(written: str) -> Scenario:
    return parse_scenario(
        f"""
        [scenario]
        name = "s"
        duration = "60s"
        [[worker.lanes]]
        name = "realtime"
        [[arrivals]]
        lane = "realtime"
        model = "poisson"
        rate = 1
        [[faults]]
        at = "10s"
        {written}
        """,
        file="s.toml",
    )


def test_a_fault_is_shown_while_it_lasts() -> None:
    mishaps = Mishaps([fault(Slow(factor=2.0))])

    shown = [mishaps.current(t) for t in (9.9, 10.0, 19.9, 20.0)]

    assert shown == [(), ("provider x",), ("provider x",), ()]


def test_a_crash_is_shown_until_the_worker_is_back() -> None:
    mishaps = Mishaps([fault(Crash(restart_ns=3 * SECOND), until=10, target="worker")])

    assert mishaps.current(12.0) == ("worker x",)
    assert mishaps.current(15.0) == ()


def test_what_repeats_happens_again_until_it_is_over() -> None:
    again = fault(Rebalance(every_ns=4 * SECOND), target="group")

    assert instants(again, 4 * SECOND) == [10 * SECOND, 14 * SECOND, 18 * SECOND]
    assert instants(again, 0) == [10 * SECOND]


def test_faults_of_a_real_broker_are_left_to_the_simulator() -> None:
    scenario = scenario_with('for = "5s"\ntarget = "broker"\ntype = "outage"')

    with pytest.raises(ConfigError, match=r"broker outage.*--simulate"):
        check_real(scenario, embedded=False)


def test_the_embedded_broker_is_not_enough_for_a_crash() -> None:
    scenario = scenario_with('target = "worker"\ntype = "crash"')

    check_real(scenario, embedded=False)
    with pytest.raises(ConfigError, match=r"worker crash.*--broker"):
        check_real(scenario, embedded=True)


def test_an_app_of_the_users_calls_its_own_provider() -> None:
    scenario = scenario_with('for = "5s"\ntarget = "provider"\ntype = "slow"\nfactor = 2')

    with pytest.raises(ConfigError, match=r"provider slow.*without -A"):
        check_users(scenario)
