"""Workers that are killed, stopped, joined and left: nothing is lost, and little is repeated."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from tests.kafka.outside import Outside, Record
from tests.kafka.worker import FAUST, FLOWGUARD, Worker, Workers
from tests.kafka_broker import SHORT_LIVED, KafkaBroker

#: So slow that a test can act in the middle.
SLOW = """
app = fg.App(APP, broker=BROKER, broker_session_timeout=6.0, broker_heartbeat_interval=1.0)
orders = app.feed(ORDERS, columns={"id": "int64"})
done = app.feed(DONE)

@app.agent(orders, sink=[done], batch=fg.BatchSize(max=RECORDS), concurrency=2)
async def work(batches):
    async for batch in batches:
        with (HERE / "begun").open("a") as begun:
            begun.write(f"{len(batch)}\\n")
        await asyncio.sleep(RECORDS / 500)
        yield batch.to_polars(meta=True).select("id", source="_partition", offset="_offset")
"""
N = 2_000
SMALL, LARGE = 10, 200  # records a batch; a large one is busy for 0.4 s
PARTITIONS = 4


def produce(outside: Outside, topic: str, ids: range = range(N)) -> None:
    outside.produce(
        topic, [Record({"id": number}, partition=number % PARTITIONS) for number in ids]
    )


def is_halfway(outside: Outside, worker: Worker, orders: str) -> bool:
    return sum(outside.committed(worker.group, orders).values()) >= N // 4


def ids_of(outside: Outside, topic: str) -> Counter[int]:
    return Counter(row["id"] for row in outside.values(topic))


def test_after_a_kill_nothing_is_lost_and_only_what_was_not_committed_is_repeated(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    orders, done = topic("orders", PARTITIONS), topic("done")
    produce(outside, orders)
    worker = workers.start(SLOW, RECORDS=SMALL, ORDERS=orders, DONE=done)
    worker.until(lambda: is_halfway(outside, worker, orders))

    worker.freeze()
    committed = outside.committed(worker.group, orders)
    settled = outside.values(done)
    worker.kill()
    assert sum(committed.values()) < N, "it was not in the middle"
    uncommitted = {row["id"] for row in settled if row["offset"] >= committed[row["source"]]}

    worker.start().until(lambda: outside.is_done(worker.group, orders))
    found = ids_of(outside, done)
    assert found.keys() == set(range(N)), f"lost: {sorted(set(range(N)) - found.keys())}"
    repeated = {number for number, times in found.items() if times > 1}
    # What the broker had received, but not yet written when we looked, was in flight.
    in_flight = 2 * SMALL * 8
    assert len(repeated - uncommitted) <= in_flight
    assert max(found.values()) <= 2


@pytest.mark.parametrize(
    ("how", "command"),
    [(signal.SIGTERM, FLOWGUARD), (signal.SIGINT, FAUST)],
    ids=["flowguard-SIGTERM", "faust-SIGINT"],
)
def test_a_worker_that_is_told_to_stop_finishes_what_it_has_and_the_next_repeats_nothing(
    how: signal.Signals,
    command: tuple[str, ...],
    outside: Outside,
    workers: Workers,
    topic: Callable[..., str],
):
    orders, done = topic("orders", PARTITIONS), topic("done")
    produce(outside, orders)
    worker = workers.start(SLOW, RECORDS=LARGE, command=command, ORDERS=orders, DONE=done)
    worker.until(lambda: is_halfway(outside, worker, orders))

    assert worker.stop(how) == 0
    committed = outside.committed(worker.group, orders)
    assert sum(committed.values()) < N, "it was not in the middle"
    begun = sum(map(int, (worker.directory / "begun").read_text().split()))
    assert outside.count(done) == begun, "some of what it had begun is not finished"
    assert sum(committed.values()) == begun, "some of what it has finished is not committed"

    worker.start().until(lambda: outside.is_done(worker.group, orders))
    assert ids_of(outside, done) == Counter(range(N))


def test_workers_join_and_leave_while_records_flow_and_nothing_is_lost_or_repeated(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    orders, done = topic("orders", PARTITIONS), topic("done")
    sent = 0

    def flowing_until(worker: Worker, condition: Callable[[], object]) -> None:
        def produce_and_ask() -> object:
            nonlocal sent
            produce(outside, orders, range(sent, sent + 4 * PARTITIONS))
            sent += 4 * PARTITIONS
            return condition()

        worker.until(produce_and_ask)

    def has(worker: Worker, count: int) -> bool:
        return len(worker.state["partitions"]) == count

    def is_past(worker: Worker, settled: int) -> bool:
        return worker.lane("default")["settled"] > settled

    first = workers.start(SLOW, RECORDS=LARGE, ORDERS=orders, DONE=done)
    flowing_until(first, partial(is_past, first, 200))
    second = workers.adopt(first.twin())
    for worker in (first, second):
        flowing_until(worker, partial(has, worker, PARTITIONS // 2))
        flowing_until(worker, partial(is_past, worker, worker.lane("default")["settled"] + 99))
    assert first.stop(signal.SIGINT) == 0  # SIGTERM would keep its partitions for a restart
    flowing_until(second, lambda: has(second, PARTITIONS))

    second.until(lambda: outside.is_done(second.group, orders))
    assert ids_of(outside, done) == Counter(range(sent))


def test_a_worker_survives_the_absence_of_the_broker_and_goes_on_by_itself(
    workers: Workers, topic_name: Callable[[str], str]
):
    with KafkaBroker(jvm_options=SHORT_LIVED) as broker:
        if not broker.restartable:
            pytest.skip(f"{broker.description} cannot be stopped")
        outside = Outside(broker.bootstrap)
        orders = broker.create_topic(topic_name("orders"), PARTITIONS)
        done = broker.create_topic(topic_name("done"))
        produce(outside, orders, range(N // 2))
        worker = workers.start(
            SLOW, RECORDS=SMALL, bootstrap=broker.bootstrap, ORDERS=orders, DONE=done
        )
        worker.until(lambda: outside.count(done) > 200)

        broker.stop()
        worker.until(lambda: "trying again" in worker.said, what="it did not notice")
        assert worker.page("/healthz") is not None
        broker.start()
        produce(outside, orders, range(N // 2, N))

        worker.until(lambda: outside.is_done(worker.group, orders), what="it does not go on")
        found = ids_of(outside, done)
        assert found.keys() == set(range(N)), f"lost: {sorted(set(range(N)) - found.keys())}"
        assert worker.stop() == 0


def test_a_topic_that_does_not_exist_is_named_and_read_as_soon_as_it_does(
    outside: Outside,
    workers: Workers,
    kafka: KafkaBroker,
    topic: Callable[..., str],
    topic_name: Callable[[str], str],
):
    later, done = topic_name("later"), topic("done")
    source = SLOW.replace("fg.App(APP,", "fg.App(APP, consumer_metadata_max_age_ms=300,")
    worker = workers.start(source, RECORDS=SMALL, joined=False, ORDERS=later, DONE=done)
    worker.until(lambda: f"topic '{later}' does not exist" in worker.said)

    kafka.create_topic(later, PARTITIONS)
    produce(outside, later, range(100))
    worker.until(lambda: outside.is_done(worker.group, later), what="it is not read")
    assert ids_of(outside, done) == Counter(range(100))
