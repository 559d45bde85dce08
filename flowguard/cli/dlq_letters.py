"""Dead letters as the commands see them: what their notes say, and which ones are meant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["REDRIVEN", "Letter", "Selection", "original_headers", "shortened"]

Headers = Sequence[tuple[str, bytes | None]]

#: How often a record was sent back from dead letters; it stays on the record.
REDRIVEN: Final = "fg-redriven"
LANE: Final = "fg-lane"

SAID: Final = ("fg-error-type", "fg-error-reason", "fg-orig-topic", LANE)

#: What flowguard adds to a record to make it a letter.
NOTE: Final = re.compile(r"fg-(error|orig)-.*|fg-attempt", re.DOTALL)

#: What stands at the end of a reason where the value was too large to be kept.
LEFT_OUT: Final = re.compile(r"\s*\(value of \d+ bytes left out, sha256 [0-9a-f]{64}\)\Z")

#: Kafka's numbers have 64 bits with a sign; this many digits always fit.
DIGITS_MAX: Final = 18

REASON_LETTERS_MAX: Final = 80


@dataclass(frozen=True, slots=True)
class Letter:
    """One record of a dead-letter topic; anyone may have written it.

    Args:
        topic: Of the letter itself, like `partition` and `offset`.
        timestamp_ms: Of the letter: that of the original record, unless the topic has
            LogAppendTime; -1 if there is none.
        headers: All of them, in order.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    _by_name: Mapping[str, bytes | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Of a repeated one the last counts: flowguard's own stands behind the record's.
        object.__setattr__(self, "_by_name", dict(self.headers))

    @property
    def place(self) -> str:
        """Where it is, as it is written everywhere."""
        return f"{self.topic}[{self.partition}] {self.offset}"

    def note(self, name: str) -> str | None:
        """Return the text of a header, None without it."""
        value = self._by_name.get(name)
        return None if value is None else value.decode(errors="replace")

    def number(self, name: str) -> int | None:
        """Return the number that a header is, None if it is none."""
        text = self.note(name) or ""
        if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX):
            return None
        return int(text)

    @property
    def said(self) -> tuple[bytes | None, ...]:
        """What the letters that are counted together have in common, as it is written."""
        return tuple(map(self._by_name.get, SAID))

    @property
    def error_type(self) -> str | None:
        """The kind of error."""
        return self.note("fg-error-type")

    @property
    def reason(self) -> str | None:
        """Why the record could not go on."""
        return self.note("fg-error-reason")

    @property
    def attempt(self) -> int | None:
        """How often it had been tried."""
        return self.number("fg-attempt")

    @property
    def original_topic(self) -> str | None:
        """Where it had been read."""
        return self.note("fg-orig-topic") or None

    @property
    def original_partition(self) -> int | None:
        """The partition it had been read from."""
        return self.number("fg-orig-partition")

    @property
    def original_offset(self) -> int | None:
        """Where in that partition it was."""
        return self.number("fg-orig-offset")

    @property
    def original_timestamp_ms(self) -> int | None:
        """The time of the original record; None if it had none."""
        noted = self.number("fg-orig-timestamp")
        if noted is not None:
            return noted
        return self.timestamp_ms if self.timestamp_ms >= 0 else None

    @property
    def lane(self) -> str | None:
        """The lane that the record's own header names."""
        return self.note(LANE)

    @property
    def redriven(self) -> int:
        """How often it had been sent back before it came here again."""
        return 0 if REDRIVEN not in self._by_name else self.number(REDRIVEN) or 0

    @property
    def value_left_out(self) -> bool:
        """Tell whether the value was too large to be kept; a tombstone has none either."""
        return self.value is None and LEFT_OUT.search(self.reason or "") is not None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: those that agree with all of it.

    Args:
        types: Kinds of error; none means all.
        topics: Original topics; none means all.
        since_ms: Letters from this time on; 0 means all.
    """

    types: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    since_ms: int = 0

    @property
    def is_all(self) -> bool:
        """Tell whether every letter is meant."""
        return self == Selection()

    def has(self, letter: Letter) -> bool:
        """Tell whether a letter is meant."""
        return (
            (not self.types or letter.error_type in self.types)
            and (not self.topics or letter.original_topic in self.topics)
            and (not self.since_ms or letter.timestamp_ms >= self.since_ms)
        )

    def covers(self, other: Selection) -> bool:
        """Tell whether it means every letter that the other one does."""
        return (
            (not self.types or (bool(other.types) and other.types <= self.types))
            and (not self.topics or (bool(other.topics) and other.topics <= self.topics))
            and self.since_ms <= other.since_ms
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as in the metadata of a commit; `from_dict` reads it."""
        fields: dict[str, Any] = {}
        if self.types:
            fields["t"] = sorted(self.types)
        if self.topics:
            fields["o"] = sorted(self.topics)
        if self.since_ms:
            fields["s"] = self.since_ms
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Selection:
        """Read what `to_dict` returned.

        Raises:
            ValueError: It is something else.
        """
        types, topics, since_ms = fields.get("t", []), fields.get("o", []), fields.get("s", 0)
        texts = [*types, *topics] if isinstance(types, list) and isinstance(topics, list) else [0]
        if not all(isinstance(each, str) for each in texts) or not isinstance(since_ms, int):
            raise ValueError(f"{fields!r} is no selection")
        return cls(frozenset(types), frozenset(topics), since_ms)


def original_headers(letter: Letter) -> list[tuple[str, bytes | None]]:
    """Return the headers that the record had before it became a letter.

    Of each note the last is taken away: that is flowguard's. One before it was the
    record's own, as when it was a letter of another app already.
    """
    kept: list[tuple[str, bytes | None]] = []
    noted: set[str] = set()
    for name, value in reversed(letter.headers):
        if NOTE.fullmatch(name) and name not in noted:
            noted.add(name)
        else:
            kept.append((name, value))
    return kept[::-1]


def shortened(reason: str | None) -> str:
    """Return a reason in one short line, so that letters with the same one are counted together.

    What differs between any two large values, their sizes and digests, is left out.
    """
    if reason is None:
        return "no reason"
    line = " ".join(LEFT_OUT.sub(" (value left out)", reason[: REASON_LETTERS_MAX * 8]).split())
    if len(line) <= REASON_LETTERS_MAX and len(reason) <= REASON_LETTERS_MAX * 8:
        return line
    return line[: REASON_LETTERS_MAX - 1] + "…"
