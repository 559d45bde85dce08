"""aiokafka's client, patient with brokers that are away and short with those that hang.

Three things differ, in the worker's consumer and in its producer:

- At the start it waits until a broker answers. aiokafka gives up, and Faust ends the process.
- It waits for one answer at a time, and not for long: a broker that hangs, or a host that went
  away without a word, must hold up neither the metadata, nor the group, nor other brokers.
  aiokafka waits for `broker_request_timeout` (90 s), and connects to one broker at a time.
- When none of the brokers that it knows answers it asks the bootstrap servers again. A cluster
  that came up one by one may have told us only of a node that is gone since (KIP-899).

Requests that may take long by their nature (joining a group, creating topics, Faust's own
fetches) wait as long as aiokafka lets them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, Final, Self, cast

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError, RequestTimedOutError
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import HeartbeatRequest, LeaveGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from mode import get_logger

from flowguard.intake.connection import credentials_of

__all__ = ["FeedClient"]

logger = get_logger(__name__)

#: Kafka's own limit for a connection (socket.connection.setup.timeout.ms).
CONNECT_WITHIN_S: Final = 10.0

#: What a broker answers at once, it answers within this, or it hangs. Commits take longest: the
#: coordinator waits for its replicas for 5 s (offsets.commit.timeout.ms).
ANSWER_WITHIN_S: Final = 10.0
AT_ONCE: Final = (
    MetadataRequest, FindCoordinatorRequest, HeartbeatRequest, LeaveGroupRequest,
    OffsetCommitRequest, OffsetFetchRequest, OffsetRequest, InitProducerIdRequest,
)  # fmt: skip

#: Metadata can be had from every broker, so one that takes longer is not waited for.
ASK_NEXT_AFTER_S: Final = 1.0

#: While no broker answers all are asked again after this; it is said each so often.
ASK_AGAIN_S: Final = 0.5
SAY_EACH_S: Final = 30.0

#: How talking to a broker may fail.
EXPECTED: Final = (KafkaError, OSError, TimeoutError)


class FeedClient(AIOKafkaClient):  # type: ignore[misc]  # aiokafka is untyped
    """A client of aiokafka's that outlives whatever brokers do."""

    _sync_task: asyncio.Task[None] | None
    _should_stop: Callable[[], bool]
    _connecting: dict[Any, asyncio.Lock]

    @classmethod
    def adopt(cls, client: AIOKafkaClient, *, should_stop: Callable[[], bool]) -> Self:
        """Let a client that was just made, by a consumer or a producer, do as this class does.

        They make their client themselves and hand it on to their parts, so it has to stay the
        same object.

        Args:
            should_stop: Tells whether nobody waits for a first answer any more.
        """
        client.__class__ = cls
        adopted = cast("Self", client)
        adopted._should_stop = should_stop
        adopted._connecting = {}
        return adopted

    async def bootstrap(self) -> None:
        """Wait until a broker has told what brokers there are.

        Raises:
            KafkaConnectionError: The worker stops before one answered.
            KafkaError: A broker refuses our credentials, which waiting does not change.
        """
        say_at_s = 0.0
        while (why := await self._ask_bootstrap(self.cluster, MetadataRequest([]))) is not None:
            if "Authentication" in type(why).__name__:
                raise why
            if self._should_stop():
                raise KafkaConnectionError("stopped before a broker answered") from why
            if (now_s := self._loop.time()) >= say_at_s:
                say_at_s = now_s + SAY_EACH_S
                logger.warning(
                    "no broker answers at %s: %s: %s; waiting for one. Is it running?",
                    self._servers, type(why).__name__, why,
                )  # fmt: skip
            await asyncio.sleep(ASK_AGAIN_S)
        if self._sync_task is None:
            self._sync_task = asyncio.get_running_loop().create_task(self._md_synchronizer())

    @property
    def _servers(self) -> str:
        return ", ".join(f"{host}:{port}" for host, port, _ in self.hosts)

    async def _ask_bootstrap(self, cluster: Any, request: MetadataRequest) -> BaseException | None:
        """Take the metadata from the first bootstrap server that has some; else, say why not."""
        why: BaseException = KafkaConnectionError("there are no bootstrap servers")
        for host, port, _ in self.hosts:
            connection = AIOKafkaConnection(host, port, **credentials_of(self))
            try:
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    await connection.connect()
                    metadata = await connection.send(request)
            except EXPECTED as error:
                why = error
                continue
            finally:
                connection.close()
            if metadata.brokers:
                cluster.update_metadata(metadata)
                return None
            why = KafkaConnectionError(f"{host}:{port} knows no broker, not even itself")
        return why

    async def _metadata_update(self, cluster_metadata: Any, topics: set[str] | None) -> bool:
        """Ask the brokers that we know, in any order, and then the bootstrap servers."""
        request = MetadataRequest(list(topics) if topics else None)
        metadata = await self.ask_any(request)
        if metadata is not None:
            cluster_metadata.update_metadata(metadata)
            return True
        why = await self._ask_bootstrap(cluster_metadata, request)
        if why is None:
            return True
        logger.warning("no broker gives metadata, asking again: %s: %s", type(why).__name__, why)
        cluster_metadata.failed_update(None)
        await asyncio.sleep(ASK_AGAIN_S)  # whoever misses a leader wants to know at once
        return False

    async def ask_any(self, request: MetadataRequest) -> Any:
        """Return the first answer that says something, None if there is none.

        One that hangs is not waited for: after a moment the next one is asked as well.
        """
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        random.shuffle(nodes)
        asked: set[asyncio.Task[Any]] = set()
        try:
            while nodes or asked:
                if nodes:
                    asked.add(asyncio.create_task(self._ask(nodes.pop(), request)))
                done, asked = await asyncio.wait(
                    asked,
                    timeout=ASK_NEXT_AFTER_S if nodes else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for answer in (each.result() for each in done):
                    if answer is not None and answer.brokers:
                        return answer
        finally:
            for each in asked:
                each.cancel()
        return None

    async def _ask(self, node: int, request: MetadataRequest) -> Any:
        try:
            return await self.send(node, request)
        except EXPECTED as error:
            logger.debug("broker %s gives no metadata: %r", node, error)
            return None

    async def send(
        self, node_id: int, request: Any, *, group: ConnectionGroup = ConnectionGroup.DEFAULT
    ) -> Any:
        """Send a request to a broker and return its answer.

        Raises:
            KafkaError: It cannot be reached, or did not answer in time.
        """
        if not isinstance(request, AT_ONCE):
            return await super().send(node_id, request, group=group)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await super().send(node_id, request, group=group)
        except TimeoutError as error:
            connection = self._conns.get((node_id, group))
            if connection is not None:  # the next request gets another one
                connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
            raise RequestTimedOutError(f"broker {node_id} did not answer in time") from error

    async def _get_conn(
        self,
        node_id: int,
        *,
        group: ConnectionGroup = ConnectionGroup.DEFAULT,
        no_hint: bool = False,
    ) -> AIOKafkaConnection | None:
        """Return a connection, None if there is none; making one holds up nobody else."""
        async with self._connecting.setdefault((node_id, group), asyncio.Lock()):
            try:
                async with asyncio.timeout(CONNECT_WITHIN_S):
                    return await super()._get_conn(node_id, group=group, no_hint=no_hint)
            except TimeoutError:
                logger.warning("no connection to broker %s within %.0f s",
                               node_id, CONNECT_WITHIN_S)  # fmt: skip
                self.force_metadata_update()
                return None

    @property
    def _get_conn_lock(self) -> Any:
        """Return what aiokafka takes for its one lock; there is one for each connection here."""
        return contextlib.nullcontext()
