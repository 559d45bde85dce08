"""Which topic it is that goes by a name: it may have been deleted and made anew.

The offsets of a topic that was made anew begin anew. A position in the former one may well be
in the log of the new one, and whoever went on there would pass over records in silence. Kafka
gives each topic an id of its own (KIP-516, Metadata v12 since Kafka 3.1); aiokafka asks for an
older version of the metadata, without ids.
"""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any, Final

from aiokafka.errors import IncompatibleBrokerVersion, StaleMetadata, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

__all__ = ["TopicLives"]

API_KEY: Final = 3
VERSION: Final = 12

ANSWER_WITHIN_S: Final = 3.0

NO_ID: Final = bytes(16)


class TopicLives:
    """Asks which topic it is that goes by a name now.

    Args:
        client: aiokafka's.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    async def id_of(self, topic: str, node: int) -> bytes | None:
        """Return the id that a broker knows; None from one before Kafka 3.1, which has none.

        To be asked of one that leads a partition: others may not have heard yet that the topic
        was made anew.

        Raises:
            KafkaError, OSError, TimeoutError: It is not known now; to be asked again.
        """
        async with asyncio.timeout(ANSWER_WITHIN_S):
            try:
                answer = await self._client.send(node, TopicIdRequest(topic))
            except (IncompatibleBrokerVersion, NotImplementedError):
                return None
        for error_code, name, topic_id, *_ in answer.topics:
            if error_code:
                raise for_code(error_code)(topic)
            if name == topic:
                return bytes(topic_id)
        raise StaleMetadata(f"broker {node} says nothing of topic {topic}")


class Uuid(AbstractType[bytes]):  # type: ignore[misc]  # aiokafka is untyped
    """16 bytes."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        """Return them as they are."""
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        """Return the next 16 bytes."""
        return data.read(len(NO_ID))


class TopicIdResponse_v12(Response):  # type: ignore[misc]
    """Kafka's Metadata response v12."""

    API_KEY = API_KEY
    API_VERSION = VERSION
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class TopicIdRequest_v12(RequestStruct):  # type: ignore[misc]
    """Kafka's Metadata request v12."""

    API_KEY = API_KEY
    API_VERSION = VERSION
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = TopicIdResponse_v12
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic_id", Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicIdRequest(Request[TopicIdRequest_v12]):  # type: ignore[misc]
    """Asks for the id of one topic, and does not create it."""

    API_KEY = API_KEY

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[TopicIdRequest_v12]) -> TopicIdRequest_v12:
        """Return the request."""
        return request_struct_class([(NO_ID, self._topic, {})], False, False, {})
