"""Count dead letters by what is wrong with them, in memory that has an end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from flowguard.cli.dlq_letters import Letter, shortened

__all__ = ["Counts", "Group"]

#: Reasons may differ in every letter; beyond so many groups the rest is counted together.
GROUPS_MAX: Final = 10_000

#: The reason under which they are.
OTHER: Final = "other reasons"

Key = tuple[str | None, str, str | None, str | None]


@dataclass(slots=True)
class Group:
    """Letters that have the same thing wrong.

    Args:
        first_ms: The oldest time of one, None while no letter had one.
        last_ms: The newest.
        returned: How many had been redriven before, and came back.
    """

    letters: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    returned: int = 0

    def add(self, letter: Letter) -> None:
        """Count one letter."""
        self.letters += 1
        self.returned += letter.redriven > 0
        moment_ms = letter.timestamp_ms
        if moment_ms >= 0:
            first_ms, last_ms = self.first_ms, self.last_ms
            self.first_ms = moment_ms if first_ms is None else min(first_ms, moment_ms)
            self.last_ms = moment_ms if last_ms is None else max(last_ms, moment_ms)

    def to_dict(self) -> dict[str, Any]:
        """Return it as in the JSON; times are seconds of the epoch."""
        return {
            "letters": self.letters,
            "returned": self.returned,
            "first": None if self.first_ms is None else self.first_ms / 1000,
            "last": None if self.last_ms is None else self.last_ms / 1000,
        }


@dataclass(slots=True)
class Counts:
    """All letters, and those of each type, reason, original topic and lane.

    Args:
        groups_max: As many groups are kept.
    """

    groups_max: int = GROUPS_MAX
    all: Group = field(default_factory=Group)
    left_out: int = 0
    foreign: int = 0
    groups: dict[Key, Group] = field(default_factory=dict)

    def add(self, letters: Iterable[Letter]) -> None:
        """Count some letters."""
        for letter in letters:
            self.all.add(letter)
            self.left_out += letter.value_left_out
            self.foreign += letter.original_topic is None
            key = (letter.error_type, shortened(letter.reason), letter.original_topic, letter.lane)
            group = self.groups.get(key)
            if group is None:
                if len(self.groups) >= self.groups_max:
                    key = (None, OTHER, None, None)
                group = self.groups.setdefault(key, Group())
            group.add(letter)

    def largest(self, most: int) -> list[tuple[Key, Group]]:
        """Return the groups with most letters, those of equal size in the order of reading."""
        ranked = sorted(self.groups.items(), key=lambda entry: -entry[1].letters)
        return ranked[:most]
