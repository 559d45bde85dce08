"""Workers on three nodes that stop, die, hang, move what they lead and lose topics."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import NewPartitions

from tests.kafka.load import Load, judge
from tests.kafka.outside import Outside, Record
from tests.kafka.worker import FAUST, Worker, Workers, eventually
from tests.kafka_cluster import KafkaCluster

PARTITIONS = 3

#: The requirement, with room for a machine that does much else.
FLOWING_WITHIN_S = 30.0

COPYING = """
app = fg.App(APP, broker=BROKER, broker_session_timeout=6.0, broker_heartbeat_interval=1.0)
orders = app.feed(ORDERS, columns={"id": "int64"})
done = app.feed(DONE)

@app.agent(orders, sink=[done], batch=fg.BatchSize(max=100), concurrency=2)
async def copy(batches):
    async for batch in batches:
        yield batch.to_polars(meta=True).select("id", source="_partition", offset="_offset")
"""


@pytest.fixture
def cluster(kafka_cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    """Return the three nodes; afterwards all of them run again."""
    yield kafka_cluster
    kafka_cluster.heal()


@pytest.fixture
def outside(cluster: KafkaCluster) -> Outside:
    return Outside(cluster.bootstrap)


@pytest.fixture
def workers(
    cluster: KafkaCluster, tmp_path: Path, topic_name: Callable[[str], str]
) -> Iterator[Workers]:
    workers = Workers(tmp_path, cluster.bootstrap, topic_name)
    yield workers
    workers.end()


@pytest.fixture
def topic(cluster: KafkaCluster, topic_name: Callable[[str], str]) -> Callable[..., str]:
    def create(stem: str, partitions: int = 1, **config: str) -> str:
        dotted = {name.replace("_", "."): value for name, value in config.items()}
        return cluster.create_topic(topic_name(stem), partitions, dotted)

    return create


def status(worker: Worker, path: str) -> int:
    """Return the HTTP status of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=10) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code


def settled(worker: Worker) -> int:
    assert status(worker, "/healthz") == 200
    return int(worker.lane("default")["settled"])


def flows(worker: Worker, load: Load, *, within_s: float = FLOWING_WITHIN_S) -> None:
    """Wait until all that was sent until now is settled."""
    sent = load.sent
    worker.until(lambda: settled(worker) >= sent, within_s=within_s, what=f"{sent} were sent")


def is_done(worker: Worker, outside: Outside, topic: str) -> bool:
    return outside.is_done(worker.group, topic)


def expect_all(outside: Outside, done: str, sent: int, *, repeated_max: int = 0) -> None:
    """Assert that the sink has everything in order."""
    verdict = judge(outside.values(done), sent)
    assert verdict.pop("repeated") <= repeated_max
    assert verdict == {"lost": 0, "unknown": 0, "unordered": 0}


def stop_the_leader(cluster: KafkaCluster, group: str, orders: str) -> Callable[[], None]:
    node = cluster.leader(orders, 0)
    cluster.stop(node)
    return lambda: cluster.start(node)


def kill_the_leader(cluster: KafkaCluster, group: str, orders: str) -> Callable[[], None]:
    node = cluster.leader(orders, 0)
    cluster.kill(node)
    return lambda: cluster.start(node)


def kill_the_coordinator(cluster: KafkaCluster, group: str, orders: str) -> Callable[[], None]:
    node = cluster.coordinator(group)
    cluster.kill(node)
    return lambda: cluster.start(node)


def freeze_the_leader(cluster: KafkaCluster, group: str, orders: str) -> Callable[[], None]:
    """Let it keep its connections and say nothing more, as a host does that went away."""
    node = cluster.leader(orders, 0)
    cluster.freeze(node)
    return lambda: cluster.thaw(node)


