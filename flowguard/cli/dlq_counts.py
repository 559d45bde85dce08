"""Count dead letters by what is wrong with them, in memory that has an end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from flowguard.cli.dlq_letters import Letter, shortened
from flowguard.units import KIB

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
        if moment_ms < 0:
            return
        if self.first_ms is None or moment_ms < self.first_ms:
            self.first_ms = moment_ms
        if self.last_ms is None or moment_ms > self.last_ms:
            self.last_ms = moment_ms

    def join(self, other: Group) -> None:
        """Count the letters of another group here, too."""
        self.letters += other.letters
        self.returned += other.returned
        firsts = [each for each in (self.first_ms, other.first_ms) if each is not None]
        lasts = [each for each in (self.last_ms, other.last_ms) if each is not None]
        self.first_ms = min(firsts, default=None)
        self.last_ms = max(lasts, default=None)

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
    """Letters of each type, reason, original topic and lane.

    Args:
        groups_max: As many groups are kept.
    """

    groups_max: int = GROUPS_MAX
    left_out: int = 0
    foreign: int = 0
    groups: dict[Key, Group] = field(default_factory=dict)
    _known: dict[tuple[bytes | None, ...], Group] = field(default_factory=dict)

    @property
    def all(self) -> Group:
        """All letters together."""
        found = Group()
        for group in self.groups.values():
            found.join(group)
        return found

    def add(self, letters: Iterable[Letter]) -> None:
        """Count some letters."""
        for letter in letters:
            said = letter.said
            group = self._known.get(said)
            if group is None:
                group = self._group_of(letter)
                # What is written the same way is not read again; there is an end to this, too.
                if len(self._known) < self.groups_max and sum(map(len, filter(None, said))) < KIB:
                    self._known[said] = group
            group.add(letter)
            self.left_out += letter.value is None and letter.value_left_out
            self.foreign += not said[2]

    def _group_of(self, letter: Letter) -> Group:
        key = (letter.error_type, shortened(letter.reason), letter.original_topic, letter.lane)
        if key not in self.groups and len(self.groups) >= self.groups_max:
            key = (None, OTHER, None, None)
        return self.groups.setdefault(key, Group())

    def largest(self, most: int) -> list[tuple[Key, Group]]:
        """Return the groups with most letters, those of equal size in the order of reading."""
        ranked = sorted(self.groups.items(), key=lambda entry: -entry[1].letters)
        return ranked[:most]
