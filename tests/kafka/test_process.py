"""A worker as a process: what it says of itself, how it ends, and what it has too little of."""

from __future__ import annotations

import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from tests.kafka.outside import Outside, Record
from tests.kafka.worker import Worker, Workers, eventually
from tests.kafka_broker import KafkaBroker

READ = """
app = fg.App(APP, broker=BROKER)
orders = app.feed(ORDERS, columns={"id": "int64"})

@app.agent(orders)
async def read(batches):
    async for batch in batches:
        pass
"""


def status(worker: Worker, path: str) -> int:
    """Return the status of a page, 0 if nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}{path}", timeout=5) as page:
            return int(page.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def seconds(since_s: float) -> float:
    return time.monotonic() - since_s


# What it says of itself.

SLOW = """
app = fg.App(APP, broker=BROKER)
orders = app.feed(ORDERS, columns={"id": "int64"})

@app.agent(orders)
async def read(batches):
    async for batch in batches:
        (HERE / "begun").touch()
        while not (HERE / "go").exists():
            await asyncio.sleep(0.02)
"""


def test_a_worker_that_drains_is_alive_but_not_ready_then_commits_and_exits_0(
    outside: Outside, workers: Workers, topic: Callable[..., str]
) -> None:
    orders = topic("orders")
    worker = workers.start(SLOW, ORDERS=orders)
    assert [status(worker, path) for path in ("/healthz", "/readyz")] == [200, 200]
    outside.produce(orders, [Record({"id": 1})])
    worker.until(lambda: (worker.directory / "begun").exists())

    worker.process.send_signal(signal.SIGTERM)
    eventually(lambda: status(worker, "/readyz") in (0, 503))
    assert worker.process.poll() is None, "it does not wait for what is in flight"
    (worker.directory / "go").touch()

    assert worker.process.wait(30) == 0
    assert outside.committed(worker.group, orders) == {0: 1}
    assert "all that was finished is committed" in worker.said


def test_a_broker_that_is_away_makes_a_worker_unready_but_never_dead(
    kafka: KafkaBroker, outside: Outside, workers: Workers, topic: Callable[..., str]
) -> None:
    if not kafka.restartable:
        pytest.skip("this cluster cannot be stopped")
    orders = topic("orders")
    worker = workers.start(READ, ORDERS=orders)
    kafka.stop()
    try:
        worker.until(lambda: status(worker, "/readyz") == 503, what="it says it is ready")
        assert status(worker, "/healthz") == 200
        assert worker.said.count("\n") < 150, "it fills the log while it waits"
    finally:
        kafka.start()
    worker.until(lambda: status(worker, "/readyz") == 200, what="it is not ready again")
    outside.produce(orders, [Record({"id": 1})])
    worker.until(lambda: outside.is_done(worker.group, orders))
    assert worker.stop() == 0


BLOCKING = """
import time

app = fg.App(APP, broker=BROKER, web_in_thread=True)
orders = app.feed(ORDERS, columns={"id": "int64"})

@app.agent(orders)
async def read(batches):
    async for batch in batches:
        while not (HERE / "go").exists():
            time.sleep(0.02)
"""


def test_an_agent_that_blocks_the_loop_is_named_and_does_not_keep_the_worker_from_ending(
    outside: Outside, workers: Workers, topic: Callable[..., str]
) -> None:
    orders = topic("orders")
    worker = workers.start(BLOCKING, ORDERS=orders)
    outside.produce(orders, [Record({"id": 1})])
    said = worker.until(
        lambda: re.search(r"event loop has not run for .* because of (\S+) read;", worker.said)
    )
    assert re.fullmatch(r".*/app\.py:\d+", said[1])
    worker.until(lambda: status(worker, "/healthz") == 503, what="it says that it is alive")

    (worker.directory / "go").touch()
    worker.until(lambda: "the event loop runs again" in worker.said)
    worker.until(lambda: status(worker, "/healthz") == 200)
    loop = worker.state["event_loop"]
    assert (
        loop["stalls"] == 1 and loop["blocked_seconds"] > 1 and loop["place"] == f"{said[1]} read"
    )
    assert "flowguard_event_loop_stalls_total 1.0" in worker_metrics(worker)

    (worker.directory / "go").unlink()
    outside.produce(orders, [Record({"id": 2})])
    worker.until(lambda: worker.said.count("has not run for") == 2)
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(0.6)  # one that follows at once is taken for the same
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(10) == 130
    assert "SIGTERM again: stopping at once" in worker.said


def worker_metrics(worker: Worker) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/metrics", timeout=10) as page:
        return str(page.read().decode())


# How it ends.


def test_a_worker_that_never_joined_ends_when_it_is_told(
    kafka: KafkaBroker, workers: Workers, topic: Callable[..., str]
) -> None:
    """The group waits for a member that is frozen, and so does who comes after it."""
    orders = topic("orders")
    first = workers.start(READ, ORDERS=orders)
    first.freeze()
    second = workers.adopt(first.twin())
    second.until(lambda: status(second, "/readyz") == 503, what="its pages are not there")
    assert status(second, "/healthz") == 200

    began_s = time.monotonic()
    assert second.stop() == 0
    assert seconds(began_s) < 15.0
    assert "stopped" in second.said


# What it has too little of.

HOARDING = """
import resource

resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

app = fg.App(APP, broker=BROKER)
orders = app.feed(ORDERS, columns={"id": "int64"})
copies = app.feed(COPIES)
hoard = []

@app.timer(0.05)
async def take_all():
    if (HERE / "hoard").exists() and not (HERE / "go").exists():
        try:
            while True:
                hoard.append(os.dup(0))
        except OSError:
            (HERE / "hoard").stat()
    elif (HERE / "go").exists():
        while hoard:
            os.close(hoard.pop())

@app.agent(orders, sink=[copies])
async def copy(batches):
    async for batch in batches:
        yield batch.to_polars()
"""


def test_a_worker_without_file_descriptors_says_so_once_loses_nothing_and_recovers(
    outside: Outside, workers: Workers, topic: Callable[..., str]
) -> None:
    orders, copies = topic("orders"), topic("copies")
    worker = workers.start(HOARDING, ORDERS=orders, COPIES=copies)
    (worker.directory / "hoard").touch()
    worker.until(lambda: "all 200 file descriptors of this process are in use" in worker.said)
    # The first record that it sends needs a connection.
    outside.produce(orders, [Record({"id": number}) for number in range(100)])
    worker.until(lambda: "Too many open files" in worker.said, what="it connects all the same")
    for _ in range(3):
        assert status(worker, "/healthz") == 0  # there is none for a page either
    assert outside.count(copies) == 0

    (worker.directory / "go").touch()
    worker.until(lambda: outside.is_done(worker.group, orders), what="it does not recover")
    assert sorted(row["id"] for row in outside.values(copies)) == list(range(100))
    worker.until(lambda: "there are file descriptors again" in worker.said)
    assert worker.said.count("all 200 file descriptors") == 1
    assert "Traceback" not in worker.said
    assert worker.stop() == 0
