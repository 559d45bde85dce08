"""Creating topics while brokers come and go."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

from aiokafka.errors import KafkaError

__all__ = ["create_patiently"]

logger = logging.getLogger(__name__)

CREATE_EVERY_S: Final = 1.0


async def create_patiently(
    create: Callable[[], Awaitable[None]],
    topic: str,
    is_stopping: Callable[[], bool],
    *,
    within_s: float = math.inf,
) -> None:
    """Create a topic; Faust asks one broker once, and ends the app if that one is away.

    Args:
        within_s: Whoever waits for the topic is told then that no broker took it.

    Raises:
        KafkaError: No broker can create it, or none did in time.
    """
    give_up_s = asyncio.get_running_loop().time() + within_s
    while True:
        try:
            return await create()
        except KafkaError as error:
            late = asyncio.get_running_loop().time() > give_up_s
            if late or not error.retriable or is_stopping():
                raise
            logger.warning("cannot create topic %s now, trying again: %s", topic, error)
        await asyncio.sleep(CREATE_EVERY_S)
