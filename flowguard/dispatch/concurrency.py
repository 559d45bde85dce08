"""How many batches of an agent may be under way at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from flowguard.errors import ConfigError
from flowguard.suggest import nearest, reject_unknown

__all__ = ["ALGORITHM_NAMES", "Adaptive", "check_concurrency"]

ALGORITHM_NAMES: Final = ("goodput", "gradient", "vegas", "aimd")

#: More instances of a function than this are a slip of the pen.
SEATS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, init=False)
class Adaptive:
    """A concurrency that is learnt: as much as gets more done, and no more.

    Args:
        min: Least batches at once, >= 1.
        max: Most batches at once; so many instances of the function are started.
        algorithm: What moves the limit: `goodput`, `gradient`, `vegas`, `aimd`, or an object
            of your own with `update(window) -> Step` (`flowguard.control.limit`), one for
            each agent.

    Raises:
        ConfigError: An option is unknown, or outside its range.
    """

    min: int = 1
    max: int = 64
    algorithm: Any = "goodput"

    def __init__(
        self, min: int = 1, max: int = 64, algorithm: Any = "goodput", **unknown: object
    ) -> None:
        reject_unknown(unknown, known=("min", "max", "algorithm"), owner="Adaptive")
        for name, value in (("min", min), ("max", max)):
            check_seats(value, f"Adaptive.{name}={value!r}")
        if min > max:
            raise ConfigError(f"Adaptive.min={min} is more than max={max}; swap them")
        if isinstance(algorithm, str):
            check_name(algorithm)
        elif isinstance(algorithm, type) or not callable(getattr(algorithm, "update", None)):
            raise ConfigError(
                f"Adaptive.algorithm={algorithm!r} has no update(window); use one of "
                f"{', '.join(map(repr, ALGORITHM_NAMES))}, or an object that has it"
            )
        object.__setattr__(self, "min", min)
        object.__setattr__(self, "max", max)
        object.__setattr__(self, "algorithm", algorithm)


def check_concurrency(value: object) -> None:
    """Raise ConfigError unless this says how many batches may be under way at once."""
    if not isinstance(value, Adaptive):
        check_seats(value, f"concurrency={value!r}", also=", or fg.Adaptive(…)")


def check_seats(value: object, written: str, *, also: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{written} is no number of batches; use 1 or more{also}")
    if value > SEATS_MAX:
        raise ConfigError(f"{written} is more than {SEATS_MAX} batches at once; use less")


def check_name(name: str) -> None:
    if name in ALGORITHM_NAMES:
        return
    like = nearest(name, ALGORITHM_NAMES)
    hint = f"did you mean {like!r}?" if like else f"use {', '.join(map(repr, ALGORITHM_NAMES))}"
    raise ConfigError(f"Adaptive.algorithm={name!r} is not a choice; {hint}")
