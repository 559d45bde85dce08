"""The broker of a harness: answers after a while, and can be told to misbehave.

It stands where aiokafka's connections are: what asks it is flowguard's own fetcher and
sender, with their retries, sequences and memory.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.protocol.fetch import FetchResponse_v11

from flowguard.chunk import TopicPartition
from flowguard.intake.fetch_request import FetchRequest
from flowguard.intake.primitives import I32, text
from flowguard.testing.log import OK, Log

__all__ = ["NODE", "Broker", "Latency", "produce_answer"]

#: The one broker there is.
NODE: Final = 1

#: Kafka's code for too few replicas in sync, as while a broker is down.
NOT_ENOUGH_REPLICAS: Final = 19

#: What a broker nearby takes for a request, at least and at most.
REQUEST_S: Final = (0.0005, 0.003)


@dataclass
class Latency:
    """How long requests take, in seconds, each a little different."""

    chance: random.Random
    extra_s: float = 0.0

    def draw(self) -> float:
        """Return how long the next request takes."""
        return self.chance.uniform(*REQUEST_S) + self.extra_s


class Broker:
    """Answers fetch and produce requests out of a log.

    Args:
        log: The log.
        loop: The virtual loop.
        chance: A seeded generator.
    """

    def __init__(self, log: Log, loop: asyncio.AbstractEventLoop, chance: random.Random) -> None:
        self.log = log
        self.loop = loop
        self.chance = chance
        self.latency = Latency(chance)
        self.killed: dict[str, int] = {}  # topic → how many faults hold it down
        self.slow: dict[str, float] = {}  # topic → seconds that each write takes longer
        self.pauses = 0
        self.life = 0  # which worker's requests are answered; those of a dead one are not
        self._going_on = asyncio.Event()
        self._going_on.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._behind: dict[Any, asyncio.Task[None]] = {}  # connection → its last request
        self._unwritten: dict[Any, deque[Mapping[TopicPartition, bytes]]] = {}

    # Faults.

    def kill(self, topic: str) -> None:
        """Refuse what is written to a topic."""
        self.killed[topic] = self.killed.get(topic, 0) + 1

    def revive(self, topic: str) -> None:
        """Take it again, once for each time it was killed."""
        self.killed[topic] = self.killed.get(topic, 0) - 1

    def pause(self) -> None:
        """Answer nothing."""
        self.pauses += 1
        self._going_on.clear()

    def go_on(self) -> None:
        """Answer again, once for each time it was paused."""
        self.pauses -= 1
        if not self.pauses:
            self._going_on.set()

    def cut_off(self) -> None:
        """Forget the worker that was connected: it is dead.

        Some of what it had sent has come this far and is written, in the order of sending.
        """
        self.life += 1
        for sent in self._unwritten.values():
            for batches in list(sent)[: self.chance.randint(0, len(sent))]:
                for name, batch in batches.items():
                    self.write(name, batch)
        self._unwritten.clear()
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self._behind.clear()
        self.log.forget_waiting()

    # Requests.

    def serve(self, connection: Any, answer: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Answer a request behind those before it on the same connection."""
        task = self.loop.create_task(self._in_turn(self._behind.get(connection), answer))
        self._behind[connection] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _in_turn(
        self, before: asyncio.Task[None] | None, answer: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        await answer()

    async def take_its_time(self) -> None:
        """Wait as long as a request takes, or until the broker answers again."""
        await asyncio.sleep(self.latency.draw())
        await self._going_on.wait()

    async def fetched(self, request: FetchRequest) -> bytes:
        """Return the body of the answer to a fetch request, once there is enough or time is up."""
        await self.take_its_time()
        until_s = self.loop.time() + request.wait_ms / 1e3
        while True:
            body, size = self._read(request)
            left_s = until_s - self.loop.time()
            if size >= request.bytes_min or left_s <= 0:
                return body
            await asyncio.wait([self.log.changed(self.loop)], timeout=left_s)
            await self._going_on.wait()

    def _read(self, request: FetchRequest) -> tuple[bytes, int]:
        topics: dict[str, list[Any]] = defaultdict(list)
        left_bytes = request.bytes_max
        size = 0
        for name, (offset, share_bytes) in request.places.items():
            partition = self.log.partition(name)
            records = b""
            if left_bytes > 0:
                records = partition.bytes_from(offset, min(left_bytes, share_bytes))
            left_bytes -= len(records)
            size += len(records)
            end = partition.end
            topics[name.topic].append((name.partition, OK, end, end, 0, [], -1, records))
        response: bytes = FetchResponse_v11(0, OK, 0, list(topics.items())).encode()
        return response, size

    def produce(
        self,
        connection: Any,
        batches: Mapping[TopicPartition, bytes],
        answer: Callable[[Mapping[TopicPartition, int]], None],
    ) -> None:
        """Append batches after a while; `answer` is told the error code of each partition."""
        life = self.life
        sent = self._unwritten.setdefault(connection, deque())
        sent.append(batches)

        async def write() -> None:
            await self.take_its_time()
            slow_s = max((self.slow.get(name.topic, 0.0) for name in batches), default=0.0)
            if slow_s:
                await asyncio.sleep(slow_s)
            sent.remove(batches)
            errors = {name: self.write(name, batch) for name, batch in batches.items()}
            await asyncio.sleep(self.latency.draw())
            if life == self.life:
                answer(errors)

        self.serve(connection, write)

    def write(self, name: TopicPartition, batch: bytes) -> int:
        """Append a batch now unless its topic is down, and return the error code."""
        if self.killed.get(name.topic, 0) > 0:
            return NOT_ENOUGH_REPLICAS
        return self.log.append(name, batch)


def produce_answer(correlation_id: int, errors: Iterable[tuple[TopicPartition, int]]) -> bytes:
    """Return a Produce v7 answer from its correlation id on."""
    topics: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for name, error in errors:
        topics[name.topic].append((name.partition, error))
    parts = [struct.pack(">ii", correlation_id, len(topics))]
    for topic, partitions in topics.items():
        parts.append(text(topic) + I32.pack(len(partitions)))
        parts += [struct.pack(">ihqqq", number, error, 0, -1, 0) for number, error in partitions]
    return b"".join(parts)
