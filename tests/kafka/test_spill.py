"""Lanes that spill, in real workers: nothing depends on the disk, and urgent records pass.

In each test a bulk lane shares its partitions with an urgent one; its agent waits until a file
`go` is there, so that what there is no memory for is on disk while the test looks.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from tests.kafka.outside import Outside, Record
from tests.kafka.worker import Worker, Workers, eventually
from tests.kafka_broker import KafkaBroker

APP = """
realtime = fg.Lane("realtime", target="1s", reserve=0.25)
bulk = fg.Lane("bulk", overflow=fg.Spill(SPILL, encrypt=ENCRYPT))
app = fg.App(APP, broker=BROKER, memory="16MiB", spill_dir=HERE / "spill", lanes=[realtime, bulk],
             broker_session_timeout=6.0, broker_heartbeat_interval=1.0)
events = app.feed(EVENTS, columns={"id": "int64"},
                  lanes=fg.by_header("lane", {"realtime": realtime}, default=bulk))
done = app.feed(DONE)

@app.agent(events, sink=[done], concurrency=4, batch=fg.BatchSize(max=50))
async def work(batches):
    async for batch in batches:
        while batch.lane.name == "bulk" and not (HERE / "go").exists():
            await asyncio.sleep(0.02)
        yield batch.to_polars().select("id")
"""

PARTITIONS = 2
N = 6_000  # records of 2 kB; of 10 MiB for columns the bulk lane has 3.5
EVERY = 30  # one of so many is urgent
SECRET = "what-nobody-may-read"
PADDING = SECRET + "x" * 2000


class Backlog:
    """A backlog in a topic, and the worker that has it."""

    def __init__(self, outside: Outside, workers: Workers, topic: Callable[..., str]) -> None:
        self.outside = outside
        self.workers = workers
        self.events, self.done = topic("events", PARTITIONS), topic("done")

    def produce(
        self, first: int = 0, count: int = N, padding: Callable[[], str] = lambda: PADDING
    ) -> None:
        """Produce records of both lanes."""
        self.outside.produce(
            self.events,
            [
                Record(
                    {"id": number, "padding": padding()},
                    headers=[("lane", b"realtime")] if self.is_urgent(number) else [],
                    partition=number // EVERY % PARTITIONS,
                )
                for number in range(first, first + count)
            ],
        )

    @staticmethod
    def is_urgent(number: int) -> bool:
        return number % EVERY == EVERY - 1

    def start(self, *, spill: str = "1GiB", encrypt: bool = False) -> Worker:
        """Start a worker, and let it read until there is no more, or no more room."""
        options: dict[str, Any] = {"SPILL": spill, "ENCRYPT": encrypt}
        return self.workers.start(APP, EVENTS=self.events, DONE=self.done, **options)

    def is_spilled(self, worker: Worker) -> bool:
        """Tell whether all is read, and what memory has no room for is on disk."""
        ends = self.outside.ends(self.events)
        read = all(
            worker.partition(self.events, number).get("position") == end
            for number, end in ends.items()
        )
        return read and worker.lane("bulk").get("spilled", 0) > N // 4

    def finish(self, worker: Worker) -> Counter[int]:
        """Let bulk go on until all is committed; return how often each record was settled."""
        (worker.directory / "go").touch()
        worker.until(lambda: self.outside.is_done(worker.group, self.events), what="not done")
        return self.settled()

    def settled(self) -> Counter[int]:
        return Counter(row["id"] for row in self.outside.values(self.done))


def files(worker: Worker) -> Iterator[Path]:
    """Return the segments of a worker's spill directory."""
    return (path for path in (worker.directory / "spill").rglob("*") if path.is_file())


def sizes(worker: Worker) -> dict[str, int]:
    """Return the size of each segment."""
    return {path.name: path.stat().st_size for path in files(worker) if path.suffix == ".fgs"}


def holds(worker: Worker, text: str) -> bool:
    return any(text.encode() in path.read_bytes() for path in files(worker))


