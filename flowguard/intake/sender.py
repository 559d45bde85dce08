"""Send finished record batches: idempotent, acknowledged by all replicas, in order.

aiokafka sends one request a broker and waits for its answer, so the broker idles while a
request is made, and the producer while it is written. Here up to five are under way on a
connection of their own, as Kafka allows an idempotent producer. Small sends join a batch
that waits while those five are out.

    send ──▶ waiting of its partition ──▶ under way (≤ 5 requests a broker) ──▶ acknowledged
                      ▲                           │
                      └── refused, lost ──────────┘  same sequence, once all of them are back

- One order a partition: a batch is sent only after all before it were sent.
- What fails for now goes back to the head of its partition, and none after it is sent until
  every answer for that partition is in. The broker knows batches it already has by sequence.
- What fails for good is reported to whoever sent it; the rest of its partition goes on with
  a new producer id, because the sequence has a gap now.

Thread-safety: everything runs on one event loop.
Source: KIP-98 (idempotent producer), KIP-185 (five requests under way).
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import errors as kafka_errors
from aiokafka.errors import KafkaError
from aiokafka.protocol.transaction import InitProducerIdRequest
from mode import get_logger

from flowguard._native.record_batches import RecordBatch, Rows
from flowguard.chunk import TopicPartition
from flowguard.errors import SettleError
from flowguard.intake.connection import credentials_of
from flowguard.intake.produce_connection import ProduceConnection, read_answer

__all__ = ["BatchSender", "Compression"]

logger = get_logger(__name__)

#: The broker remembers the sequences of so many batches of a producer and partition.
IN_FLIGHT_MAX: Final = 5

#: Batches of several partitions share a request up to this; a larger batch goes alone. The
#: broker works on one request of a connection at a time, so larger ones would not be faster.
REQUEST_BYTES_MAX: Final = 1024 * 1024

BACKOFF_S: Final = 0.1
BACKOFF_S_MAX: Final = 2.0
TICK_S: Final = 1.0

#: A broker that does not answer for so long is taken for gone.
ANSWER_WITHIN_S: Final = 40.0
CONNECT_WITHIN_S: Final = 20.0

#: What is not acknowledged so long after a stop is given up; nothing of it was committed.
CLOSE_WITHIN_S: Final = 10.0

SEQUENCE_MASK: Final = 0x7FFFFFFF
NO_TIMEOUT_MS: Final = 0x7FFFFFFF

DUPLICATE_SEQUENCE: Final = 46
MESSAGE_TOO_LARGE: Final = frozenset({10, 18})
#: Answers about the records themselves: corrupt, too large, a timestamp or a record that the
#: topic does not take, a format that the broker does not know.
TO_BLAME: Final = MESSAGE_TOO_LARGE | {2, 32, 43, 76, 87}

#: Answers after which the metadata is looked up again.
STALE_METADATA: Final = frozenset({3, 5, 6, 13, 56})
#: Those, and a broker or its replicas that take no part for now or had no time.
PASSING: Final = STALE_METADATA | {7, 19, 20, 89}
#: The broker no longer knows the producer, or another sequence of it.
SESSION_LOST: Final = frozenset({45, 47, 49, 59})

EXPECTED: Final = (KafkaError, OSError, TimeoutError, struct.error, ValueError)


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A producer id of the cluster; each partition counts its own sequence in it."""

    producer_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Compression:
    """How batches are packed.

    Args:
        codec: Number of the codec in Kafka's attributes.
        compressor: Bytes → packed bytes.
    """

    codec: int
    compressor: Any

    def pack(self, batch: RecordBatch) -> None:
        """Pack a batch, and close it."""
        batch.compress(self.codec, self.compressor)


@dataclass(slots=True, eq=False)
class Parcel:
    """A batch on its way to one partition."""

    batch: RecordBatch
    done: asyncio.Future[None]
    deadline_s: float
    session: Session | None = None
    sequence: int = 0
    refused: int | BaseException | None = None  # the broker's code, or how the connection ended


@dataclass(slots=True, eq=False)
class Lineup:
    """The batches of one partition, in order: those under way, then those that wait."""

    name: TopicPartition
    waiting: deque[Parcel] = field(default_factory=deque)
    under_way: deque[Parcel] = field(default_factory=deque)
    unanswered: int = 0
    node: int = -1
    session: Session | None = None
    next_sequence: int = 0
    not_before_s: float = 0.0

    @property
    def broken(self) -> bool:
        """Tell whether something under way was refused, so that nothing more may be sent."""
        return len(self.under_way) > self.unanswered


