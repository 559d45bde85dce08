"""What goes wrong with a provider, on whichever clock: the simulator's, or a real worker's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from flowguard.stress.faults import (
    Capacity,
    Decay,
    Errors,
    Fault,
    Hang,
    Oscillating,
    Outage,
    Slow,
    Throttle,
)
from flowguard.stress.scenario import ProviderPlan
from flowguard.stress.simulator.provider import Answer, Provider
from flowguard.units import MILLISECOND

__all__ = ["Stage", "plan_provider_fault"]

#: What gets worse little by little does so in steps of this.
STEP_NS: Final = 100 * MILLISECOND


class Clockwork(Protocol):
    """Where instants come to pass."""

    @property
    def now_ns(self) -> int:
        """Return the present."""
        ...

    def at(self, at_ns: int, event: Callable[[], None]) -> None:
        """Let something happen at an instant, now if that has passed."""
        ...


class Stage(Protocol):
    """A provider, its clock, and what calls it."""

    @property
    def provider(self) -> Provider:
        """Return the provider."""
        ...

    @property
    def usual(self) -> ProviderPlan:
        """Return what it is like when nothing is wrong."""
        ...

    @property
    def agenda(self) -> Clockwork:
        """Return the clock of its calls."""
        ...

    def wake_provider(self) -> None:
        """Look again when the next call is done."""
        ...


def plan_provider_fault(stage: Stage, fault: Fault) -> None:
    """Let a fault happen when it is to; those of others are left out."""
    kind, begin_ns, end_ns = fault.kind, fault.at_ns, fault.until_ns
    usual = stage.usual

    def provider_is(at_ns: int, **state: object) -> None:
        def change() -> None:
            stage.provider.change(stage.agenda.now_ns, **state)
            stage.wake_provider()

        stage.agenda.at(at_ns, change)

    match kind:
        case Slow():
            provider_is(begin_ns, factor=kind.factor, delay_ns=kind.delay_ns)
            provider_is(end_ns, factor=1.0, delay_ns=0)
        case Decay():
            for at_ns in range(begin_ns, end_ns, STEP_NS):
                done = (at_ns - begin_ns) / (end_ns - begin_ns)
                provider_is(at_ns, factor=1.0 + (kind.factor - 1.0) * done)
            provider_is(end_ns, factor=1.0)
        case Capacity():
            provider_is(begin_ns, capacity=kind.seats)
            provider_is(end_ns, capacity=usual.capacity)
        case Errors():
            provider_is(begin_ns, errors=kind.ratio, unavailable=kind.unavailable)
            provider_is(end_ns, errors=usual.errors, unavailable=usual.unavailable)
        case Oscillating():
            for number, at_ns in enumerate(range(begin_ns, end_ns, kind.every_ns)):
                provider_is(at_ns, errors=kind.high if number % 2 else kind.low)
            provider_is(end_ns, errors=usual.errors)
        case Outage():
            plan_outage(stage, kind, begin_ns, end_ns)
        case Hang():
            provider_is(begin_ns, hanging=True)
            provider_is(end_ns, hanging=False)
        case Throttle():
            provider_is(begin_ns, retry_after_ns=kind.retry_after_ns)
            stage.agenda.at(begin_ns, lambda: stage.provider.throttle(kind.rate_per_s))
            stage.agenda.at(end_ns, lambda: stage.provider.throttle(None))
            provider_is(end_ns, retry_after_ns=usual.retry_after_ns)


def plan_outage(stage: Stage, kind: Outage, begin_ns: int, end_ns: int) -> None:
    refusal = Answer("the provider is down", True, kind.retry_after_ns or None)

    def go_down() -> None:
        stage.provider.outage = refusal
        if kind.also_running:
            stage.provider.fail_all(stage.agenda.now_ns, refusal)

    def come_back() -> None:
        stage.provider.outage = None

    stage.agenda.at(begin_ns, go_down)
    stage.agenda.at(end_ns, come_back)
