"""Fetch requests, and how they are written.

    request = size i32 | api key i16 | version i16 | correlation id i32 | client id
            | replica i32 | wait i32 | least bytes i32 | most bytes i32 | isolation i8
            | session i32 | session epoch i32 | topics of:
              name | partitions of: number i32 | leader epoch i32 | offset i64 | log start i64
                                  | most bytes i32
            | forgotten topics | rack

One goes out for every few records while a stream trickles, so it is written by hand: aiokafka's
schema takes as long for it as parsing what it brings.

Source: Kafka protocol guide, Fetch v11 (since 2.3).
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flowguard.chunk import TopicPartition
from flowguard.intake.primitives import I16, I32, text

__all__ = ["FETCH_API_KEY", "FETCH_VERSION", "FetchRequest"]

#: The first version that fetches zstd is 10; 11 is the last without flexible fields.
FETCH_API_KEY: Final = 1
FETCH_VERSION: Final = 11

CONSUMER: Final = -1
READ_COMMITTED: Final = 1
NO_SESSION: Final = 0
FULL_REQUEST: Final = -1
UNKNOWN: Final = -1

HEAD: Final = struct.Struct(">hhi")
BODY_HEAD: Final = struct.Struct(">iiiibiii")
PARTITION: Final = struct.Struct(">iiqqi")
#: No forgotten topics, no rack.
END: Final = I32.pack(0) + I16.pack(0)


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """What to read, and how long the broker may wait for it.

    Args:
        wait_ms: The broker holds it so long while there are fewer than `bytes_min`.
        bytes_max: Most bytes of the answer, unless its first wire batch is larger.
        places: Partition → (offset, most bytes of it), in the order in which they are served.
    """

    wait_ms: int
    bytes_min: int
    bytes_max: int
    places: Mapping[TopicPartition, tuple[int, int]]

    def encode(self, correlation_id: int, client_id: str) -> bytes:
        """Return it as it is on the wire, from its size on."""
        by_topic: dict[str, list[bytes]] = defaultdict(list)
        for (topic, number), (offset, share_bytes) in self.places.items():
            place = PARTITION.pack(number, UNKNOWN, offset, UNKNOWN, share_bytes)
            by_topic[topic].append(place)
        parts = [
            HEAD.pack(FETCH_API_KEY, FETCH_VERSION, correlation_id),
            text(client_id),
            BODY_HEAD.pack(
                CONSUMER, self.wait_ms, self.bytes_min, self.bytes_max, READ_COMMITTED,
                NO_SESSION, FULL_REQUEST, len(by_topic),
            ),
        ]  # fmt: skip
        for topic, places in by_topic.items():
            parts += [text(topic), I32.pack(len(places)), *places]
        parts.append(END)
        return I32.pack(sum(map(len, parts))) + b"".join(parts)
