"""Creating topics while brokers come and go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiokafka.errors import KafkaError

__all__ = ["create_patiently"]

logger = logging.getLogger(__name__)

CREATE_EVERY_S: Final = 1.0

#: Whoever waits for a topic is told then.
PATIENCE_S: Final = 60.0


async def create_patiently(
    create: Callable[[], Awaitable[None]], topic: str, is_stopping: Callable[[], bool]
) -> None:
    """Create a topic; Faust asks one broker once, and ends the app if that one is away.

    Raises:
        KafkaError: No broker can create it, or none did within a minute.
    """
    give_up_s = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            return await create()
        except KafkaError as error:
            late = asyncio.get_running_loop().time() > give_up_s
            if late or not error.retriable or is_stopping():
                raise
            logger.warning("cannot create topic %s now, trying again: %s", topic, error)
        await asyncio.sleep(CREATE_EVERY_S)
