"""Dead letters: where they go, and how many are too many.

A few bad records are set aside. When many are, it is more likely that the code or the schema
is wrong than that the records are; then the lane of that partition stops, with nothing lost,
instead of being poured into a topic that somebody has to empty again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flowguard.chunk import TopicPartition
from flowguard.errors import ConfigError
from flowguard.suggest import reject_unknown

__all__ = ["DeadLetters", "LetterLimit"]

RATIO_MAX: Final = 0.05

#: So few say nothing about a ratio.
LETTERS_MIN: Final = 100


@dataclass(frozen=True, slots=True, init=False)
class DeadLetters:
    """Where an agent's dead letters go, and how many there may be.

    Args:
        topic: Where to; None for `<app>.dlq`.
        max_ratio: When more of the latest records of a lane of a partition are dead letters,
            and they are more than 100, that lane of that partition stops; 1 for never.

    Raises:
        ConfigError: The ratio is none.
    """

    topic: str | None
    max_ratio: float

    def __init__(
        self, topic: str | None = None, max_ratio: float = RATIO_MAX, **unknown: object
    ) -> None:
        reject_unknown(unknown, known=("topic", "max_ratio"), owner="DeadLetters")
        if topic is not None and (not isinstance(topic, str) or not topic):
            raise ConfigError(f"DeadLetters.topic={topic!r} is no name of a topic")
        if isinstance(max_ratio, bool) or not isinstance(max_ratio, int | float):
            raise ConfigError(f"DeadLetters.max_ratio={max_ratio!r} is no number")
        if not 0.0 < max_ratio <= 1.0:
            raise ConfigError(
                f"DeadLetters.max_ratio={max_ratio!r} is no share; use more than 0, up to 1"
            )
        object.__setattr__(self, "topic", topic)
        object.__setattr__(self, "max_ratio", float(max_ratio))

    def topic_in(self, app: str) -> str:
        """Return where they go in an app.

        Args:
            app: Its id.
        """
        return self.topic or f"{app}.dlq"


@dataclass(slots=True)
class Window:
    """The latest records of one lane of one partition: the window before, and this one."""

    records: int = 0
    letters: int = 0
    records_before: int = 0
    letters_before: int = 0

    def add(self, records: int, letters: int, size: float) -> None:
        """Count records that are done, so many of them dead letters."""
        self.records += records
        self.letters += letters
        if self.records >= size:
            self.records_before, self.letters_before = self.records, self.letters
            self.records = self.letters = 0


class LetterLimit:
    """How many dead letters an agent may still write, by partition and lane.

    Args:
        max_ratio: Share of the latest records; 1 for no limit.
    """

    def __init__(self, max_ratio: float) -> None:
        self._max_ratio = max_ratio
        self._size = LETTERS_MIN / max_ratio
        self._windows: dict[tuple[TopicPartition, int], Window] = {}

    def settled(self, partition: TopicPartition, lane: int, records: int) -> None:
        """Count records that were settled."""
        if (window := self._windows.get((partition, lane))) is not None:
            window.add(records, 0, self._size)

    def why_not(self, partition: TopicPartition, lane: int, letters: int, records: int) -> str:
        """Return why so many more may not be written, "" if they may; then they are counted.

        Args:
            records: How many records they are among.
        """
        window = self._windows.setdefault((partition, lane), Window())
        among = max(window.records_before + window.records + records, round(self._size))
        found = window.letters_before + window.letters + letters
        if self._max_ratio < 1.0 and found > max(LETTERS_MIN, self._max_ratio * among):
            return (
                f"{found} of its latest {among} records are dead letters, more than max_ratio "
                f"{self._max_ratio:g}"
            )
        window.add(0, letters, self._size)
        return ""
