"""Send finished record batches: idempotent, acknowledged by all replicas, in order.

aiokafka sends one request a broker and waits for its answer, so the broker idles while a
request is made, and the producer while it is written. Here up to five are under way on a
connection of their own, as Kafka allows an idempotent producer. Small sends join a batch
that waits while those five are out.

    send ──▶ waiting of its partition ──▶ under way (≤ 5 requests a broker) ──▶ acknowledged
                      ▲                           │
                      └── refused, lost ──────────┘  same sequence, once all of them are back

What may be sent of one partition, and what happens to a batch that is refused: `lineup.py`.
What fails for good is reported to whoever sent it.

Thread-safety: everything runs on one event loop.
Source: KIP-98 (idempotent producer), KIP-185 (five requests under way).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import errors as kafka_errors
from aiokafka.protocol.transaction import InitProducerIdRequest
from mode import get_logger

from flowguard._native.record_batches import RecordBatch, Rows
from flowguard.chunk import TopicPartition
from flowguard.intake.connection import credentials_of
from flowguard.intake.lineup import PASSING, SESSION_LOST, STALE_METADATA, Lineup
from flowguard.intake.parcel import (
    TOO_LARGE,
    Compression,
    Parcel,
    Send,
    Session,
    advice_for,
    name_of,
)
from flowguard.intake.produce_broker import BACKOFF_S, EXPECTED, Broker, Request
from flowguard.intake.produce_connection import ProduceConnection
from flowguard.intake.unawaited import look_at

__all__ = ["BatchSender", "Compression"]

logger = get_logger(__name__)

#: Batches of several partitions share a request up to this; a larger batch goes alone. The
#: broker works on one request of a connection at a time, so larger ones would not be faster.
REQUEST_BYTES_MAX: Final = 1024 * 1024

TICK_S: Final = 1.0

#: A broker that does not answer for so long is taken for gone.
ANSWER_WITHIN_S: Final = 40.0
#: After so long without an answer it is looked up whether another one leads by now.
SUSPECT_AFTER_S: Final = 5.0
CONNECT_WITHIN_S: Final = 20.0

#: That a partition has no leader is said after so long, and again each so often.
SAID_AFTER_S: Final = 5.0
SAY_EACH_S: Final = 30.0

#: What is not acknowledged so long after a stop is given up; nothing of it was committed.
CLOSE_WITHIN_S: Final = 10.0

NO_TIMEOUT_MS: Final = 0x7FFFFFFF

#: The user of this worker may not have a producer id: of the cluster, of the transactional id.
ID_DENIED: Final = frozenset({31, 53})


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
        self._why_no_id = ""
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
            lineup, send = self._lineup(topic, partition), self._new_send()
            self._append(lineup, batch).add(batch.count, send)
            self._refuse_if_closed(lineup)
            sent.append(send.done)
        return sent

    def send_rows(self, topic: str, rows: Rows) -> list[asyncio.Future[None]]:
        """Send few rows, which share batches with others that wait; a future a partition."""
        sent = []
        for partition, start, stop in rows.spans():
            lineup, send = self._lineup(topic, partition), self._new_send(parts=0)
            full = not lineup.waiting or lineup.waiting[-1].batch.closed
            while start < stop:
                batch = RecordBatch(self._open_bytes) if full else lineup.waiting[-1].batch
                taken = rows.append_to(batch, start, stop)
                parcel = self._append(lineup, batch) if full else lineup.waiting[-1]
                if taken > start:
                    parcel.add(taken - start, send)
                    send.parts += 1
                full, start = taken < stop, taken
            self._refuse_if_closed(lineup)
            sent.append(send.done)
        return sent

    def unacknowledged(self, topic: str) -> list[asyncio.Future[None]]:
        """Return what of a topic is not acknowledged yet."""
        return [
            send.done
            for lineup in self._by_topic.get(topic, ())
            for parcel in (*lineup.under_way, *lineup.waiting)
            for _, send in parcel.sends
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
            lineup.fail_all(why)

    def _lineup(self, topic: str, partition: int) -> Lineup:
        name = TopicPartition(topic, partition)
        lineup = self._lineups.get(name)
        if lineup is None:
            # What the client knows by chance, it forgets once another topic is asked for.
            self.client.add_topic(topic)
            lineup = self._lineups[name] = Lineup(name)
            self._by_topic.setdefault(topic, []).append(lineup)
        return lineup

    def _new_send(self, parts: int = 1) -> Send:
        done: asyncio.Future[None] = self._loop.create_future()
        done.add_done_callback(look_at)
        return Send(done, parts)

    def _append(self, lineup: Lineup, batch: RecordBatch) -> Parcel:
        parcel = Parcel(batch, self._loop.time() + self._timeout_s)
        lineup.waiting.append(parcel)
        self._busy.setdefault(lineup)
        self.wake()
        return parcel

    def _refuse_if_closed(self, lineup: Lineup) -> None:
        if self._closed:
            lineup.fail_all("the producer has stopped")

    # Looking.

    def wake(self) -> None:
        """Look at what can be sent, once whoever sends now has sent it."""
        if self._soon is None and not self._closed:
            self._soon = self._loop.call_soon(self._wakened)

    def send_now(self) -> None:
        """Send what is about to be sent, before whatever else the event loop has to do."""
        if self._soon is not None:
            self._soon.cancel()
            self._wakened()

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
                self._wait_for_leader(lineup, now_s)
                delay_s = BACKOFF_S
            elif not lineup.under_way or lineup.node == leader:
                by_node.setdefault(leader, []).append(lineup)
        for node, lineups in by_node.items():
            delay_s = min(delay_s or TICK_S, self._serve(node, lineups, now_s))
        return delay_s

    def _wait_for_leader(self, lineup: Lineup, now_s: float) -> None:
        """Look for a leader again, and say so if there has been none for long."""
        self.client.force_metadata_update()
        if lineup.waits_since_s(self._timeout_s) + SAID_AFTER_S < now_s >= lineup.say_after_s:
            lineup.say_after_s = now_s + SAY_EACH_S
            logger.warning(
                "%s[%s]: %d batches wait, because no broker leads the partition; is the topic "
                "there, is a broker down?", *lineup.name, len(lineup.waiting),
            )  # fmt: skip

    def _any_under_way(self) -> bool:
        return any(broker.requests for broker in self._brokers.values())

    def _drop_the_silent(self, now_s: float) -> None:
        within_s = min(ANSWER_WITHIN_S, self._timeout_s)
        for broker in self._brokers.values():
            silent_s = now_s - broker.requests[0].sent_s if broker.requests else 0.0
            if silent_s > SUSPECT_AFTER_S:
                self.refresh()  # the answer waits for replicas, or the broker hangs
            if silent_s > within_s or (silent_s > SUSPECT_AFTER_S and self._is_replaced(broker)):
                logger.warning("broker %s did not answer within %.0f s", broker.node, silent_s)
                broker.drop()

    def _is_replaced(self, broker: Broker) -> bool:
        """Tell whether others lead all the partitions that it has not answered for."""
        leader = self.client.cluster.leader_for_partition
        return not {broker.node, None, -1}.intersection(
            leader(lineup.name) for request in broker.requests for lineup, _ in request.parcels
        )

    def _give_up_late(self, lineup: Lineup, now_s: float) -> None:
        if lineup.fail_late(now_s, self._timeout_s, self._why_no_id):
            self._end_session(lineup)  # it may be in the log or not

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
        while broker.has_room and (taken := self._take(node, lineups, now_s)):
            batches = {lineup.name: parcel.batch for lineup, parcel in taken}
            assert broker.connection is not None
            correlation_id = broker.connection.send_batches(batches)
            broker.requests.append(Request(correlation_id, now_s, taken))
        return TICK_S

    def _take(self, node: int, lineups: list[Lineup], now_s: float) -> list[tuple[Lineup, Parcel]]:
        """Take the next batch of as many partitions as fit into a request, in turn."""
        taken: list[tuple[Lineup, Parcel]] = []
        size = 0
        for lineup in list(lineups):
            if not lineup.waiting:
                lineups.remove(lineup)
                continue
            if not lineup.has_room(now_s):
                lineups.remove(lineup)
                continue
            if taken and size + len(lineup.waiting[0].batch) > REQUEST_BYTES_MAX:
                continue
            if not self._has_session(lineup):
                continue
            lineup.seal_first(self._compression, now_s)
            parcel = lineup.send_first(node)
            taken.append((lineup, parcel))
            size += len(parcel.batch)
            lineups.remove(lineup)  # behind the others, for the next request
            lineups.append(lineup)
            del self._busy[lineup]
            self._busy[lineup] = None
        return taken

    # Answers.

    def answered(self, lineup: Lineup, parcel: Parcel, refused: int | BaseException) -> None:
        """Take in what became of a batch: 0, the broker's error code, or a lost connection."""
        if lineup.answered(parcel, refused, self._loop.time()):
            self._put_back(lineup)
        self.wake()

    def _put_back(self, lineup: Lineup) -> None:
        """Let what was refused be sent again, and say so."""
        first = lineup.under_way[0]
        refused = first.refused
        if refused in TOO_LARGE and first.batch.count > 1:
            if lineup.too_large_bytes is None:
                logger.warning(
                    "%s[%s]: %s; a batch of %d bytes is cut in two until it fits; set "
                    "producer_max_request_size to the topic's max.message.bytes to save that",
                    *lineup.name, name_of(refused), len(first.batch),
                )  # fmt: skip
        elif isinstance(refused, int) and refused in PASSING | SESSION_LOST:
            logger.warning("%s[%s]: %s; trying again", *lineup.name, name_of(refused))
        if refused in STALE_METADATA:
            self.refresh()
        if lineup.put_back(self._loop.time(), BACKOFF_S):
            self._end_session(lineup)
        self._busy.setdefault(lineup)

    def refresh(self) -> None:
        """Look up the metadata again."""
        self.client.force_metadata_update()

    # Producer ids.

    def _end_session(self, lineup: Lineup) -> None:
        """Let a partition begin anew with a producer id that it has not had."""
        if lineup.session is not None:
            self._spent.add((lineup.name, lineup.session))
            lineup.session = None

    def _has_session(self, lineup: Lineup) -> bool:
        """Give a partition a producer id to count in; False while there is none."""
        if lineup.session is None:
            if self._session is None or (lineup.name, self._session) in self._spent:
                self._open_session()
                return False
            lineup.begin(self._session)
        return True

    def _open_session(self) -> None:
        if self._opening is None or self._opening.done():
            self._opening = self._loop.create_task(self._ask_for_id())

    async def _ask_for_id(self) -> None:
        try:
            answer = await self.client.send(
                self.client.get_random_node(), InitProducerIdRequest(None, NO_TIMEOUT_MS)
            )
        except EXPECTED as error:
            self._why_no_id = f", there is no producer id: {error!r}"
            logger.warning("cannot get a producer id, trying again: %r", error)
            await asyncio.sleep(BACKOFF_S)
        else:
            await self._take_id(answer)
        self.wake()

    async def _take_id(self, answer: Any) -> None:
        code = answer.error_code
        if not code:
            self._session = Session(answer.producer_id, answer.producer_epoch)
            self._spent.clear()  # nobody is asked to take an older one again
            return
        self._why_no_id = f", there is no producer id: {name_of(code)}"
        if code in ID_DENIED:
            # Nothing that the sender does changes that. Whoever sent it holds it and tries again.
            self._fail_without_session(f"{name_of(code)}{advice_for(code)}")
        else:
            logger.warning("no producer id, trying again: %s", name_of(code))
        await asyncio.sleep(BACKOFF_S)  # so that a send that is tried at once does not ask at once

    def _fail_without_session(self, why: str) -> None:
        for lineup in self._busy:
            if lineup.session is None:
                lineup.fail_all(why, unavailable=True)

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
