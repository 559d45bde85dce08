r"""How far the dead letters of a partition were redriven, as it is committed.

The committed offset is the first letter that nobody has looked at. What was redriven behind
it by a selection stands in the metadata of the same commit:

    {"v":1,"c":120,"p":[{"t":["DecodeError"],"u":980}]}

All letters of type DecodeError before offset 980 are done, of the others those before 120.
So a second run repeats nothing, and another selection forgets nothing.

- Ignored unless the version is known and `c` is the committed offset: whoever moves the
  offset with Kafka's own tools means what they set.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from flowguard.cli.dlq_letters import Letter, Selection
from flowguard.settle.watermarks import METADATA_BYTES_MAX

__all__ = ["METADATA_BYTES_MAX", "Part", "Progress", "decoded", "encoded"]

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Part:
    """What one selection has redriven: all that it means before an offset."""

    selection: Selection
    until: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one partition was redriven.

    Args:
        offset: All letters before it are done.
        parts: What is done behind it.
    """

    offset: int = 0
    parts: tuple[Part, ...] = ()

    def has(self, letter: Letter) -> bool:
        """Tell whether a letter was redriven already."""
        return letter.offset < self.offset or any(
            letter.offset < part.until and part.selection.has(letter) for part in self.parts
        )

    def advanced(self, selection: Selection, until: int) -> Progress:
        """Return the progress when a selection has been redriven up to an offset."""
        if selection.is_all:
            return without_what_is_done(max(self.offset, until), self.parts)
        return without_what_is_done(self.offset, (*self.parts, Part(selection, until)))


def without_what_is_done(offset: int, parts: tuple[Part, ...]) -> Progress:
    """Return a progress of which no part is contained in the rest."""
    kept: list[Part] = []
    for part in sorted(parts, key=lambda each: (-each.until, len(each.selection.to_dict()))):
        if part.until > offset and not any(each.selection.covers(part.selection) for each in kept):
            kept.append(part)
    return Progress(offset, tuple(kept))


def encoded(progress: Progress) -> str:
    """Return the metadata of a commit; empty if the offset says it all."""
    if not progress.parts:
        return ""
    parts = [{**each.selection.to_dict(), "u": each.until} for each in progress.parts]
    fields = {"v": VERSION, "c": progress.offset, "p": parts}
    return json.dumps(fields, separators=(",", ":"))


def decoded(offset: int, metadata: str) -> Progress:
    """Read a commit back.

    Args:
        offset: The committed offset.
        metadata: As the broker has it; anyone may have written it.
    """
    try:
        fields: dict[str, Any] = json.loads(metadata.rstrip("\0"))
        if fields["v"] != VERSION or fields["c"] != offset:
            return Progress(offset)
        parts = tuple(Part(Selection.from_dict(each), int(each["u"])) for each in fields["p"])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return Progress(offset)
    if any(part.selection.is_all for part in parts):  # it would be the offset itself
        return Progress(offset)
    return without_what_is_done(offset, parts)
