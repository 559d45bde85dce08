"""For services that feed an app: how much of each lane its workers take in now.

    async with PressureReader("localhost:9092", app="fraud") as pressure:
        while True:
            share = pressure.admitted("hints")      # 0..1, the least of all living workers
            await send(sample(hints, share))

It reads the app's control topic with a consumer of its own, without a group, and needs the
ACL READ on `<app>.control` only. What it cannot understand it ignores; as long as nothing is
known, everything is admitted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from aiokafka import AIOKafkaConsumer, TopicPartition

__all__ = ["Heard", "PressureReader", "Report", "parse"]

logger = logging.getLogger(__name__)

SCHEMA: Final = "flowguard.pressure/v1"

#: Anyone may write to a topic; what is larger or more than this is no worker's.
VALUE_BYTES_MAX: Final = 64 * 1024
WORKERS_MAX: Final = 10_000
TTL_S_MAX: Final = 3600.0

#: A topic that does not exist yet is looked for this often.
LOOK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Report:
    """What one worker said.

    Args:
        level: Its pressure, 0..1.
        rung: Its rung of the overload ladder, 0..6.
        admitted: Lane → share of what is offered that it takes in, 0..1.
        ttl_s: For how long it is to be believed.
    """

    level: float
    rung: int
    admitted: Mapping[str, float]
    ttl_s: float


def parse(value: bytes | None) -> Report | None:
    """Return a record's value as a report; None if it is none."""
    if value is None or len(value) > VALUE_BYTES_MAX:
        return None
    try:
        document = json.loads(value)
        if document["schema"] != SCHEMA:
            return None
        return Report(
            level=ratio(document["level"]),
            rung=int(document["rung"]),
            admitted={name: ratio(lane["admitted"]) for name, lane in document["lanes"].items()},
            ttl_s=min(TTL_S_MAX, number(document["ttl"])),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def ratio(value: object) -> float:
    """Return a number from 0 to 1.

    Raises:
        ValueError: It is none.
    """
    found = number(value)
    if found > 1.0:
        raise ValueError(value)
    return found


def number(value: object) -> float:
    """Return a number from 0 on; infinity and NaN are none.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e300:
        raise ValueError(value)
    return float(value)


class Heard:
    """The latest reports of all workers, by the time until which each is believed.

    Args:
        now_s: A clock that never goes back.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._reports: dict[bytes, tuple[float, Report]] = {}

    def take(self, key: bytes | None, value: bytes | None, *, age_s: float = 0.0) -> None:
        """Take in a record; what is no report changes nothing.

        Args:
            age_s: How old it is already, for records from before the reader began.
        """
        if key is None:
            return
        if value is None:
            self._reports.pop(key, None)
            return
        report = parse(value)
        if report is None:
            return
        if len(self._reports) >= WORKERS_MAX and key not in self._reports:
            self._forget()
        if len(self._reports) < WORKERS_MAX or key in self._reports:
            self._reports[key] = (self._now_s() + report.ttl_s - max(0.0, age_s), report)

    def _forget(self) -> None:
        now_s = self._now_s()
        self._reports = {key: each for key, each in self._reports.items() if each[0] > now_s}

    @property
    def living(self) -> list[Report]:
        """Return the reports that are still to be believed."""
        now_s = self._now_s()
        return [report for until_s, report in self._reports.values() if until_s > now_s]

    def admitted(self, lane: str) -> float:
        """Return the least share that a living worker takes in of a lane; 1.0 if none says."""
        return min((each.admitted.get(lane, 1.0) for each in self.living), default=1.0)

    @property
    def level(self) -> float:
        """Return the highest pressure of a living worker, 0..1."""
        return max((each.level for each in self.living), default=0.0)


class PressureReader:
    """Read the control topic of an app in the background.

    Args:
        bootstrap: `HOST:PORT` of a broker, or several with commas between them.
        app: The id of the app.
        **options: What `aiokafka.AIOKafkaConsumer` takes, such as `security_protocol`.

    A broker that is not there, or a topic that does not exist, is waited for: then all is
    admitted.
    """

    def __init__(self, bootstrap: str, app: str, **options: Any) -> None:
        self.topic = f"{app}.control"
        self.heard = Heard()
        self._bootstrap = bootstrap
        self._options = options
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"read {self.topic}")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def admitted(self, lane: str) -> float:
        """Return the share of a lane to send now, 0..1: the least of all living workers.

        1.0 when nothing is known, or what is known is older than its time to live.
        """
        return self.heard.admitted(lane)

    @property
    def level(self) -> float:
        """Return the highest pressure of a living worker, 0..1; 0.0 when nothing is known."""
        return self.heard.level

    async def _run(self) -> None:
        """Read, and begin anew whenever that fails."""
        while True:
            try:
                await self._read()
            except Exception as error:  # a favour must not end the service that asks for it
                logger.warning("%s is not read: %r; trying again in %.0f s",
                               self.topic, error, LOOK_S)  # fmt: skip
            await asyncio.sleep(LOOK_S)

    async def _read(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            auto_offset_reset="earliest",
            **self._options,
        )
        await consumer.start()
        try:
            # To ask for the topic by its name could create it, with the wrong settings.
            while self.topic not in await consumer.topics():  # noqa: ASYNC110  # nothing tells us
                await asyncio.sleep(LOOK_S)
            consumer.subscribe([self.topic])
            ends: dict[TopicPartition, int] = {}
            async for record in consumer:
                place = TopicPartition(record.topic, record.partition)
                if place not in ends:
                    ends |= await consumer.end_offsets([place])
                # What is written while we listen is fresh, whatever its writer's clock says.
                old = record.offset < ends[place]
                age_s = time.time() - record.timestamp / 1e3 if old else 0.0
                self.heard.take(record.key, record.value, age_s=age_s)
        finally:
            await consumer.stop()