@dataclass(slots=True, eq=False)
class Request:
    """A request whose answer is on its way."""

    correlation_id: int
    sent_s: float
    parcels: list[tuple[Lineup, Parcel]]


class Broker:
    """One broker, and what is under way to it."""

    def __init__(self, sender: BatchSender, node: int) -> None:
        self.node = node
        self.connection: ProduceConnection | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.requests: deque[Request] = deque()
        self.backoff_s = BACKOFF_S
        self.not_before_s = 0.0
        self._sender = sender

    @property
    def has_room(self) -> bool:
        """Tell whether another request can be sent now."""
        return (
            self.connection is not None
            and self.connection.alive
            and not self.connection.full
            and len(self.requests) < IN_FLIGHT_MAX
        )

    def answered(self, frame: memoryview) -> None:
        """Take in an answer; they come in the order of the requests."""
        try:
            correlation_id, errors = read_answer(frame)
            if not self.requests or self.requests[0].correlation_id != correlation_id:
                raise ValueError("it answers another request than the oldest")
        except (struct.error, ValueError) as error:
            logger.warning("broker %s: an answer cannot be read: %s", self.node, error)
            self.drop()
            return
        self.backoff_s = BACKOFF_S
        for lineup, parcel in self.requests.popleft().parcels:
            self._sender.answered(lineup, parcel, errors.get(lineup.name, -1))

    def lost(self, error: BaseException) -> None:
        """Note that the connection is gone; what was under way goes back."""
        if self.connection is not None:
            self.connection.abandon()
        self.connection = None
        requests, self.requests = self.requests, deque()
        if requests:
            self.wait(error)
        for request in requests:
            for lineup, parcel in request.parcels:
                self._sender.answered(lineup, parcel, error)
        self._sender.wake()

    def resumed(self) -> None:
        """Note that the socket takes more."""
        self._sender.wake()

    def wait(self, error: BaseException) -> None:
        """Leave the broker alone for a while, each time for longer."""
        logger.warning(
            "broker %s: %s: %s; trying again in %.1f s",
            self.node, type(error).__name__, error or "no answer", self.backoff_s,
            exc_info=None if isinstance(error, EXPECTED) else error,
        )  # fmt: skip
        self.not_before_s = asyncio.get_running_loop().time() + self.backoff_s
        self.backoff_s = min(BACKOFF_S_MAX, self.backoff_s * 2)
        self._sender.client.force_metadata_update()

    def drop(self) -> None:
        """Close the connection; what was under way goes back."""
        if self.connection is not None:
            self.lost(kafka_errors.KafkaConnectionError("the connection was closed"))


