"""A steady load, and what became of it."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from typing import Any, Self

from confluent_kafka import KafkaError, Message

from tests.kafka.outside import Outside

__all__ = ["Load", "judge"]

TICK_S = 0.01


class Load:
    """Sends `{"id": n}`, n = 0, 1, …, to the partitions of a topic in turn, as long as its
    `with` block lasts.

    It waits for brokers as long as it takes: at the end all that it sent is acknowledged, once
    and in order.
    """

    def __init__(
        self, outside: Outside, topic: str, *, partitions: int, rate_per_s: int = 500
    ) -> None:
        self.sent = 0
        self.acknowledged = 0
        self._topic = topic
        self._partitions = partitions
        self._per_tick = max(1, round(rate_per_s * TICK_S))
        self._producer = outside.producer(
            enable_idempotence=True,
            delivery_timeout_ms=300_000,
            topic_metadata_refresh_fast_interval_ms=50,
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.errors: list[KafkaError] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        left = self._producer.flush(120)
        assert left == 0 and not self.errors, f"{left} records not acknowledged: {self.errors[:3]}"

    def _run(self) -> None:
        while not self._stop.is_set():
            for _ in range(self._per_tick):
                self._producer.produce(
                    self._topic,
                    b'{"id": %d}' % self.sent,
                    partition=self.sent % self._partitions,
                    on_delivery=self._note,
                )
                self.sent += 1
            self._producer.poll(0)
            time.sleep(TICK_S)

    def _note(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.errors.append(error)


def judge(rows: list[dict[str, Any]], sent: int) -> dict[str, int]:
    """Count what went wrong with records `{"id", "source"}`, in the order of the sink.

    `unordered` is what came for the first time behind a later one of its partition.
    """
    times: Counter[int] = Counter(row["id"] for row in rows)
    latest: dict[int, int] = defaultdict(lambda: -1)
    seen: set[int] = set()
    unordered = 0
    for row in rows:
        number, source = row["id"], row["source"]
        if number not in seen:
            unordered += number < latest[source]
            latest[source] = max(latest[source], number)
            seen.add(number)
    return {
        "lost": sent - len(times.keys() & set(range(sent))),
        "unknown": len(times.keys() - set(range(sent))),
        "repeated": sum(times.values()) - len(times),
        "unordered": unordered,
    }
