"""The lanes of a worker, in their one order of priority."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from flowguard.errors import ConfigError
from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Spill
from flowguard.suggest import nearest

__all__ = ["LaneSet"]

#: One bit a lane in the scheduler's masks.
LANES_MAX = 62


@dataclass(frozen=True, slots=True)
class LaneSet:
    """Lanes, highest first.

    Args:
        lanes: The lanes as they are in force.
        declared: The same lanes as code declares them, and rules name them, if settings
            changed some.

    Raises:
        ConfigError: A name is used twice, reserves exceed the whole, or there are too many.
    """

    lanes: tuple[Lane, ...]
    declared: tuple[Lane, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, lanes: Sequence[Lane] | None) -> LaneSet:
        """Return the set of these lanes; without any, of one lane named `default`."""
        return cls(tuple(lanes) if lanes else (Lane("default"),))

    def __post_init__(self) -> None:
        names = [lane.name for lane in self.lanes]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two lanes are named {name!r}; lane names must differ")
        if len(names) > LANES_MAX:
            raise ConfigError(f"{len(names)} lanes are too many; use at most {LANES_MAX}")
        if sum(lane.reserve for lane in self.lanes) > 1.0:
            raise ConfigError(
                "the lanes reserve more than all seats; make the reserves add up to 1"
            )

    def __len__(self) -> int:
        return len(self.lanes)

    def __iter__(self) -> Iterator[Lane]:
        return iter(self.lanes)

    def __getitem__(self, rank: int) -> Lane:
        return self.lanes[rank]

    def rank(self, lane: Lane, *, used_by: str) -> int:
        """Return the rank of a lane, 0 the highest.

        Raises:
            ConfigError: The lane is none of this app's.
        """
        try:
            return (self.declared or self.lanes).index(lane)
        except ValueError:
            known = [each.name for each in self.lanes]
            like = nearest(lane.name, known)
            hint = f"did you mean {like!r}?" if like else f"its lanes are {', '.join(known)}"
            raise ConfigError(
                f"{used_by} names lane {lane.name!r}, which is not in App(lanes=[…]); {hint}"
            ) from None

    @property
    def spilling(self) -> dict[int, Spill]:
        """Return the policy of each lane that may spill, by rank."""
        return {
            rank: policy
            for rank, lane in enumerate(self.lanes)
            for policy in lane.policies
            if isinstance(policy, Spill)
        }

    @property
    def target_ns_min(self) -> int | None:
        """Return the tightest target of all lanes, or None if none has one."""
        return min((lane.target_ns for lane in self.lanes if lane.target_ns), default=None)
