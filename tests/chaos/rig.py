"""A run: real workers on Apache Kafka, records that flow, and the plan that is done to them."""

from __future__ import annotations

import heapq
import itertools
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message

from flowguard.view import UNSETTLED_PER_SEAT
from tests.chaos.history import Policy, Verdict, check
from tests.chaos.plan import SESSION_S, Plan, Step
from tests.chaos.sight import history_of
from tests.kafka.outside import Outside, Record
from tests.kafka.worker import FLOWGUARD, PREAMBLE, Worker
from tests.kafka_broker import KafkaBroker

__all__ = ["Result", "Rig"]

PARTITIONS: Final = 4
KEYS: Final = 97

#: How far a lane may run past its oldest unfinished record if order is not partition.
SKEW_RECORDS: Final = 65_536

TICK_S: Final = 0.02

#: Far more than stopping, or finishing what is left, takes; only a failure waits as long.
STOP_WITHIN_S: Final = 45.0
SETTLE_WITHIN_S: Final = 180.0

#: After a broker is back, what was sent before is sent again within this.
TROUBLE_AFTER_MS: Final = 30_000

APP: Final = """
import time

fast = fg.Lane("fast", target="1s", reserve=0.25)
bulk = fg.Lane("bulk", overflow=fg.Spill("256MiB") if LANES == 2 else fg.Block())
app = fg.App(APP, broker=BROKER, memory="16MiB", spill_dir=HERE / "spill",
             lanes=[fast, bulk] if LANES == 2 else [bulk],
             broker_session_timeout=SESSION_S, broker_heartbeat_interval=SESSION_S / 10)
events = app.feed(
    EVENTS, columns={"id": "!int64"}, order=ORDER,
    lanes=fg.by_header("lane", {"fast": fast}, default=bulk) if LANES == 2 else bulk)
done = app.feed(DONE)

LIFE = f"{os.getpid()}.{time.time_ns()}"
turn = 0

# Also at a revocation: what begins after it is of no assignment that begins again.
@app.on_partitions_revoked.connect
@app.on_partitions_assigned.connect
async def next_turn(*args, **kwargs):
    global turn
    turn += 1

@app.agent(events, sink=[done], concurrency=SEATS, batch=fg.BatchSize(max=RECORDS),
           retries=fg.Retry(3, backoff="5ms..50ms"),
           dead_letters=fg.DeadLetters(topic=LETTERS, max_ratio=1.0))
async def work(batches):
    async for batch in batches:
        begun = f"{LIFE}.{turn}"
        if (HERE / "outage").exists():
            raise fg.Unavailable("the model is not there")
        await asyncio.sleep(1.0 if (HERE / "slow").exists() else BATCH_S)
        frame = batch.to_polars(meta=True)
        if (frame["id"] % POISON == POISON - 1).any():
            raise ValueError("this record is poison")
        yield frame.select("id", "_partition", p="_partition", o="_offset", turn=pl.lit(begun))
"""


@dataclass(slots=True)
class Result:
    """What came of a run.

    Attributes:
        verdict: On its history.
        problems: What went wrong beside it: workers that ended by themselves, or did not stop.
        done: What was done, by kind; `killed` counts processes.
    """

    verdict: Verdict
    problems: list[str]
    done: Counter[str]
    seconds: float

    @property
    def lines(self) -> list[str]:
        """Return it for people."""
        done = ", ".join(f"{what} {count}" for what, count in sorted(self.done.items()))
        return [
            f"{self.seconds:.0f} s; {done}",
            self.verdict.line,
            *map(str, self.verdict.anomalies),
            *self.problems,
        ]

    @property
    def is_good(self) -> bool:
        """Tell whether nothing went wrong."""
        return not self.problems and not self.verdict.names


@dataclass(slots=True)
class Slot:
    """The place of one worker; `back` counts what is to bring it back."""

    worker: Worker
    state: str = "down"  # up, frozen, leaving
    log_from: int = 0
    back: int = 0

    def start(self) -> None:
        """Start its process."""
        log = self.worker.log
        self.log_from = log.stat().st_size if log.exists() else 0
        self.worker.start()
        self.state = "up"

    @property
    def was_ready(self) -> bool:
        """Tell whether the process got so far that it minds signals."""
        return b"ready" in self.worker.log.read_bytes()[self.log_from :]


@dataclass(slots=True, order=True)
class Due:
    """Something to do at an instant."""

    at_s: float
    number: int
    do: Callable[[], None] = field(compare=False)


