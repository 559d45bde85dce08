"""The process around an app: what must hold before it starts, its signals, its log."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import faust
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth, server_list
from mode import get_logger

from flowguard.ending import Ending
from flowguard.errors import FlowguardError
from flowguard.observe.logs import guard_handlers
from flowguard.refusal import Refusal, refusal_of, words_of
from flowguard.runtime import UNPROCESSED
from flowguard.units import format_duration, format_size

if TYPE_CHECKING:
    from flowguard.app import App
    from flowguard.web import FeedWeb

__all__ = [
    "BrokerNotReached",
    "Worker",
    "broker_auth",
    "broker_servers",
    "check_port",
    "reach",
    "reach_broker",
    "use_broker",
    "warnings_of",
]

logger = get_logger("flowguard.worker")

#: A broker that is started together with the worker may take a moment.
REACH_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 0.5

#: A connection that was made is closed by then; one that was not never is.
CLOSED_WITHIN_S: Final = 0.1

#: Services report each step of their start and stop; what matters of it the worker says.
CHATTY: Final = ("aiokafka", "faust", "mode", "flowguard")

#: Whose lines are for whoever runs the worker: what they do with records and with the disk.
TELLING: Final = ("flowguard.worker", "flowguard.spill", UNPROCESSED)

#: A worker that was told to stop is ended so long after its drain timeout, whatever it waits
#: for; and so soon if it has no partitions yet, as while the group waits for a dead member.
STOP_WITHIN_S: Final = 10.0
LEAVE_WITHIN_S: Final = 5.0

#: The loop is closed after this, whatever still runs on it; as in Faust.
CANCELLED_WITHIN_S: Final = 1.0

USER_IGNORED: Final = (
    "the user in the address of the broker is not used: set FLOWGUARD_BROKER_USERNAME and "
    "FLOWGUARD_BROKER_PASSWORD, or their _FILE"
)

#: The exit code of a worker whose instance id another one has taken.
REPLACED: Final = 1


class BrokerNotReached(FlowguardError):
    """No broker answered; nothing was started."""


class Worker(faust.Worker):
    """Faust's worker, quieter, and stopped at once by a second signal.

    The first SIGTERM or SIGINT stops it in order: not ready, nothing new is started, what
    is in flight is finished within the drain timeout, committed, exit code 0. It ends also if
    its event loop is blocked or a broker does not answer.
    """

    app: App

    def __init__(self, app: App, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self.spinner = None
        self._told = False
        self._patience_s = 0.0

    def _install_signal_handlers_unix(self) -> None:
        super()._install_signal_handlers_unix()
        for each in (signal.SIGINT, signal.SIGTERM):
            self.loop.remove_signal_handler(each)
        ending = Ending(self, on_loop=self.loop.call_soon_threadsafe)
        ending.install(signal.SIGINT, signal.SIGTERM)

    # What `Ending` calls.

    def patience_s(self) -> float:
        """Return how long stopping may take: what has no partitions has nothing to finish."""
        joined = self.app.has_feeds and self.app.runtime.joined
        drain_s = self.app.feed_settings.drain_timeout_s + STOP_WITHIN_S if joined else 0.0
        self._patience_s = max(LEAVE_WITHIN_S, drain_s)
        return self._patience_s

    def stop_in_order(self, received: signal.Signals) -> None:
        """Finish what is in flight, commit, and stop."""
        self._told = True
        self._say_farewell(received)
        self._flag_as_shutdown_by_signal()
        self._schedule_shutdown(received)

    def say_at_once(self, received: signal.Signals) -> None:
        """Say that the process ends now."""
        logger.warning("%s again: stopping at once; what is in flight will be read again",
                       received.name)  # fmt: skip
        logging.shutdown()

    def say_given_up(self) -> None:
        """Say why stopping takes too long: the loop, a group, a broker, a disk."""
        why, left = "a broker or the group does not answer", "nothing is known of what is committed"
        if self.app.has_feeds:
            stalls, left = self.app.runtime.stalls, outcome(self.app)
            if stalls.under_way:
                why = f"the event loop is blocked in {stalls.place}"
        logger.warning("not stopped after %s, because %s; ending now; %s",
                       format_duration(self._patience_s), why, left)  # fmt: skip
        logging.shutdown()

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
        guard_handlers()

    async def on_execute(self) -> None:
        """Say what starts."""
        await super().on_execute()
        logger.info("%s", describe(self.app))
        for line in warnings_of(self.app):
            logger.warning("%s", line)

    def _on_startup_end_spinner(self) -> None:
        logger.info("ready")

    async def _sentinel_task(self) -> None:
        """Let what was cancelled come to its end before the loop closes; Faust waits a second."""
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left, timeout=CANCELLED_WITHIN_S)

    def stop_and_shutdown(self) -> None:
        """Wait for the end, and say how it went."""
        super().stop_and_shutdown()
        if self._told:
            logger.info("stopped%s", "" if not self.app.has_feeds else "; " + outcome(self.app))
        if self.app.has_feeds and self.app.runtime.membership.replaced_by:
            raise SystemExit(REPLACED)


def outcome(app: App) -> str:
    """Return what a stopped worker leaves to the next one."""
    partitions = list(app.runtime.engine.partitions.values())
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


def warnings_of(app: App) -> Iterable[str]:
    """Yield what is not as whoever wrote it may think."""
    if app.conf.had_user and not app.conf.broker_credentials:
        yield USER_IGNORED
    web = pages_of(app) if app.has_feeds else None
    if web is not None:
        exposure = web.exposure()
        if not (exposure.local or exposure.tls or exposure.token):
            yield (
                f"{web.bind} can be reached from elsewhere, so only /metrics, /healthz and /readyz "
                "are shown; give --web-token-file or web_ssl_context for all pages"
            )


def pages_of(app: App) -> FeedWeb | None:
    """Return the server of an app's pages, None if it has none or another one."""
    if not app.conf.web_enabled:
        return None
    from flowguard.web import FeedWeb  # a web server takes long to load; some have no pages

    return app.web if isinstance(app.web, FeedWeb) else None


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
    ignored = app.conf.had_user and not app.conf.broker_credentials
    await reach(
        broker_servers(app),
        broker_auth(app),
        timeout_s=timeout_s,
        hint=f"; {USER_IGNORED}" if ignored else "",
    )


