"""Faults: what goes wrong in a scenario, when, and for how long.

    [[faults]]
    at = "20s"
    for = "10s"
    target = "provider"
    type = "slow"
    factor = 5.0

Some can be made by the simulator only, because a real broker or clock is not ours to break;
a run against a real worker refuses such a scenario, and says which fault it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from flowguard.errors import ConfigError
from flowguard.stress.tables import Place, choice, keys_of, read_table
from flowguard.units import MILLISECOND, SECOND

__all__ = [
    "FAULTS",
    "SIMULATED_ONLY",
    "Acknowledging",
    "Capacity",
    "Crash",
    "Decay",
    "Errors",
    "Fault",
    "FaultKind",
    "Hang",
    "Oscillating",
    "Outage",
    "Pause",
    "Rebalance",
    "Skew",
    "Slow",
    "Stalls",
    "Throttle",
    "Unreachable",
    "read_fault",
]

Target = Literal["provider", "worker", "broker", "disk", "clock", "group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """Calls take longer.

    Args:
        factor: So many times as long, > 0.
        delay_ns: And this much longer.
    """

    factor: float = 1.0
    delay_ns: int = 0

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise ConfigError(f"factor={self.factor} must be more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decay:
    """Calls take longer and longer; at the end of the fault `factor` times as long."""

    factor: float

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise ConfigError(f"factor={self.factor} must be more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The provider has other seats than in normal times."""

    seats: int

    def __post_init__(self) -> None:
        if self.seats < 1:
            raise ConfigError(f"seats={self.seats} must be 1 or more; use type = 'outage' for none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """A share of all calls fails.

    Args:
        ratio: 0 to 1.
        unavailable: The agent says that its provider is not there (`fg.Unavailable`), rather
            than that something is wrong with the batch.
    """

    ratio: float
    unavailable: bool = False

    def __post_init__(self) -> None:
        check_ratio("ratio", self.ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Oscillating:
    """The share of calls that fail jumps between two values.

    Args:
        low: 0 to 1.
        high: 0 to 1.
        every_ns: How long each lasts.
    """

    low: float
    high: float
    every_ns: int = 10 * SECOND

    def __post_init__(self) -> None:
        check_ratio("low", self.low)
        check_ratio("high", self.high)
        check_positive("every", self.every_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """The provider refuses every call at once, as unavailable.

    Args:
        retry_after_ns: What it says about when to come back; 0: nothing.
        also_running: Calls that it is working on fail too.
    """

    retry_after_ns: int = 0
    also_running: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """The provider answers no call until the fault has ended: a black hole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """The provider refuses calls above a rate, and says when to come back.

    Args:
        rate_per_s: Calls a second.
        retry_after_ns: What it says; 0: nothing.
    """

    rate_per_s: float
    retry_after_ns: int = SECOND

    def __post_init__(self) -> None:
        check_positive("rate", self.rate_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """The worker is killed, and starts again from what was committed.

    Args:
        restart_ns: Until it is back.
        every_ns: Kill it again and again; 0: once.
    """

    restart_ns: int = SECOND
    every_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """The worker's process stands still, as with SIGSTOP, until the fault has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stalls:
    """The worker's event loop stands still again and again: a busy callback, a collection.

    Args:
        every_ns: From one to the next.
        length_ns: How long each is.
    """

    every_ns: int = SECOND
    length_ns: int = 100 * MILLISECOND

    def __post_init__(self) -> None:
        check_positive("every", self.every_ns)
        check_positive("length", self.length_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalance:
    """Partitions go to another worker, and come back when the fault has ended.

    Args:
        share: Of all partitions, 0 to 1; with 0 all are given back at once.
        every_ns: Do it again and again, each time for half of this; 0: once.
    """

    share: float = 0.5
    every_ns: int = 0

    def __post_init__(self) -> None:
        check_ratio("share", self.share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreachable:
    """The broker answers no fetch and no commit: its partitions have no leader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledging:
    """The broker takes this much longer to acknowledge what was sent, and to answer fetches."""

    delay_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew:
    """The worker's wall clock is wrong.

    Args:
        by_ns: By how much.
        behind: It is slow, so that records seem to come from the future; else it is fast.
    """

    by_ns: int
    behind: bool = False


FaultKind = (
    Slow | Decay | Capacity | Errors | Oscillating | Outage | Hang | Throttle | Crash | Pause
    | Stalls | Rebalance | Unreachable | Acknowledging | Skew
)  # fmt: skip

#: Target → type, as in the file → what it does.
FAULTS: Final[Mapping[str, Mapping[str, type[FaultKind]]]] = {
    "provider": {
        "slow": Slow, "decay": Decay, "capacity": Capacity, "errors": Errors,
        "oscillating-errors": Oscillating, "outage": Outage, "hang": Hang, "throttle": Throttle,
    },
    "worker": {"crash": Crash, "pause": Pause, "stalls": Stalls},
    "group": {"rebalance": Rebalance},
    "broker": {"outage": Unreachable, "slow": Acknowledging},
    "clock": {"skew": Skew},
    "disk": {},
}  # fmt: skip

#: Faults that a run against a real worker and broker cannot make.
SIMULATED_ONLY: Final = (Unreachable, Acknowledging, Skew)

#: Faults at one instant; the others last.
AT_ONCE: Final = (Crash,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong.

    Args:
        at_ns: When, from the beginning of the scenario.
        until_ns: When it is over.
        target: What it happens to.
        type: Its name in the file.
        kind: What happens.
    """

    at_ns: int
    until_ns: int
    target: Target
    type: str
    kind: FaultKind

    @property
    def simulated_only(self) -> bool:
        """Tell whether only the simulator can make it."""
        return isinstance(self.kind, SIMULATED_ONLY)

    def __str__(self) -> str:
        return f"{self.target} {self.type}"


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """When a fault happens, as in the file."""

    at_ns: int
    for_ns: int = 0


WHEN: Final = (*keys_of(When), "target", "type")


def read_fault(table: Any, place: Place) -> Fault:
    """Return a fault as it is in the file.

    Raises:
        ConfigError: There is no such fault, or its parameters cannot be read.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place} must be a table, not {table!r}")
    for key in ("target", "type"):
        if key not in table:
            raise ConfigError(f"{place} lacks {key}")
    target = choice(table["target"], list(FAULTS), f"{place} target")
    if target == "disk":
        raise ConfigError(
            f"{place} target='disk': this version of flowguard keeps nothing on disk that could "
            f"break; leave the fault out"
        )
    name = choice(table["type"], list(FAULTS[target]), f"{place} type")
    kind = FAULTS[target][name]
    parameters = read_table(kind, table, place, owner=f"{place}, {target} {name},", also=WHEN)
    when = read_table(When, {key: table[key] for key in keys_of(When) if key in table}, place)
    if when.for_ns == 0 and kind not in AT_ONCE and not is_repeated(parameters):
        raise ConfigError(f"{place} lacks for: how long {target} {name} lasts")
    return Fault(
        at_ns=when.at_ns,
        until_ns=when.at_ns + when.for_ns,
        target=target,
        type=name,
        kind=parameters,
    )


def is_repeated(kind: FaultKind) -> bool:
    """Tell whether a rebalance gives everything back at once, and so needs no length."""
    return isinstance(kind, Rebalance) and kind.share == 0 and kind.every_ns == 0


def check_ratio(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}={value} is not a share; use 0 to 1")


def check_positive(name: str, value: float) -> None:
    if value <= 0:
        raise ConfigError(f"{name} must be more than nothing")