class Rig:
    """One run.

    Args:
        plan: What is done.
        broker: Kafka; restarted where the plan says so.
        directory: Of the workers: app, logs, spill.
        name: Names topics and groups that nobody else has.
        planted: Source that is put behind the app, with a bug.
        kills_max: Enough kills; the run then ends.
        commit_ms: As in the policy of the checker.
    """

    def __init__(
        self,
        plan: Plan,
        broker: KafkaBroker,
        directory: Path,
        name: Callable[[str], str],
        *,
        planted: str = "",
        kills_max: int | None = None,
        commit_ms: int = 2_000,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.plan = plan
        self.broker = broker
        self.directory = directory
        self.outside = Outside(broker.bootstrap)
        self.planted, self.kills_max, self.commit_ms, self.say = planted, kills_max, commit_ms, say
        stamped = {"message.timestamp.type": "LogAppendTime"}
        self.events = broker.create_topic(name("events"), PARTITIONS)
        self.done_topic = broker.create_topic(name("done"), PARTITIONS, stamped)
        self.letters = broker.create_topic(name("letters"), 1, stamped)
        self.group = name("chaos")
        workers = max(3, plan.setup.workers)
        self.slots = [Slot(Worker(FLOWGUARD, directory, self.group, n)) for n in range(workers)]
        self.problems: list[str] = []
        self.done: Counter[str] = Counter()
        self.troubled_ms: list[tuple[int, int]] = []
        self.acknowledged = 0
        self._sent = 0
        self._due: list[Due] = []
        self._numbers = itertools.count()
        self._producer = self.outside.producer(enable_idempotence=True)

    def run(self) -> Result:
        """Do it, and judge it."""
        began_s = time.monotonic()
        try:
            self._begin()
            self._suffer()
            self._recover()
            history = history_of(
                self.outside, group=self.group, events=self.events, done=self.done_topic,
                letters=self.letters, poison_every=self.plan.setup.poison_every,
                garbage_every=self.plan.setup.garbage_every, lanes=self.plan.setup.lanes,
            )  # fmt: skip
        finally:
            for slot in self.slots:
                slot.worker.kill()
        if len(history.produced) < self.acknowledged:
            self.problems.append("the log lacks records that the broker acknowledged")
        verdict = check(history, self.policy)
        return Result(verdict, self.problems, self.done, time.monotonic() - began_s)

    @property
    def policy(self) -> Policy:
        """Return what is promised of this run."""
        setup = self.plan.setup
        return Policy(
            order=setup.order,
            in_flight_records=UNSETTLED_PER_SEAT * setup.seats * setup.batch_records,
            skew_records=0 if setup.order == "partition" else SKEW_RECORDS,
            commit_ms=self.commit_ms,
            troubled_ms=self.troubled_ms,
        )

    # The run.

    def _begin(self) -> None:
        setup = self.plan.setup
        constants = {
            "APP": self.group, "BROKER": f"kafka://{self.broker.bootstrap}",
            "EVENTS": self.events, "DONE": self.done_topic, "LETTERS": self.letters,
            "ORDER": setup.order, "LANES": setup.lanes, "SEATS": setup.seats,
            "RECORDS": setup.batch_records, "BATCH_S": setup.batch_s,
            "POISON": setup.poison_every, "SESSION_S": SESSION_S,
        }  # fmt: skip
        lines = [f"{name} = {value!r}" for name, value in constants.items()]
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "app.py").write_text("\n".join([PREAMBLE, *lines, APP, self.planted]))
        self._produce(setup.backlog_records)
        for slot in self.slots[: setup.workers]:
            slot.start()
        first = self.slots[0].worker
        first.until(lambda: first.state["partitions"], what="it has no partitions")

    def _suffer(self) -> None:
        """Let records flow, and do what the plan says."""
        self._began_s = time.monotonic()
        for step in self.plan.steps:
            self._later(step.at_s, lambda step=step: self._do(step))
        while self._now_s < self.plan.seconds and not self._enough:
            wanted = self.plan.setup.backlog_records + self._now_s * self.plan.setup.rate_per_s
            self._produce(int(wanted) - self._sent)
            self._tick()
        self._due.clear()

    @property
    def _enough(self) -> bool:
        return self.kills_max is not None and self.done["killed"] >= self.kills_max

    def _tick(self) -> None:
        while self._due and self._due[0].at_s <= self._now_s:
            heapq.heappop(self._due).do()
        for slot in self.slots:
            if slot.state == "up" and (code := slot.worker.process.poll()) is not None:
                tail = "\n".join(slot.worker.said.splitlines()[-15:])
                self.problems.append(f"worker {self._number(slot)} ended with {code}: {tail}")
                slot.start()
            elif slot.state == "leaving" and slot.worker.process.poll() is not None:
                self._stop(slot)
        self._producer.poll(0)
        time.sleep(TICK_S)

    def _recover(self) -> None:
        """End all trouble, and wait until everything is committed."""
        for name in ("slow", "outage"):
            (self.directory / name).unlink(missing_ok=True)
        for slot in self.slots:
            if slot.state == "frozen":
                self._thaw(slot)
        leaving = [slot for slot in self.slots if slot.state == "leaving"]
        for slot in leaving:
            self._stop(slot)
        if not any(slot.state == "up" for slot in self.slots):
            self.slots[0].start()
        if self._producer.flush(60):
            self.problems.append("not everything was acknowledged")
        end_s = time.monotonic() + SETTLE_WITHIN_S
        while not self._all_committed() and time.monotonic() < end_s:
            self._tick()
        for slot in self.slots:
            if slot.state == "up":
                slot.worker.process.send_signal(signal.SIGTERM)
                slot.state = "leaving"
        for slot in self.slots:
            if slot.state == "leaving":
                self._stop(slot)

    def _all_committed(self) -> bool:
        try:
            committed = self.outside.committed(self.group, self.events)
            ends = self.outside.ends(self.events)
        except KafkaException:
            return False
        return all(committed[number] >= end for number, end in ends.items())

    # Records.

    def _produce(self, count: int) -> None:
        if count > 0:
            numbers = range(self._sent, self._sent + count)
            self._sent += count
            for number in numbers:
                self._send(number)

    def _send(self, number: int) -> None:
        setup = self.plan.setup
        key = number % KEYS
        urgent = setup.lanes == 2 and number % 10 == 3
        value: bytes | Mapping[str, object] = {"id": number}
        if setup.lanes == 2 and not urgent:
            value = {"id": number, "padding": "x" * 2_000}
        if number % setup.garbage_every == setup.garbage_every - 1:
            value = b"no JSON %d" % number
        headers: list[tuple[str, bytes | None]] = [("n", b"%d" % number)]
        if urgent:
            headers.append(("lane", b"fast"))
        record = Record(value, b"key-%d" % key, headers, key % PARTITIONS)
        self._producer.produce(
            self.events, record.wire_value, record.key, record.partition,
            headers=list(record.headers), on_delivery=self._note,
        )  # fmt: skip

    def _note(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self.problems.append(f"a record was not acknowledged: {error}")

    # What goes wrong.

    @property
    def _now_s(self) -> float:
        return time.monotonic() - self._began_s

    def _later(self, at_s: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, Due(at_s, next(self._numbers), do))

    def _number(self, slot: Slot) -> int:
        return self.slots.index(slot)

    def _up(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.state == "up"]

    def _do(self, step: Step) -> None:
        """Do a step to one of those that run; where none does, leave it."""
        up = self._up()
        target = up[step.worker % len(up)] if up else None
        self.say(f"{self._now_s:6.1f} s  {step.what} {step.for_s or ''}".rstrip())
        match step.what:
            case "kill" if target:
                self._kill(target, step.for_s)
            case "kill-all":
                for slot in up:
                    self._kill(slot, step.for_s)
            case "freeze" if target:
                target.worker.process.send_signal(signal.SIGSTOP)
                target.state = "frozen"
                self._later(self._now_s + step.for_s, lambda: self._thaw(target))
            case "terminate" if target:
                self._leave(target)
                self._come_back(target, step.for_s)
            case "leave" if target and len(up) > 1:
                self._leave(target)
            case "join" if down := [each for each in self.slots if self._is_free(each)]:
                down[0].start()
            case "slow" | "outage":
                flag = self.directory / step.what
                flag.touch()
                self._later(self._now_s + step.for_s, lambda: flag.unlink(missing_ok=True))
            case "wipe":
                shutil.rmtree(self.directory / "spill", ignore_errors=True)
            case "broker":
                self._restart_broker(step.for_s)
            case _:
                return
        self.done[step.what] += 1

    def _is_free(self, slot: Slot) -> bool:
        return slot.state == "down" and not slot.back

    def _kill(self, slot: Slot, for_s: float) -> None:
        slot.worker.kill()
        slot.state = "down"
        self.done["killed"] += 1
        self._come_back(slot, for_s)

    def _come_back(self, slot: Slot, for_s: float) -> None:
        slot.back += 1

        def start() -> None:
            if slot.state == "leaving":
                self._later(self._now_s + 0.1, start)
                return
            slot.back -= 1
            if slot.state == "down":
                slot.start()

        self._later(self._now_s + for_s, start)

    def _thaw(self, slot: Slot) -> None:
        if slot.state == "frozen":
            slot.worker.process.send_signal(signal.SIGCONT)
            slot.state = "up"

    def _leave(self, slot: Slot) -> None:
        slot.worker.process.send_signal(signal.SIGTERM)
        slot.state = "leaving"

    def _stop(self, slot: Slot) -> None:
        """Wait until a worker that was told to stop has, and look how."""
        try:
            code = slot.worker.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            tail = "\n".join(slot.worker.said.splitlines()[-15:])
            self.problems.append(f"worker {self._number(slot)} does not stop: {tail}")
            slot.worker.kill()
            code = 0
        slot.state = "down"
        if code != 0 and (code != -signal.SIGTERM or slot.was_ready):
            tail = "\n".join(slot.worker.said.splitlines()[-15:])
            self.problems.append(f"worker {self._number(slot)} stopped with {code}: {tail}")

    def _restart_broker(self, for_s: float) -> None:
        begin_ms = time.time_ns() // 1_000_000
        self.broker.stop()
        time.sleep(for_s)
        self.broker.start()
        self.troubled_ms.append((begin_ms, time.time_ns() // 1_000_000 + TROUBLE_AFTER_MS))
