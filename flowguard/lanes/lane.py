"""Lanes: priority classes and what happens when one is full."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from flowguard.errors import ConfigError
from flowguard.suggest import reject_unknown
from flowguard.units import Duration, duration_ns

__all__ = ["Block", "Lane"]

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")

#: Options of the contract that this version does not carry out yet.
LATER: Final = frozenset({"max_age", "rate", "fair_by", "demote_after", "degrade"})


@dataclass(frozen=True, slots=True)
class Block:
    """Stop fetching the lane's partitions until the lane has room again.

    Nothing is lost or reordered. Lanes that share a partition with a blocked lane
    wait with it, because a partition can only be read in order.
    """


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
        overflow: What happens when the lane's share of memory is full.

    Raises:
        ConfigError: An option is unknown, or outside its range.
    """

    name: str
    target_ns: int | None = field(default=None)
    reserve: float = 0.0
    weight: int = 1
    overflow: Block = field(default_factory=Block)

    def __init__(
        self,
        name: str,
        *,
        target: Duration | None = None,
        reserve: float = 0.0,
        weight: int = 1,
        overflow: Block | None = None,
        **unknown: Any,
    ) -> None:
        reject_unknown(
            unknown,
            known=("target", "reserve", "weight", "overflow"),
            later=LATER,
            owner=f"Lane({name!r})",
        )
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ConfigError(
                f"Lane name {name!r} is not usable; use lower-case letters, digits, - and _"
            )
        if not isinstance(reserve, (int, float)) or not 0.0 <= reserve <= 1.0:
            raise ConfigError(f"Lane({name!r}).reserve={reserve!r} is not a share; use 0 to 1")
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= 1000:
            raise ConfigError(f"Lane({name!r}).weight={weight!r} is no weight; use 1 to 1000")
        if overflow is not None and not isinstance(overflow, Block):
            raise ConfigError(
                f"Lane({name!r}).overflow={overflow!r} is not available in this version; "
                f"use Block()"
            )
        target_ns = None if target is None else duration_ns(target, name=f"Lane({name!r}).target")
        if target_ns == 0:
            raise ConfigError(f"Lane({name!r}).target must be longer than nothing")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "target_ns", target_ns)
        object.__setattr__(self, "reserve", float(reserve))
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "overflow", overflow or Block())

    @property
    def target(self) -> float | None:
        """Return the wanted p99 in seconds, or None."""
        return None if self.target_ns is None else self.target_ns / 1e9
