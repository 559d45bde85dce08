"""Workers that are killed, come back, join, leave and are away: who has which partition, and when.

How long it takes is printed. The bounds are those of the group, far above what is normal.
"""

from __future__ import annotations

import itertools
import re
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka.admin import NewPartitions

from tests.kafka.outside import Outside, Record, json_of
from tests.kafka.worker import FAUST, FLOWGUARD, Worker, Workers, eventually

SOURCE = """
app = fg.App(APP, broker=BROKER, **SETTINGS)
done = app.feed(DONE)

async def work(batches):
    async for batch in batches:
        await asyncio.sleep(BUSY_S)
        yield batch.to_polars(meta=True).select("id", source="_partition", topic="_topic")

for name in TOPICS:
    feed = app.feed(name, columns={"id": "int64"})
    app.agent(feed, name=name, sink=[done], batch=fg.BatchSize(max=20), concurrency=4)(work)
"""
PARTITIONS = 4

#: The group gives a dead member up after 10 s, unless the app says otherwise. Who must not wait for
#: that has a session so long that a slow machine is not taken for one.
SESSION_S = 10.0
LONG_S = 60.0
LONG = {"broker_session_timeout": LONG_S, "broker_heartbeat_interval": 1.0}
SHORT = {"broker_session_timeout": 3.0, "broker_heartbeat_interval": 0.5}


class Flow:
    """Sends a record to each partition, and waits until all of them are settled."""

    def __init__(self, outside: Outside, done: str) -> None:
        self.outside = outside
        self.done = done
        self.sent: set[int] = set()
        self._numbers = itertools.count()

    def send(self, topic: str, partitions: int = PARTITIONS) -> set[int]:
        """Send one to each partition of a topic, and return their numbers."""
        ids = dict(zip(range(partitions), self._numbers, strict=False))
        records = [Record({"id": number}, partition=place) for place, number in ids.items()]
        self.outside.produce(topic, records)
        self.sent |= set(ids.values())
        return set(ids.values())

    def settled(self) -> Counter[int]:
        """Return how often each was settled."""
        return Counter(row["id"] for row in self.outside.values(self.done))

    def until(self, ids: set[int], worker: Worker, *, within_s: float) -> float:
        """Wait until these are settled; return how long that took, in seconds."""
        began_s = time.monotonic()
        worker.until(lambda: ids <= self.settled().keys(), within_s=within_s, what="no flow")
        return time.monotonic() - began_s

    def through(self, topic: str, worker: Worker, *, within_s: float = 60.0) -> float:
        """Send one to each partition and wait for them."""
        return self.until(self.send(topic), worker, within_s=within_s)


@pytest.fixture
def flow(outside: Outside, topic: Callable[..., str]) -> Flow:
    """Return the records of one test."""
    return Flow(outside, topic("done"))


def start(
    workers: Workers, flow: Flow, *topics: str, busy_s: float = 0.0, **more: object
) -> Worker:
    settings = more.pop("settings", {})
    options, command = more.pop("options", ()), more.pop("command", FLOWGUARD)
    assert isinstance(options, tuple)
    assert isinstance(command, tuple)
    return workers.start(
        SOURCE, TOPICS=list(topics), DONE=flow.done, BUSY_S=busy_s, SETTINGS=settings,
        options=options, command=command,
    )  # fmt: skip


def has(worker: Worker, count: int) -> bool:
    return len(worker.state["partitions"]) == count


def tell(what: str, seconds: float) -> None:
    print(f"{what}: {seconds:.2f} s")


def test_a_killed_worker_gets_its_partitions_back_long_before_the_group_gives_it_up(
    workers: Workers, flow: Flow, topic: Callable[..., str]
) -> None:
    orders = topic("orders", PARTITIONS)
    worker = start(workers, flow, orders, settings=LONG)
    flow.through(orders, worker)

    worker.kill()
    worker.start()

    took_s = flow.through(orders, worker, within_s=LONG_S)
    tell("killed and started again", took_s)
    assert took_s < LONG_S / 2