@pytest.mark.parametrize(
    "happens", [stop_the_leader, kill_the_leader, kill_the_coordinator, freeze_the_leader]
)
def test_a_broker_goes_away_and_comes_back_under_load_and_nothing_is_lost(
    happens: Callable[[KafkaCluster, str, str], Callable[[], None]],
    cluster: KafkaCluster,
    outside: Outside,
    workers: Workers,
    topic: Callable[..., str],
):
    orders, done = topic("orders", PARTITIONS), topic("done")
    worker = workers.start(COPYING, ORDERS=orders, DONE=done)
    with Load(outside, orders, partitions=PARTITIONS) as load:
        flows(worker, load)
        come_back = happens(cluster, worker.group, orders)
        flows(worker, load)
        come_back()
        flows(worker, load)
        cluster.heal()
        cluster.move_leaders(orders)
        flows(worker, load)

    worker.until(lambda: is_done(worker, outside, orders), what="not all is committed")
    expect_all(outside, done, load.sent)
    assert worker.stop() == 0


def test_all_brokers_are_away_for_a_while_and_a_worker_that_starts_meanwhile_waits(
    cluster: KafkaCluster, outside: Outside, workers: Workers, topic: Callable[..., str]
):
    orders, done, copies = topic("orders", PARTITIONS), topic("done"), topic("copies")
    worker = workers.start(COPYING, ORDERS=orders, DONE=done)
    with Load(outside, orders, partitions=PARTITIONS) as load:
        flows(worker, load)

        cluster.kill(1, 2, 3)
        late = workers.start(COPYING, command=FAUST, joined=False, ORDERS=orders, DONE=copies)
        worker.until(lambda: "trying again" in worker.said, what="it did not notice")
        late.until(lambda: "waiting for one" in late.said, what="it does not wait")
        assert (status(late, "/healthz"), status(late, "/readyz")) == (200, 503)
        assert (status(worker, "/healthz"), status(worker, "/readyz")) == (200, 200)
        cluster.start()
        flows(worker, load)

    for each, sink in ((worker, done), (late, copies)):
        each.until(lambda each=each: is_done(each, outside, orders), what="it does not go on")
        expect_all(outside, sink, load.sent)
        assert each.stop() == 0


def test_a_worker_that_waits_for_a_broker_can_be_stopped(
    workers: Workers, topic_name: Callable[[str], str]
):
    nobody = "127.0.0.1:1"
    worker = workers.start(
        COPYING, command=FAUST, joined=False, bootstrap=nobody, ORDERS="orders", DONE="done"
    )
    worker.until(lambda: "waiting for one" in worker.said)
    assert status(worker, "/healthz") == 200
    worker.stop()


TWO_FEEDS = """
app = fg.App(APP, broker=BROKER, broker_session_timeout=6.0, broker_heartbeat_interval=1.0,
             consumer_metadata_max_age_ms=1000)
orders = app.feed(ORDERS, columns={"id": "int64"}, on_offset_loss=POLICY)
others = app.feed(OTHERS, columns={"id": "int64"})
done = app.feed(DONE)

@app.agent(orders, sink=[done])
async def copy(batches):
    async for batch in batches:
        yield batch.to_polars(meta=True).select("id", source="_topic")

@app.agent(others, sink=[done])
async def copy_others(batches):
    async for batch in batches:
        yield batch.to_polars(meta=True).select("id", source="_topic")
"""


def ids(outside: Outside, done: str, source: str) -> Counter[int]:
    return Counter(row["id"] for row in outside.values(done) if row["source"] == source)


def numbered(numbers: range) -> list[Record]:
    return [Record({"id": number}, partition=0) for number in numbers]