class BatchSender:
    """Send record batches over connections of its own.

    Args:
        client: aiokafka's client, for metadata and producer ids; it is not closed here.
        timeout_s: A batch that is not acknowledged so long after it was sent has failed.
        open_bytes: Size up to which small sends share a batch.
        compression: How such batches are packed; None for not at all.
    """

    def __init__(
        self,
        client: Any,
        *,
        timeout_s: float,
        open_bytes: int,
        compression: Compression | None = None,
    ) -> None:
        self.client = client
        self._timeout_s = timeout_s
        self._open_bytes = open_bytes
        self._compression = compression
        self._loop = asyncio.get_running_loop()
        self._lineups: dict[TopicPartition, Lineup] = {}
        self._by_topic: dict[str, list[Lineup]] = {}
        self._busy: dict[Lineup, None] = {}  # those with batches that wait, in turn
        self._brokers: dict[int, Broker] = {}
        self._session: Session | None = None
        self._opening: asyncio.Task[None] | None = None
        self._spent: set[tuple[TopicPartition, Session]] = set()
        self._soon: asyncio.Handle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._closed = False

    # Sending.

    def send_batches(
        self, topic: str, batches: Iterable[tuple[int, RecordBatch]]
    ) -> list[asyncio.Future[None]]:
        """Send finished batches; each future is done once its batch is acknowledged.

        What is sent later to the same partition comes after them.
        """
        sent = []
        for partition, batch in batches:
            batch.close()
            sent.append(self._append(self._lineup(topic, partition), batch).done)
        return sent

    def send_rows(self, topic: str, rows: Rows) -> list[asyncio.Future[None]]:
        """Send few rows, which share batches with others that wait."""
        sent = []
        for partition, start, stop in rows.spans():
            lineup = self._lineup(topic, partition)
            if lineup.waiting and not lineup.waiting[-1].batch.closed:
                parcel = lineup.waiting[-1]
                taken = rows.append_to(parcel.batch, start, stop)
                if taken > start:
                    sent.append(parcel.done)
                start = taken
            while start < stop:
                batch = RecordBatch(self._open_bytes)
                start = rows.append_to(batch, start, stop)
                sent.append(self._append(lineup, batch).done)
        return sent

    def unacknowledged(self, topic: str) -> list[asyncio.Future[None]]:
        """Return what of a topic is not acknowledged yet."""
        return [
            parcel.done
            for lineup in self._by_topic.get(topic, ())
            for parcel in (*lineup.under_way, *lineup.waiting)
        ]

    async def flush(self) -> None:
        """Wait until all that was sent so far is acknowledged or has failed."""
        if pending := [each for topic in self._by_topic for each in self.unacknowledged(topic)]:
            await asyncio.wait(pending)

    async def close(self) -> None:
        """Wait for acknowledgements for a short while, then close the connections."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                await self.flush()
        self._closed = True
        for handle in (self._soon, self._later):
            if handle is not None:
                handle.cancel()
        tasks = [self._opening, *(each.connecting for each in self._brokers.values())]
        for task in tasks:
            if task is not None:
                task.cancel()
        await asyncio.gather(*filter(None, tasks), return_exceptions=True)
        for broker in self._brokers.values():
            if broker.connection is not None:
                broker.connection.abandon()
        self._fail_all("the producer stopped before it was acknowledged")

    def _fail_all(self, why: str) -> None:
        self._closed = True
        for lineup in self._lineups.values():
            for parcel in (*lineup.under_way, *lineup.waiting):
                fail(lineup.name, parcel, why)

    def _lineup(self, topic: str, partition: int) -> Lineup:
        name = TopicPartition(topic, partition)
        lineup = self._lineups.get(name)
        if lineup is None:
            lineup = self._lineups[name] = Lineup(name)
            self._by_topic.setdefault(topic, []).append(lineup)
        return lineup

    def _append(self, lineup: Lineup, batch: RecordBatch) -> Parcel:
        done: asyncio.Future[None] = self._loop.create_future()
        done.add_done_callback(look_at)
        parcel = Parcel(batch, done, self._loop.time() + self._timeout_s)
        if self._closed:
            fail(lineup.name, parcel, "the producer has stopped")
            return parcel
        lineup.waiting.append(parcel)
        self._busy.setdefault(lineup)
        self.wake()
        return parcel

    # Looking.

    def wake(self) -> None:
        """Look at what can be sent, once whoever sends now has sent it."""
        if self._soon is None and not self._closed:
            self._soon = self._loop.call_soon(self._wakened)

    def _wakened(self) -> None:
        self._soon = None
        try:
            delay_s = self._look()
        except Exception as error:  # a mistake in here must not leave anyone waiting
            logger.exception("the sender of batches failed")
            self._fail_all(f"the sender failed: {error!r}; restart the worker")
            return
        if delay_s is not None:
            self._wake_in(delay_s)

    def _wake_in(self, delay_s: float) -> None:
        at_s = self._loop.time() + delay_s
        if self._later is not None:
            if self._later.when() <= at_s:
                return  # it is looked at then, and found out how long from there
            self._later.cancel()
        self._later = self._loop.call_at(at_s, self._waited)

    def _waited(self) -> None:
        self._later = None
        self.wake()

    def _look(self) -> float | None:
        """Send what can be sent; return when to look again, None for when something happens."""
        now_s = self._loop.time()
        self._drop_the_silent(now_s)
        delay_s = TICK_S if self._busy or self._any_under_way() else None
        by_node: dict[int, list[Lineup]] = {}
        for lineup in list(self._busy):
            self._give_up_late(lineup, now_s)
            if not lineup.waiting:
                del self._busy[lineup]
                continue
            if lineup.broken:
                continue
            if lineup.not_before_s > now_s:
                delay_s = min(delay_s or TICK_S, lineup.not_before_s - now_s)
                continue
            leader = self.client.cluster.leader_for_partition(lineup.name)
            if leader is None or leader == -1:
                self.client.force_metadata_update()
                delay_s = BACKOFF_S
            elif not lineup.under_way or lineup.node == leader:
                by_node.setdefault(leader, []).append(lineup)
        for node, lineups in by_node.items():
            delay_s = min(delay_s or TICK_S, self._serve(node, lineups, now_s))
        return delay_s

    def _any_under_way(self) -> bool:
        return any(broker.requests for broker in self._brokers.values())

    def _drop_the_silent(self, now_s: float) -> None:
        within_s = min(ANSWER_WITHIN_S, self._timeout_s)
        for broker in self._brokers.values():
            if broker.requests and broker.requests[0].sent_s + within_s < now_s:
                logger.warning("broker %s did not answer within %.0f s", broker.node, within_s)
                broker.drop()

    def _give_up_late(self, lineup: Lineup, now_s: float) -> None:
        while lineup.waiting and not lineup.under_way and lineup.waiting[0].deadline_s < now_s:
            parcel = lineup.waiting.popleft()
            if parcel.session is not None:
                self._end_session(lineup)  # it may be in the log or not
            why = f"no acknowledgement within {self._timeout_s:.0f} s"
            if parcel.refused is not None:
                why += f", last: {name_of(parcel.refused)}"
            why = f"{why}; is the broker up, are its replicas in sync?"
            fail(lineup.name, parcel, why, unavailable=True)

    def _serve(self, node: int, lineups: list[Lineup], now_s: float) -> float:
        """Send to one broker what it has room for; return when to look again."""
        broker = self._brokers.get(node)
        if broker is None:
            broker = self._brokers[node] = Broker(self, node)
        if broker.connection is None or not broker.connection.alive:
            if broker.connecting is None or broker.connecting.done():
                if broker.not_before_s > now_s:
                    return broker.not_before_s - now_s
                broker.connecting = self._loop.create_task(self._connect(broker))
            return TICK_S
        while broker.has_room and (taken := self._take(node, lineups)):
            batches = {lineup.name: parcel.batch for lineup, parcel in taken}
            assert broker.connection is not None
            correlation_id = broker.connection.send_batches(batches)
            broker.requests.append(Request(correlation_id, now_s, taken))
        return TICK_S

    def _take(self, node: int, lineups: list[Lineup]) -> list[tuple[Lineup, Parcel]]:
        """Take the next batch of as many partitions as fit into a request, in turn."""
        taken: list[tuple[Lineup, Parcel]] = []
        size = 0
        for lineup in list(lineups):
            if not lineup.waiting:
                lineups.remove(lineup)
                continue
            parcel = lineup.waiting[0]
            if taken and size + len(parcel.batch) > REQUEST_BYTES_MAX:
                continue
            if not self._seal(lineup, parcel):
                continue
            lineup.waiting.popleft()
            lineup.under_way.append(parcel)
            lineup.unanswered += 1
            lineup.node = node
            taken.append((lineup, parcel))
            size += len(parcel.batch)
            lineups.remove(lineup)  # behind the others, for the next request
            lineups.append(lineup)
            del self._busy[lineup]
            self._busy[lineup] = None
        return taken

    def _seal(self, lineup: Lineup, parcel: Parcel) -> bool:
        """Give a batch its sequence; False while there is no producer id to count in."""
        if lineup.session is None:
            if self._session is None or (lineup.name, self._session) in self._spent:
                self._open_session()
                return False
            lineup.session, lineup.next_sequence = self._session, 0
        if parcel.session is not lineup.session:
            if self._compression is not None and not parcel.batch.closed:
                self._compression.pack(parcel.batch)
            parcel.session, parcel.sequence = lineup.session, lineup.next_sequence
            parcel.batch.seal(lineup.session.producer_id, lineup.session.epoch, parcel.sequence)
            lineup.next_sequence = (parcel.sequence + parcel.batch.count) & SEQUENCE_MASK
        return True

    # Answers.

    def answered(self, lineup: Lineup, parcel: Parcel, refused: int | BaseException) -> None:
        """Take in what became of a batch: 0, the broker's error code, or a lost connection."""
        lineup.unanswered -= 1
        if refused in (0, DUPLICATE_SEQUENCE):
            lineup.under_way.remove(parcel)
            if not parcel.done.done():
                parcel.done.set_result(None)
        else:
            parcel.refused = refused
        if lineup.broken and not lineup.unanswered:
            self._recover(lineup)
        self.wake()

    def _recover(self, lineup: Lineup) -> None:
        """Put what was refused back to where it was, or give up its first."""
        first = lineup.under_way[0]
        refused = first.refused
        assert refused is not None
        if not isinstance(refused, BaseException) and refused not in PASSING | SESSION_LOST:
            lineup.under_way.popleft()
            why = why_refused(first, refused)
            fail(lineup.name, first, why, unavailable=refused not in TO_BLAME)
            self._end_session(lineup)
        else:
            lineup.not_before_s = self._loop.time() + BACKOFF_S
            if refused in SESSION_LOST:
                self._end_session(lineup)
            if refused in STALE_METADATA:
                self.client.force_metadata_update()
            if not isinstance(refused, BaseException):
                logger.warning("%s[%s]: %s; trying again", *lineup.name, name_of(refused))
        lineup.waiting.extendleft(reversed(lineup.under_way))
        lineup.under_way.clear()
        self._busy.setdefault(lineup)

    # Producer ids.

    def _end_session(self, lineup: Lineup) -> None:
        """Let a partition begin anew with a producer id that it has not had."""
        if lineup.session is not None:
            self._spent.add((lineup.name, lineup.session))
            lineup.session = None

    def _open_session(self) -> None:
        if self._opening is None or self._opening.done():
            self._opening = self._loop.create_task(self._ask_for_id())

    async def _ask_for_id(self) -> None:
        try:
            answer = await self.client.send(
                self.client.get_random_node(), InitProducerIdRequest(None, NO_TIMEOUT_MS)
            )
        except EXPECTED as error:
            logger.warning("cannot get a producer id, trying again: %r", error)
            await asyncio.sleep(BACKOFF_S)
        else:
            if answer.error_code:
                logger.warning("no producer id, trying again: %s", name_of(answer.error_code))
                await asyncio.sleep(BACKOFF_S)
            else:
                self._session = Session(answer.producer_id, answer.producer_epoch)
                self._spent.clear()  # nobody is asked to take an older one again
        self.wake()

    # Connections.

    async def _connect(self, broker: Broker) -> None:
        try:
            broker.connection = await self._connected(broker)
        except EXPECTED as error:
            broker.wait(error)
        self.wake()

    async def _connected(self, broker: Broker) -> ProduceConnection:
        metadata = self.client.cluster.broker_metadata(broker.node)
        if metadata is None:
            raise kafka_errors.StaleMetadata(f"broker {broker.node} is not in the metadata")
        connection = ProduceConnection(
            metadata.host, metadata.port, listener=broker, **credentials_of(self.client)
        )
        try:
            async with asyncio.timeout(min(CONNECT_WITHIN_S, self._timeout_s)):
                await connection.connect()
        except BaseException:
            connection.abandon()  # it may be half open
            raise
        return connection


