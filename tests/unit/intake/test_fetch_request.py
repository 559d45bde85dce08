"""Fetch requests on the wire, against aiokafka's own encoding of them."""

from __future__ import annotations

import struct
from collections import defaultdict

from aiokafka.protocol.fetch import FetchRequest_v11
from hypothesis import given
from hypothesis import strategies as st

from flowguard.chunk import TopicPartition
from flowguard.intake.fetch_request import FetchRequest

places = st.dictionaries(
    st.builds(TopicPartition, st.sampled_from(["orders", "t", "grüße"]), st.integers(0, 9)),
    st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1)),
    max_size=12,
)


def test_a_request_is_laid_out_as_the_protocol_says() -> None:
    request = FetchRequest(500, 1, 4096, {TopicPartition("t", 3): (77, 1024)})

    expected = struct.pack(">hhih2s", 1, 11, 9, 2, b"me")
    expected += struct.pack(">iiiibii", -1, 500, 1, 4096, 1, 0, -1)
    expected += struct.pack(">ih1si", 1, 1, b"t", 1) + struct.pack(">iiqqi", 3, -1, 77, -1, 1024)
    expected += struct.pack(">ih", 0, 0)

    assert request.encode(9, "me") == struct.pack(">i", len(expected)) + expected


@given(places=places, correlation_id=st.integers(0, 2**31 - 1), client_id=st.text(max_size=20))
def test_aiokafka_writes_the_same(
    places: dict[TopicPartition, tuple[int, int]], correlation_id: int, client_id: str
) -> None:
    topics = defaultdict(list)
    for (topic, number), (offset, share_bytes) in places.items():
        topics[topic].append((number, -1, offset, -1, share_bytes))
    theirs = FetchRequest_v11(-1, 20, 1, 1 << 20, 1, 0, -1, list(topics.items()), [], "")
    header = theirs.build_request_header(correlation_id=correlation_id, client_id=client_id)
    message = header.encode() + theirs.encode()

    ours = FetchRequest(20, 1, 1 << 20, places).encode(correlation_id, client_id)

    assert ours == struct.pack(">i", len(message)) + message