def broker_auth(app: App) -> Mapping[str, Any]:
    """Return how the app proves who it is, as aiokafka takes it."""
    auth: Mapping[str, Any] = credentials_to_aiokafka_auth(
        app.conf.broker_credentials, app.conf.ssl_context
    )
    return auth


async def reach(
    servers: Sequence[str], auth: Mapping[str, Any], *, timeout_s: float, hint: str = ""
) -> None:
    """Wait until one of these brokers accepts us.

    Args:
        hint: What else to say if none does.

    Raises:
        BrokerNotReached: None did in time, or one refused us, which waiting does not change.
    """
    clock = asyncio.get_running_loop().time
    end_s = clock() + timeout_s
    refusal = Refusal("")
    while True:
        for server in servers:
            left_s = max(0.1, end_s - clock())
            found = await knock(server, auth, timeout_s=left_s / len(servers))
            if found is None:
                return
            if found.final:
                raise not_reached(server, found, hint)
            if not (found.vague and refusal.why):  # the last attempt has little time
                refusal = found
        if clock() + 2 * RETRY_S >= end_s:
            raise not_reached(", ".join(servers), refusal, hint)
        await asyncio.sleep(RETRY_S)


def not_reached(servers: str, refusal: Refusal, hint: str) -> BrokerNotReached:
    """Return the error with its one line."""
    advice = refusal.advice or "is it running? Give another with --broker"
    return BrokerNotReached(f"cannot reach the broker at {servers} ({refusal.why}); {advice}{hint}")


async def knock(server: str, auth: Mapping[str, Any], *, timeout_s: float) -> Refusal | None:
    """Connect to one broker and ask it something; return why it failed, None if it did not.

    A broker that wants a user answers the first question to anyone, and closes the connection
    at the second.
    """
    host, _, port = server.rpartition(":")
    connection = AIOKafkaConnection(
        host.strip("[]"), int(port), request_timeout_ms=int(timeout_s * 1e3) + 1, **auth
    )
    try:
        async with asyncio.timeout(timeout_s):
            await connection.connect()
            await connection.send(MetadataRequest([]))
    except (KafkaError, OSError, TimeoutError, ValueError, AssertionError) as error:
        user = auth.get("sasl_plain_username")
        return refusal_of(error, protocol=auth["security_protocol"], user=user)
    finally:
        if (closed := connection.close()) is not None:
            await asyncio.wait((closed,), timeout=CLOSED_WITHIN_S)
    return None


def check_port(app: App) -> None:
    """Raise if the worker's pages cannot be served where they should be.

    Raises:
        FlowguardError: Its message says which address, and what to do.
    """
    web = pages_of(app)
    if web is None:
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
            f"cannot serve the worker's pages on {web.bind}:{port} ({words_of(error)}); "
            f"choose another with --web-port"
        ) from error