def fail(name: TopicPartition, parcel: Parcel, why: str, *, unavailable: bool = False) -> None:
    """Report to whoever sent a batch that it failed."""
    if not parcel.done.done():
        message = f"topic {name.topic!r} did not take {parcel.batch.count} records for partition "
        parcel.done.set_exception(
            SettleError(f"{message}{name.partition}: {why}", topic=name.topic,
                        partition=name.partition, unavailable=unavailable)
        )  # fmt: skip


def why_refused(parcel: Parcel, code: int) -> str:
    """Return why the broker refused a batch, and what to do."""
    why = name_of(code)
    if code not in MESSAGE_TOO_LARGE:
        return why
    size = len(parcel.batch)
    if parcel.batch.count == 1:
        return f"{why}; a record of {size} bytes is more than max.message.bytes of the topic"
    return (
        f"{why}; a batch of {size} bytes is more than max.message.bytes of the topic; set "
        f"producer_max_request_size to that"
    )


def name_of(refused: int | BaseException) -> str:
    """Return an error's name."""
    if isinstance(refused, BaseException):
        return repr(refused)
    return f"{kafka_errors.for_code(refused).__name__} ({refused})"


def look_at(done: asyncio.Future[None]) -> None:
    """Look at how a future ended, so that nobody is warned if its sender went away."""
    if not done.cancelled():
        done.exception()