@pytest.mark.parametrize("change", ["added", "removed", "partitions"])
def test_what_changed_while_a_worker_was_down_is_read_as_soon_as_the_group_gives_the_old_one_up(
    change: str, workers: Workers, flow: Flow, topic: Callable[..., str]
) -> None:
    orders, others = topic("orders", PARTITIONS), topic("others", PARTITIONS)
    before = [orders, others] if change == "removed" else [orders]
    worker = start(workers, flow, *before, settings=SHORT)
    for name in before:
        flow.through(name, worker)

    worker.kill()
    module = worker.directory / "app.py"
    after, partitions = [orders], PARTITIONS
    if change == "added":
        after = [orders, others]
    if change == "partitions":
        partitions += 2
        asked = flow.outside.admin.create_partitions([NewPartitions(orders, partitions)])
        asked[orders].result()
    module.write_text(re.sub(r"(?m)^TOPICS = .*$", f"TOPICS = {after!r}", module.read_text()))
    worker.start()

    ids = {number for name in after for number in flow.send(name, partitions)}
    tell(f"killed and started again, {change}", flow.until(ids, worker, within_s=40))
    assert flow.sent == flow.settled().keys()


def test_several_workers_of_one_machine_each_come_back_as_who_they_were(
    workers: Workers, flow: Flow, topic: Callable[..., str]
) -> None:
    orders = topic("orders", PARTITIONS)
    first = start(workers, flow, orders, settings=LONG)
    second = workers.adopt(first.twin())
    both = [first, second]
    for worker in both:
        worker.until(lambda worker=worker: has(worker, PARTITIONS // 2))  # type: ignore[misc]
    flow.through(orders, first)

    for worker in both:
        worker.kill()
    for worker in both:
        worker.start()

    took_s = flow.through(orders, first, within_s=LONG_S)
    tell("both killed and started again", took_s)
    assert took_s < LONG_S / 2
    for worker in both:
        worker.until(lambda worker=worker: has(worker, PARTITIONS // 2))  # type: ignore[misc]


def test_the_partitions_of_a_killed_worker_that_does_not_come_back_flow_elsewhere(
    workers: Workers, flow: Flow, topic: Callable[..., str]
) -> None:
    orders = topic("orders", PARTITIONS)
    first = start(workers, flow, orders)
    second = workers.adopt(first.twin())
    second.until(lambda: has(second, PARTITIONS // 2))

    first.kill()

    took_s = flow.through(orders, second, within_s=40)
    tell("killed for good", took_s)
    assert took_s < 2 * SESSION_S


@pytest.mark.parametrize("command", [FLOWGUARD, FAUST], ids=["flowguard", "faust"])
def test_sigint_leaves_the_group_and_sigterm_does_not(
    command: tuple[str, ...], workers: Workers, flow: Flow, topic: Callable[..., str]
) -> None:
    orders = topic("orders", PARTITIONS)
    first = start(workers, flow, orders, settings=LONG, command=command)
    second = workers.adopt(first.twin())
    for worker in (first, second):
        worker.until(lambda worker=worker: has(worker, PARTITIONS // 2))  # type: ignore[misc]

    assert first.stop(signal.SIGTERM) == 0
    first.start()
    took_s = flow.through(orders, first, within_s=LONG_S)
    tell("SIGTERM and started again", took_s)
    assert took_s < LONG_S / 2
    assert has(second, PARTITIONS // 2)

    assert first.stop(signal.SIGINT) == 0
    took_s = flow.through(orders, second, within_s=LONG_S)
    tell("SIGINT, and the other one goes on", took_s)
    assert took_s < LONG_S / 2
    assert flow.settled() == Counter(flow.sent)


def test_of_two_workers_with_one_id_the_first_names_it_and_stops(
    workers: Workers, flow: Flow, topic: Callable[..., str]
) -> None:
    orders = topic("orders", PARTITIONS)
    first = start(workers, flow, orders, settings=LONG, options=("--instance-id", "blue"))
    flow.through(orders, first)

    second = workers.adopt(first.twin())

    assert first.process.wait(30) == 1
    (line,) = [each for each in first.said.splitlines() if "another worker has joined" in each]
    assert f"{first.group}.blue" in line
    second.until(lambda: has(second, PARTITIONS))
    flow.through(orders, second)
    assert "another worker" not in second.said


def test_a_worker_with_an_id_of_its_own_comes_back_without_its_data_directory(
    workers: Workers, flow: Flow, topic: Callable[..., str]
) -> None:
    orders = topic("orders", PARTITIONS)
    nowhere = {"datadir": "/dev/shm/nothing-stays-here", **LONG}
    worker = start(workers, flow, orders, settings=nowhere, options=("--instance-id", "blue"))
    flow.through(orders, worker)

    worker.kill()
    worker.start()

    took_s = flow.through(orders, worker, within_s=LONG_S)
    tell("killed and started again with --instance-id", took_s)
    assert took_s < LONG_S / 2


def test_a_worker_that_was_away_for_longer_than_its_session_commits_nothing_of_that_time(
    workers: Workers, flow: Flow, topic: Callable[..., str]
) -> None:
    orders = topic("orders", PARTITIONS)
    first = start(workers, flow, orders, settings=SHORT, busy_s=0.02)
    second = workers.adopt(first.twin())
    second.until(lambda: has(second, PARTITIONS // 2))
    for _ in range(20):
        flow.send(orders)

    first.freeze()
    second.until(lambda: has(second, PARTITIONS), what="it did not take over")
    flow.through(orders, second)
    second.until(lambda: flow.outside.is_done(second.group, orders))
    committed = flow.outside.committed(second.group, orders)
    first.thaw()

    first.until(lambda: has(first, PARTITIONS // 2), what="it did not join again")
    for _ in range(5):
        now = flow.outside.committed(second.group, orders)
        assert all(now[number] >= at for number, at in committed.items()), (committed, now)
        committed = now
        flow.through(orders, first)
    assert flow.sent == flow.settled().keys()


@contextmanager
def steady(flow: Flow, orders: str) -> Iterator[None]:
    """Send a record to each partition again and again, meanwhile."""
    ending = threading.Event()

    def send() -> None:
        producer = flow.outside.producer(linger_ms=0)
        while not ending.wait(0.02):
            ids = list(itertools.islice(flow._numbers, PARTITIONS))
            places = [Record({"id": each}, partition=n) for n, each in enumerate(ids)]
            flow.outside.send(producer, orders, places)
            flow.sent |= set(ids)
        producer.flush(30)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def longest_gaps(flow: Flow, topic: str) -> dict[int, float]:
    """Return the longest time without a settled record, in seconds, by partition."""
    at_ms = defaultdict(list)
    for message in flow.outside.read(flow.done):
        row = json_of(message)
        if row["topic"] == topic:
            at_ms[row["source"]].append(message.timestamp()[1])
    return {
        number: max(later - earlier for earlier, later in itertools.pairwise(sorted(times))) / 1e3
        for number, times in at_ms.items()
    }


def test_a_worker_that_joins_or_leaves_neither_stops_nor_repeats_what_stays_where_it_is(
    workers: Workers, flow: Flow, topic: Callable[..., str]
) -> None:
    orders = topic("orders", PARTITIONS)
    first = start(workers, flow, orders, busy_s=0.05)
    flow.through(orders, first)

    with steady(flow, orders):
        second = workers.adopt(first.twin())
        second.until(lambda: has(second, PARTITIONS // 2))
        stay = {each["partition"] for each in first.state["partitions"]}
        time.sleep(1)
        assert second.stop(signal.SIGINT) == 0
        first.until(lambda: has(first, PARTITIONS))
    flow.until(flow.sent, first, within_s=30)

    gaps = longest_gaps(flow, orders)
    print("longest gaps in s:", {n: (round(gap, 2), n in stay) for n, gap in gaps.items()})
    assert len(stay) == PARTITIONS // 2
    assert all(gaps[number] < 3 for number in stay)
    repeated = {number for number, times in flow.settled().items() if times > 1}
    assert not repeated
    eventually(lambda: flow.outside.is_done(first.group, orders))
