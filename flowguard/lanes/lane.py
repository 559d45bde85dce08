"""Lanes: priority classes and what happens when one is full."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from flowguard.errors import ConfigError
from flowguard.lanes.fairness import FairBy, parse_fair_by
from flowguard.lanes.overflow import Block, Policy, parse_overflow
from flowguard.suggest import reject_unknown
from flowguard.units import Duration, duration_ns, rate_per_s

__all__ = ["Lane"]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")

KNOWN: Final = (
    "target", "reserve", "weight", "max_age", "rate", "fair_by", "demote_after", "overflow",
    "degrade",
)  # fmt: skip


@dataclass(frozen=True, slots=True, init=False)
class Lane:
    """A priority class.

    Args:
        name: Label in metrics and on the command line: lower-case letters, digits, - and _.
        target: Wanted p99 from record timestamp to settled, such as `"50ms"`. Batches of
            lower lanes are cut so short that they hold a seat for a quarter of it at most,
            and the lane's own batches never linger.
        reserve: Share of the concurrency, 0..1, that other lanes may not use.
        weight: Share of what lower lanes get together, against other lower lanes, >= 1.
        max_age: Records older than this when they would be started are left out, counted as
            `expired`; timestamps of the future count as now.
        rate: Most records per second per worker, such as `"5k/s"`.
        fair_by: `fg.key()`, `fg.header("tenant")` or the name of a column: each of its values
            gets a fair share of the lane. Needs feeds with `order` key or none.
        demote_after: Records older than this wait behind the lowest lane; they are still
            accounted here.
        overflow: What happens when the lane exceeds its share of the memory, or waits longer
            than its target allows: `Block()`, `Spill(size)`, `Shed()`, `Conflate()`,
            `Divert(topic)`, or a list that is tried in order. The last resort is always
            `Block()`.
        degrade: Whether an agent's fallback may serve it in a brownout.

    Raises:
        ConfigError: An option is unknown, or outside its range.
    """

    name: str
    target_ns: int | None = field(default=None)
    reserve: float = 0.0
    weight: int = 1
    max_age_ns: int | None = None
    rate_per_s: float | None = None
    fair_by: FairBy | None = None
    demote_after_ns: int | None = None
    overflow: tuple[Policy, ...] = (Block(),)
    degrade: bool = True

    def __init__(
        self,
        name: str,
        *,
        target: Duration | None = None,
        reserve: float = 0.0,
        weight: int = 1,
        max_age: Duration | None = None,
        rate: str | float | None = None,
        fair_by: FairBy | str | None = None,
        demote_after: Duration | None = None,
        overflow: Policy | Sequence[Policy] | None = None,
        degrade: bool = True,
        **unknown: Any,
    ) -> None:
        owner = f"Lane({name!r})"
        reject_unknown(unknown, known=KNOWN, owner=owner)
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ConfigError(
                f"Lane name {name!r} is not usable; use lower-case letters, digits, - and _"
            )
        if not isinstance(reserve, (int, float)) or not 0.0 <= reserve <= 1.0:
            raise ConfigError(f"{owner}.reserve={reserve!r} is not a share; use 0 to 1")
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= 1000:
            raise ConfigError(f"{owner}.weight={weight!r} is no weight; use 1 to 1000")
        if not isinstance(degrade, bool):
            raise ConfigError(f"{owner}.degrade={degrade!r} is no choice; use true or false")
        target_ns = _time_ns(target, f"{owner}.target")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "target_ns", target_ns)
        object.__setattr__(self, "max_age_ns", _time_ns(max_age, f"{owner}.max_age"))
        object.__setattr__(self, "rate_per_s", _rate(rate, f"{owner}.rate"))
        object.__setattr__(self, "fair_by", parse_fair_by(fair_by, owner=owner))
        object.__setattr__(self, "demote_after_ns", _time_ns(demote_after, f"{owner}.demote_after"))
        object.__setattr__(self, "reserve", float(reserve))
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "overflow", parse_overflow(overflow, owner=owner))
        object.__setattr__(self, "degrade", degrade)

    @property
    def target(self) -> float | None:
        """Return the wanted p99 in seconds, or None."""
        return None if self.target_ns is None else self.target_ns / 1e9

    @property
    def max_age(self) -> float | None:
        """Return the age in seconds from which records are not started, or None."""
        return None if self.max_age_ns is None else self.max_age_ns / 1e9

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Return what is tried before the lane blocks."""
        return self.overflow[:-1]

    @property
    def demote_after(self) -> float | None:
        """Return the age in seconds from which records wait behind all others, or None."""
        return None if self.demote_after_ns is None else self.demote_after_ns / 1e9


def _time_ns(value: Duration | None, name: str) -> int | None:
    if value is None:
        return None
    time_ns = duration_ns(value, name=name)
    if time_ns == 0:
        raise ConfigError(f"{name} must be longer than nothing")
    return time_ns


def _rate(value: str | float | None, name: str) -> float | None:
    if value is None:
        return None
    rate = rate_per_s(value, name=name)
    if rate == 0:
        raise ConfigError(f"{name} must be more than nothing; leave it out for no limit")
    return rate
