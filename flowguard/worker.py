"""The process around an app: what must hold before it starts, its signals, its log."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import faust
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth, server_list
from mode import get_logger

from flowguard.errors import FlowguardError
from flowguard.runtime import UNPROCESSED
from flowguard.units import format_duration, format_size
from flowguard.web import FeedWeb

if TYPE_CHECKING:
    from flowguard.app import App

__all__ = [
    "BrokerNotReached",
    "Worker",
    "broker_auth",
    "broker_servers",
    "check_port",
    "reach",
    "reach_broker",
    "use_broker",
]

logger = get_logger("flowguard.worker")

#: A broker that is started together with the worker may take a moment.
REACH_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 0.5

#: Services report each step of their start and stop; what matters of it the worker says.
CHATTY: Final = ("aiokafka", "faust", "mode", "flowguard")

#: Whose lines are for whoever runs the worker: what they do with records and with the disk.
TELLING: Final = ("flowguard.worker", "flowguard.spill", UNPROCESSED)

#: Signals to a group of processes arrive twice where a parent passes its own on as well.
SAME_SIGNAL_S: Final = 0.5

#: A worker that was told to stop is ended so long after its drain timeout, whatever it waits
#: for; and so soon if it has no partitions yet, as while the group waits for a dead member.
STOP_WITHIN_S: Final = 10.0
LEAVE_WITHIN_S: Final = 5.0

#: The exit code of a worker that was told twice to stop.
INTERRUPTED: Final = 130

#: The exit code of a worker whose instance id another one has taken.
REPLACED: Final = 1


class BrokerNotReached(FlowguardError):
    """No broker answered; nothing was started."""


class Worker(faust.Worker):
    """Faust's worker, quieter, and stopped at once by a second signal.

    The first SIGTERM or SIGINT stops it in order: not ready, nothing new is started, what
    is in flight is finished within the drain timeout, committed, exit code 0.
    """

    app: App

    def __init__(self, app: App, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self.spinner = None
        self._stopping_since_s: float | None = None

    def _on_sigint(self) -> None:
        self._on_signal(signal.SIGINT)

    def _on_sigterm(self) -> None:
        self._on_signal(signal.SIGTERM)

    def _on_signal(self, received: signal.Signals) -> None:
        now_s = self.loop.time()
        if self._stopping_since_s is None:
            self._stopping_since_s = now_s
            self._say_farewell(received)
            self._flag_as_shutdown_by_signal()
            self._schedule_shutdown(received)
            self.loop.call_later(self._patience_s(), self._give_up)
        elif now_s - self._stopping_since_s > SAME_SIGNAL_S:
            logger.warning("%s again: stopping at once; what is in flight will be read again",
                           received.name)  # fmt: skip
            logging.shutdown()
            os._exit(INTERRUPTED)

    def _patience_s(self) -> float:
        """Return how long stopping may take: what has no partitions has nothing to finish."""
        if not self.app.has_feeds or not self.app.runtime.joined:
            return LEAVE_WITHIN_S
        return self.app.feed_settings.drain_timeout_s + STOP_WITHIN_S

    def _give_up(self) -> None:
        """End although something does not answer: a group, a broker, a disk."""
        logger.warning(
            "not stopped after %s, because a broker or the group does not answer; ending now; %s",
            format_duration(self._patience_s()),
            outcome(self.app) if self.app.has_feeds else "nothing is known of what is committed",
        )
        logging.shutdown()
        os._exit(0)

    def _say_farewell(self, received: signal.Signals) -> None:
        """Say what happens now; after SIGINT the group is told, too."""
        if self.app.has_feeds:
            self.app.runtime.membership.leaving = received == signal.SIGINT
        logger.info("%s: %s", received.name, self._farewell())

    def _farewell(self) -> str:
        if not self.app.has_feeds:
            return "stopping"
        wait_s = self.app.feed_settings.drain_timeout_s
        return f"finishing what is in flight, for {format_duration(wait_s)} at most"

    def on_setup_root_logger(self, logger: logging.Logger, level: int) -> None:
        """Leave out what others say about their own steps, unless somebody debugs."""
        if level > logging.DEBUG:
            for name in CHATTY:
                logging.getLogger(name).setLevel(max(level, logging.WARNING))
            for name in TELLING:
                logging.getLogger(name).setLevel(level)

    async def on_execute(self) -> None:
        """Say what starts."""
        await super().on_execute()
        logger.info("%s", describe(self.app))

    def _on_startup_end_spinner(self) -> None:
        logger.info("ready")

    def stop_and_shutdown(self) -> None:
        """Wait for the end, and say how it went."""
        super().stop_and_shutdown()
        if self._stopping_since_s is not None:
            logger.info("stopped%s", "" if not self.app.has_feeds else "; " + outcome(self.app))
        if self.app.has_feeds and self.app.runtime.membership.replaced_by:
            raise SystemExit(REPLACED)


def outcome(app: App) -> str:
    """Return what a stopped worker leaves to the next one."""
    partitions = app.runtime.engine.partitions.values()
    missing = sum(max(0, each.ledger.point.offset - each.committed.offset) for each in partitions)
    if missing:
        return f"{missing} finished records are not committed and will be read again"
    return "all that was finished is committed"


def describe(app: App) -> str:
    """Return what a worker is about to do, in one line."""
    parts = [f"app {app.conf.id} on {', '.join(broker_servers(app))}"]
    if app.has_feeds:
        settings = app.feed_settings
        parts.append(f"lanes {' > '.join(lane.name for lane in settings.lanes)}")
        parts.append(f"memory {format_size(settings.memory_bytes)}")
    if app.conf.web_enabled:
        parts.append(f"pages {app.web_server_url}")
    return "; ".join(parts)


# Before the start.


def use_broker(app: App, broker: str, *, origin: str) -> None:
    """Let an app that is already imported talk to another broker."""
    for name in ("broker", "broker_consumer", "broker_producer"):
        if name == "broker" or name in app.conf.origins:
            app.conf.change(name, broker, origin=origin)
    # Declaring an agent makes the transport, with the address that was known by then.
    app.transport.url = app.conf.broker_consumer
    app.producer_transport.url = app.conf.broker_producer


def broker_servers(app: App) -> list[str]:
    """Return `HOST:PORT` of each broker that the app begins with."""
    transport = cast("Any", app.transport)
    return server_list(transport.url, getattr(transport, "default_port", 9092))


async def reach_broker(app: App, *, timeout_s: float = REACH_TIMEOUT_S) -> None:
    """Wait until one of the app's brokers accepts us.

    Raises:
        BrokerNotReached: None did in time, or one refused us, which waiting does not change.
    """
    await reach(broker_servers(app), broker_auth(app), timeout_s=timeout_s)


def broker_auth(app: App) -> Mapping[str, Any]:
    """Return how the app proves who it is, as aiokafka takes it."""
    auth: Mapping[str, Any] = credentials_to_aiokafka_auth(
        app.conf.broker_credentials, app.conf.ssl_context
    )
    return auth


async def reach(servers: Sequence[str], auth: Mapping[str, Any], *, timeout_s: float) -> None:
    """Wait until one of these brokers accepts us.

    Raises:
        BrokerNotReached: None did in time, or one refused us, which waiting does not change.
    """
    clock = asyncio.get_running_loop().time
    end_s = clock() + timeout_s
    why = "no address"
    while True:
        for server in servers:
            left_s = max(0.1, end_s - clock())
            reason, final = await knock(server, auth, timeout_s=left_s / len(servers))
            if reason is None:
                return
            why = reason
            if final:
                raise not_reached(server, why)
        if clock() + RETRY_S >= end_s:
            raise not_reached(", ".join(servers), why)
        await asyncio.sleep(RETRY_S)


def not_reached(servers: str, why: str) -> BrokerNotReached:
    """Return the error with its one line."""
    return BrokerNotReached(
        f"cannot reach the broker at {servers} ({why}); is it running? Give another with --broker"
    )


async def knock(
    server: str, auth: Mapping[str, Any], *, timeout_s: float
) -> tuple[str | None, bool]:
    """Connect to one broker; return why it failed, and whether it always will."""
    host, _, port = server.rpartition(":")
    try:
        async with asyncio.timeout(timeout_s):
            connection = await create_conn(
                host.strip("[]"), int(port), request_timeout_ms=int(timeout_s * 1e3) + 1, **auth
            )
    except KafkaError as error:
        return reason_of(error), "Authentication" in type(error).__name__
    except TimeoutError:
        return "no answer", False
    except OSError as error:
        return reason_of(error), False
    connection.close()
    return None, False


def reason_of(error: Exception) -> str:
    """Return why a connection failed, in a few words."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, socket.gaierror):
        return "its name is not known"
    if isinstance(cause, OSError) and cause.errno in errno.errorcode:
        return os.strerror(cause.errno or 0).lower()
    return str(cause) or type(cause).__name__


def check_port(app: App) -> None:
    """Raise if the worker's pages cannot be served where they should be.

    Raises:
        FlowguardError: Its message says which address, and what to do.
    """
    web = app.web
    if not (app.conf.web_enabled and isinstance(web, FeedWeb)):
        return
    if app.conf.web_transport.scheme == "unix":
        return
    port = app.conf.web_port
    try:
        found = socket.getaddrinfo(web.bind, port, type=socket.SOCK_STREAM)
        with socket.socket(found[0][0]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[0][4])
    except OSError as error:
        raise FlowguardError(
            f"cannot serve the worker's pages on {web.bind}:{port} ({reason_of(error)}); "
            f"choose another with --web-port"
        ) from error
