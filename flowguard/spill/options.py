"""What a store is configured with, and for whom it keeps records."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from flowguard.spill.cipher import KeyProvider
from flowguard.spill.compression import CompressionOption
from flowguard.units import MIB

__all__ = ["FRAME_BYTES_TARGET", "Identity", "LaneSpill", "StoreLimits"]

#: How much a frame should hold: a disk's sequential speed is reached, and two frames read
#: ahead of each lane stay small.
FRAME_BYTES_TARGET: Final = 4 * MIB

RULE_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """For whom records are kept; nobody else uses them again.

    Args:
        app: Id of the app.
        group: Id of the consumer group.
        cluster: Id of the Kafka cluster; empty if it has none.
        rules: By topic, the fingerprint of what decides the lane of a record, as commits
            carry it. May grow while the store is open.
    """

    app: str
    group: str
    cluster: str
    rules: Mapping[str, str] = field(default_factory=dict)

    def rule(self, topic: str) -> bytes:
        """Return the fingerprint of a topic's rule as frames carry it."""
        text = self.rules.get(topic, "")
        return hashlib.blake2b(text.encode(), digest_size=RULE_BYTES).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSpill:
    """What one lane may spill, and how.

    Args:
        max_bytes: Most bytes on disk.
        compression: `auto` packs when the disk is slower than packing.
        keys: Where the key comes from that encrypts it; None: it is not encrypted.
    """

    max_bytes: int
    compression: CompressionOption = "none"
    keys: KeyProvider | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """Sizes and times of a store; the defaults are for real disks, others for tests.

    Args:
        segment_bytes: Of a file; a lane with a small quota has files of an eighth of it.
        frame_bytes_max: No frame is larger; what does not fit stays in memory.
        min_free_bytes: What stays free on the disk; None: see `quota.free_bytes_min`.
        quarantine_ratio: Share of all quotas that damaged segments may have.
        park_ms: How long what nobody owns is kept for someone who comes back.
    """

    segment_bytes: int = 128 * MIB
    frame_bytes_max: int = 64 * MIB
    min_free_bytes: int | None = None
    quarantine_ratio: float = 0.05
    park_ms: int = 600_000