@pytest.mark.parametrize("policy", ["stop", "earliest"])
def test_a_topic_is_deleted_and_made_anew_and_the_others_go_on(
    policy: str,
    cluster: KafkaCluster,
    outside: Outside,
    workers: Workers,
    topic: Callable[..., str],
):
    orders, others, done = topic("orders"), topic("others"), topic("done")
    outside.produce(orders, numbered(range(100)))
    worker = workers.start(TWO_FEEDS, POLICY=policy, ORDERS=orders, OTHERS=others, DONE=done)
    worker.until(lambda: is_done(worker, outside, orders))

    def others_go_on(numbers: range) -> None:
        outside.produce(others, numbered(numbers))
        worker.until(lambda: is_done(worker, outside, others), what="the other topic waits")

    cluster.delete_topic(orders)
    worker.until(lambda: not worker.partition(orders, 0), what="it is not let go")
    others_go_on(range(100))
    cluster.create_topic(orders)
    outside.produce(orders, numbered(range(1000, 1020)))
    worker.until(lambda: is_done(worker, outside, orders), what="the new topic is not read")
    others_go_on(range(100, 200))

    assert ids(outside, done, orders) == Counter([*range(100), *range(1000, 1020)])
    assert ids(outside, done, others) == Counter(range(200))
    assert worker.stop() == 0


@pytest.mark.parametrize("policy", ["stop", "earliest"])
def test_of_a_topic_that_is_made_anew_at_once_no_record_is_passed_over_in_silence(
    policy: str,
    cluster: KafkaCluster,
    outside: Outside,
    workers: Workers,
    topic: Callable[..., str],
):
    orders, others, done = topic("orders"), topic("others"), topic("done")
    outside.produce(orders, numbered(range(100)))
    worker = workers.start(TWO_FEEDS, POLICY=policy, ORDERS=orders, OTHERS=others, DONE=done)
    worker.until(lambda: is_done(worker, outside, orders))

    cluster.delete_topic(orders)
    cluster.create_topic(orders)
    outside.produce(orders, numbered(range(1000, 1300)))

    def stopped() -> bool:  # unless it was let go in between, and had no position any more
        return policy == "stop" and "made anew" in str(worker.partition(orders, 0).get("why"))

    def has_it_all() -> bool:
        return ids(outside, done, orders) == Counter([*range(100), *range(1000, 1300)])

    worker.until(lambda: stopped() or has_it_all(), what="the new topic is neither read nor named")
    assert "made anew" in worker.said


def test_partitions_that_are_added_to_a_topic_are_read(
    cluster: KafkaCluster, outside: Outside, workers: Workers, topic: Callable[..., str]
):
    orders, others, done = topic("orders", 2), topic("others"), topic("done")
    worker = workers.start(TWO_FEEDS, POLICY="stop", ORDERS=orders, OTHERS=others, DONE=done)
    outside.produce(orders, [Record({"id": i}, partition=i % 2) for i in range(100)])
    outside.admin.create_partitions([NewPartitions(orders, 4)])[orders].result(30)
    eventually(lambda: set(cluster.partitions(orders).values()) == {4})
    eventually(lambda: len(cluster.leaders(orders)) == 4)
    outside.produce(orders, [Record({"id": i}, partition=i % 4) for i in range(100, 300)])

    worker.until(lambda: is_done(worker, outside, orders), what="they are not read")
    assert ids(outside, done, orders) == Counter(range(300))


def test_timestamps_of_clocks_that_are_wrong_hold_up_nothing(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    year_ms = 365 * 86_400_000
    now_ms = time.time_ns() // 1_000_000
    wrong = [1, 1000, now_ms - 30 * year_ms, now_ms + year_ms, now_ms + 200 * year_ms]
    ever = str(2**63 - 1)  # Kafka itself refuses what is an hour ahead, unless it is told not to
    orders, done = (topic(stem, message_timestamp_after_max_ms=ever) for stem in ("orders", "done"))
    lane = 'lanes=[fg.Lane("default", target="100ms")]'
    source = COPYING.replace("broker=BROKER,", f"broker=BROKER, {lane},")
    worker = workers.start(source, ORDERS=orders, DONE=done)
    records = [Record({"id": i}, partition=0, timestamp=wrong[i % len(wrong)]) for i in range(500)]
    outside.produce(orders, records)
    worker.until(lambda: is_done(worker, outside, orders))

    expect_all(outside, done, len(records))
    state: dict[str, Any] = worker.lane("default")
    assert (state["state"], state["settled"]) == ("ok", len(records))
