"""How a command talks to Kafka: to the app's broker, or to one that it is given."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from flowguard.app import App
from flowguard.cli.exit_codes import NO_BROKER, USAGE, CommandError
from flowguard.faust_conf import credentials
from flowguard.security import read_security
from flowguard.worker import BrokerNotReached, broker_auth, broker_servers, reach

__all__ = ["Access", "access_of", "access_to", "over_kafka"]

Result = TypeVar("Result")

#: A command is typed when a broker runs; one that is just starting is waited for so long.
REACH_WITHIN_S: Final = 5.0

#: What is larger than a broker takes, the broker refuses: it knows its limit.
REQUEST_BYTES_MAX: Final = 256 * 1024 * 1024

#: A client that cannot say good-bye to a broker that is gone is left alone after this.
STOP_WITHIN_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Access:
    """Where Kafka is, and how to prove who we are.

    Args:
        servers: `HOST:PORT` of each broker to begin with.
        auth: What aiokafka's clients take for it; its secrets are not shown.
    """

    servers: tuple[str, ...]
    auth: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"Access({', '.join(self.servers)})"

    @asynccontextmanager
    async def consumer(self, group: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
        """Yield a started consumer of committed records that has no partitions yet."""
        client = AIOKafkaConsumer(
            bootstrap_servers=list(self.servers),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # what is deleted while we read is not there any more
            isolation_level="read_committed",
            **self.auth,
        )
        async with running(client, client.stop):
            yield client

    @asynccontextmanager
    async def producer(self) -> AsyncIterator[AIOKafkaProducer]:
        """Yield a started producer: all replicas acknowledge, nothing twice or out of order."""
        client = AIOKafkaProducer(
            bootstrap_servers=list(self.servers),
            acks="all",
            enable_idempotence=True,
            max_request_size=REQUEST_BYTES_MAX,
            **self.auth,
        )
        async with running(client, client.stop):
            yield client

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """Yield a started admin client."""
        client = AIOKafkaAdminClient(bootstrap_servers=list(self.servers), **self.auth)
        async with running(client, client.close):
            yield client


@asynccontextmanager
async def running(client: Any, stop: Any) -> AsyncIterator[None]:
    """Start a client, and stop it at the end whatever the broker says."""
    try:
        await client.start()
        yield
    finally:
        with contextlib.suppress(KafkaError, TimeoutError):
            await asyncio.wait_for(stop(), STOP_WITHIN_S)


def access_of(app: App) -> Access:
    """Return how the app's own worker reaches its broker."""
    return Access(tuple(broker_servers(app)), broker_auth(app))


def access_to(broker: str) -> Access:
    """Return how to reach a broker by its address, with what `FLOWGUARD_BROKER_*` says.

    Raises:
        CommandError: That is no address.
        ConfigError: A variable is wrong.
    """
    security = read_security(os.environ)
    auth = credentials_to_aiokafka_auth(None if security is None else credentials(security), None)
    return Access(tuple(map(server_of, broker.replace(";", ",").split(","))), auth)


def server_of(address: str) -> str:
    """Return `HOST:PORT` of an address such as `kafka://HOST:PORT`.

    Raises:
        CommandError: It is no address.
    """
    bare = address.strip().removeprefix("aiokafka://").removeprefix("kafka://").rstrip("/")
    host, colon, port = bare.rpartition(":")
    if not colon or "]" in port:  # no port; an IPv6 address is in brackets
        host, port = bare, "9092"
    if not host or "/" in bare or not (port.isascii() and port.isdigit()):
        raise CommandError(f"--broker {address!r} is no broker; write kafka://HOST:PORT", USAGE)
    return f"{host}:{port}"


def over_kafka(access: Access, work: Coroutine[Any, Any, Result]) -> Result:
    """Do some work once the broker answers.

    Raises:
        CommandError: The broker was not reached, or refused; one line says what.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # an error is one line, and ours
    try:
        return asyncio.run(reached(access, work))
    except BrokerNotReached as error:
        raise CommandError(str(error), NO_BROKER) from error
    except KafkaError as error:
        raise CommandError(f"Kafka refused: {worded(error)}") from error


async def reached(access: Access, work: Coroutine[Any, Any, Result]) -> Result:
    """Reach the broker first, so that everything after it is about something else."""
    try:
        await reach(access.servers, access.auth, timeout_s=REACH_WITHIN_S)
    except BaseException:
        work.close()
        raise
    return await work


def worded(error: BaseException) -> str:
    """Return what a broker said, in one line."""
    about = getattr(error, "description", "") or " ".join(map(str, error.args))
    name = type(error).__name__
    return f"{name}: {about}" if about else name