def test_a_backlog_waits_on_disk_while_urgent_records_behind_it_are_served(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    backlog = Backlog(outside, workers, topic)
    backlog.produce()
    worker = backlog.start()
    worker.until(lambda: backlog.is_spilled(worker), what="nothing is on disk")
    worker.until(lambda: worker.lane("realtime")["settled"] == N // EVERY)

    assert all(map(backlog.is_urgent, backlog.settled()))
    lane = worker.lane("bulk")
    assert lane["state"] == "spilling" and "wait on disk" in lane["why"]
    assert lane["spilled_bytes"] > 2000 * lane["spilled"]
    assert worker.state["memory"]["used"] <= worker.state["memory"]["budget"]
    assert holds(worker, SECRET)

    assert backlog.finish(worker) == Counter(range(N))
    lane = worker.lane("bulk")
    assert lane["read"] == lane["settled"] == N - N // EVERY
    assert (lane["spilled"], lane["spilled_bytes"], lane["state"]) == (0, 0, "ok")
    assert worker.stop() == 0


def test_a_directory_that_is_deleted_in_the_middle_costs_nothing_but_reading_again(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    backlog = Backlog(outside, workers, topic)
    backlog.produce()
    worker = backlog.start()
    worker.until(lambda: backlog.is_spilled(worker))

    shutil.rmtree(worker.directory / "spill")

    assert backlog.finish(worker) == Counter(range(N))
    lane = worker.lane("bulk")
    assert lane["read"] == lane["settled"] == N - N // EVERY
    assert "is missing" in worker.said


def test_flipped_bytes_are_found_and_named_and_those_frames_are_read_again(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    backlog = Backlog(outside, workers, topic)
    backlog.produce()
    worker = backlog.start()
    worker.until(lambda: backlog.is_spilled(worker))

    for path in files(worker):
        if (size := path.stat().st_size) > 1_000_000:
            with path.open("r+b") as file:
                for position in (size // 3, size // 2):
                    file.seek(position)
                    flipped = bytes(byte ^ 0xFF for byte in file.read(16))
                    file.seek(position)
                    file.write(flipped)

    assert backlog.finish(worker) == Counter(range(N))
    named = re.findall(
        rf"{backlog.events}\[\d\]: what lane 'bulk' spilled of offsets \d+ to \d+ is corrupt",
        worker.said,
    )
    assert 1 <= len(named) <= 4
    lane = worker.lane("bulk")
    assert lane["read"] == lane["settled"] == N - N // EVERY


def test_after_a_kill_what_is_on_disk_is_used_and_nothing_is_lost(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    backlog = Backlog(outside, workers, topic)
    backlog.produce()
    worker = backlog.start()
    worker.until(lambda: backlog.is_spilled(worker))
    worker.until(lambda: worker.lane("realtime")["settled"] == N // EVERY)
    worker.freeze()
    before, on_disk = backlog.settled(), sizes(worker)
    worker.kill()

    worker.start().until(lambda: backlog.is_spilled(worker), what="it did not take it up again")
    assert "is not used" not in worker.said
    assert on_disk.items() <= sizes(worker).items()
    written = sum(sizes(worker).values()) - sum(on_disk.values())
    assert written < 0.2 * sum(on_disk.values()), "what was on disk was written again"

    after = backlog.finish(worker)
    assert after.keys() == set(range(N)), f"lost: {sorted(set(range(N)) - after.keys())}"
    again = Counter(after) - Counter(range(N))
    assert all(map(backlog.is_urgent, again)), "what no agent had had was settled twice"
    assert again.keys() <= before.keys()
    lane = worker.lane("bulk")
    assert lane["read"] == lane["settled"] == N - N // EVERY


def test_what_is_on_disk_of_a_topic_that_was_made_anew_is_never_delivered(
    outside: Outside, workers: Workers, topic: Callable[..., str], kafka: KafkaBroker
):
    backlog = Backlog(outside, workers, topic)
    backlog.produce()
    worker = backlog.start()
    worker.until(lambda: backlog.is_spilled(worker))
    worker.kill()
    before = backlog.settled()
    outside.admin.delete_topics([backlog.events])[backlog.events].result(30)
    eventually(lambda: backlog.events not in outside.admin.list_topics(timeout=30).topics)
    kafka.create_topic(backlog.events, PARTITIONS)
    backlog.produce(first=100 * N)

    worker.start().until(lambda: worker.state["partitions"])

    assert backlog.finish(worker) - before == Counter(range(100 * N, 101 * N))
    assert worker.said.count("is not used, and read from Kafka again") == PARTITIONS


def test_when_the_quota_is_reached_the_state_says_what_is_held_up_and_all_is_done_in_the_end(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    backlog = Backlog(outside, workers, topic)
    backlog.produce(padding=lambda: token_urlsafe(1500))
    worker = backlog.start(spill="1MiB")
    lane = worker.until(
        lambda: worker.lane("bulk")["state"] == "hol_blocked" and worker.lane("bulk"),
        what="it is not blocked",
    )

    assert "is not fetched, and more urgent records may wait there" in lane["why"]
    assert "of its 1.0 MiB on disk are used" in lane["why"]
    # Room is reserved for the open file, an eighth; for two while one takes the other's place.
    assert sum(path.stat().st_size for path in files(worker)) <= 1.3 * 1024 * 1024
    assert backlog.finish(worker) == Counter(range(N))
    worker.until(lambda: worker.lane("bulk")["state"] == "ok")


def test_where_a_lane_is_encrypted_no_value_is_in_any_file(
    outside: Outside, workers: Workers, topic: Callable[..., str]
):
    backlog = Backlog(outside, workers, topic)
    backlog.produce()
    worker = backlog.start(encrypt=True)
    worker.until(lambda: backlog.is_spilled(worker))

    assert sum(path.stat().st_size for path in files(worker)) > 1_000_000
    assert not holds(worker, SECRET)
    assert backlog.finish(worker) == Counter(range(N))
