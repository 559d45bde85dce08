"""Lane watermarks in the metadata of a commit, so that a restart repeats little.

The committed offset of a partition is that of its slowest lane. What faster lanes have
finished beyond it stands beside it, in the same commit:

    {"v":1,"c":120,"k":"<cluster>","r":"<rules>","w":{"realtime":998042},"x":"<checksum>"}

`w` holds, for each lane that is ahead, how far its watermark is past the offset `c`. After
a crash or a rebalance a record of that lane below its watermark is skipped as finished.

- Ignored unless the checksum holds, the version is known, `c` is the committed offset, and
  cluster and rules are the present ones. Tools that move offsets keep old metadata; that
  makes it duplicates then, never loss.
- A few bytes a lane. What is more than the broker takes is left out: `metadata_room.py`.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any, Final

from flowguard.facts import CommitPoint

__all__ = ["METADATA_BYTES_MAX", "CommitContext", "Restored", "decode", "encode", "repeated"]

VERSION: Final = 1

#: `offset.metadata.max.bytes` of a broker, unless someone changed it.
METADATA_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitContext:
    """What watermarks are bound to.

    Args:
        cluster: Id of the Kafka cluster; empty if it has none.
        rules: Fingerprint of what decides the lane of a record of this topic.
        lanes: Names of the lanes, highest first.
    """

    cluster: str
    rules: str
    lanes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """What was read back.

    Args:
        watermarks: By lane, the first offset that is not finished; None if unknown.
        why: Why they were ignored, for people; None if they were not, or there were none.
        repeated: How many offsets may be repeated because of that.
    """

    watermarks: tuple[int, ...] | None = None
    why: str | None = None
    repeated: int = 0


def encode(point: CommitPoint, context: CommitContext) -> str:
    """Return the metadata of a commit; empty if no lane is ahead."""
    ahead = {
        name: watermark - point.offset
        for name, watermark in zip(context.lanes, point.watermarks, strict=True)
        if watermark > point.offset
    }
    if not ahead:
        return ""
    fields = {"v": VERSION, "c": point.offset, "k": context.cluster, "r": context.rules, "w": ahead}
    return written({**fields, "x": checksum(fields)})


def decode(metadata: str, offset: int, context: CommitContext) -> Restored:
    """Read the metadata of a commit back.

    Args:
        metadata: As the broker has it; anyone may have written it.
        offset: The committed offset.
    """
    fields = parse(metadata)
    if fields is None:
        return Restored()
    ahead: dict[str, int] = fields["w"]
    repeated = max(ahead.values(), default=0)
    if fields["c"] != offset:
        why = f"the offset was moved from {fields['c']} to {offset} since"
        return Restored(None, why, max(0, fields["c"] + repeated - offset))
    if fields["k"] != context.cluster:
        return Restored(None, "it was written for another cluster", repeated)
    if fields["r"] != context.rules:
        return Restored(None, "the rule that decides the lane of a record has changed", repeated)
    return Restored(tuple(offset + ahead.get(name, 0) for name in context.lanes))


def repeated(metadata: str) -> int:
    """Return how many offsets a crash repeats if this metadata is not stored."""
    fields = parse(metadata)
    return 0 if fields is None else max(fields["w"].values(), default=0)


def parse(metadata: str) -> dict[str, Any] | None:
    """Return the fields of metadata that is ours and whole, otherwise None."""
    try:
        fields = json.loads(metadata.rstrip("\0"))  # librdkafka writes a NUL behind what it read
        expected = fields.pop("x")
        ahead = fields["w"]
        whole = fields["v"] == VERSION and checksum(fields) == expected
        sane = all(isinstance(each, int) and each > 0 for each in ahead.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return fields if whole and sane else None


def checksum(fields: dict[str, Any]) -> str:
    """Return the CRC of the fields, in the order in which they are written."""
    return f"{zlib.crc32(written(fields).encode()):08x}"


def written(fields: dict[str, Any]) -> str:
    """Return fields as compact JSON in ASCII."""
    return json.dumps(fields, separators=(",", ":"))
