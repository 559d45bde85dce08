"""Faust's web server, with the pages of feeds."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp.web import BaseSite, TCPSite
from faust.web.drivers.aiohttp import Web
from yarl import URL

from flowguard.errors import FlowguardError
from flowguard.observe.access import Exposure, is_loopback
from flowguard.observe.health import Absence, Health, Pulse, liveness, readiness
from flowguard.observe.metrics import Observed
from flowguard.observe.prometheus import latency_buckets, make_registry
from flowguard.observe.state import events_document, state_document, worker_name
from flowguard.observe.web import WorkerPages

if TYPE_CHECKING:
    from flowguard.app import App

__all__ = ["FeedWeb"]

#: Faust's own default is to listen on every interface.
LOOPBACK: Final = "127.0.0.1"

#: The consumer polls every second; whoever sets a very short poll interval still gets this.
IDLE_MIN_S: Final = 30.0


class FeedWeb(Web):
    """Faust's web server; for an app with feeds also flowguard's pages, on this host only.

    The address changes only if nobody set one: `web_bind` and `web_host` mean what they
    mean in Faust. Without feeds it is Faust's server in everything.
    """

    app: App

    def __init__(self, app: App, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._mounted = False
        self._loop_pulse = Pulse("the event loop")
        self._thread_pulse = Pulse("the consumer's thread")
        self._broker_absence = Absence()

    def init_server(self) -> None:
        """Add the pages before Faust adds its own, which then give way on `/`."""
        if self.app.has_feeds and not self._mounted:
            self._mounted = True
            self.pages.mount(self.web_app)
        super().init_server()

    @cached_property
    def pages(self) -> WorkerPages:
        """Return flowguard's pages."""
        return WorkerPages(
            loop=lambda: cast("Any", self.app.loop),
            exposure=self.exposure,
            state=self._state,
            events=self._events,
            registry=make_registry(self._observed),
            liveness=self._liveness,
            readiness=self._readiness,
        )

    # Where to listen.

    @property
    def bind(self) -> str:
        """Return the address to listen on."""
        conf = self.app.conf
        chosen = not self.app.has_feeds or {"web_bind", "web_host"} & conf.origins.keys()
        return str(conf.web_bind) if chosen else LOOPBACK

    @property
    def url(self) -> URL:
        """Return where a browser finds the pages."""
        if not self.app.has_feeds or not is_loopback(self.bind):
            return super().url
        scheme = "http" if self.app.conf.web_ssl_context is None else "https"
        return URL.build(scheme=scheme, host=self.bind, port=self.app.conf.web_port, path="/")

    def exposure(self) -> Exposure:
        """Return who can reach the pages, and the token."""
        conf, token = self.app.conf, self.app.web_token
        return Exposure(
            local=conf.web_transport.scheme == "unix" or is_loopback(self.bind),
            tls=conf.web_ssl_context is not None,
            token=None if token is None else token.reveal(),
        )

    def _new_transport_tcp(self) -> BaseSite:
        if not self.app.has_feeds:
            return super()._new_transport_tcp()
        conf = self.app.conf
        return TCPSite(self._runner, self.bind, conf.web_port, ssl_context=conf.web_ssl_context)

    async def start_server(self) -> None:
        """Listen.

        Raises:
            FlowguardError: The address is taken or is none of this host's.
        """
        try:
            await super().start_server()
        except OSError as error:
            if not self.app.has_feeds:
                raise
            raise FlowguardError(
                f"cannot serve the worker's pages on {self.bind}:{self.app.conf.web_port} "
                f"({error.strerror}); choose another with web_port, or set web_enabled=False"
            ) from error

    # What the pages show.

    def _state(self) -> dict[str, Any]:
        snapshot = self.app.runtime.snapshot()
        stalls = self.app.runtime.stalls
        return state_document(snapshot, app=self.app.conf.id, worker=worker_name(), stalls=stalls)

    def _events(self, after: int) -> dict[str, Any]:
        runtime = self.app.runtime
        decisions = runtime.engine.decisions
        return events_document(
            decisions.after(after),
            last=decisions.total,
            now_ns=runtime.clock.now_ns(),
            app=self.app.conf.id,
            worker=worker_name(),
        )

    def _observed(self) -> Observed:
        from flowguard import __version__

        runtime = self.app.runtime
        return Observed(
            snapshot=runtime.snapshot(),
            epoch_s=runtime.clock.epoch_ms() / 1e3,
            latency={
                book.lane.name: latency_buckets(book.lane, book.latency)
                for book in runtime.engine.books
            },
            app=self.app.conf.id,
            worker=worker_name(),
            version=__version__,
            ready=self._readiness().ok,
            stalls=runtime.stalls,
        )

    def _readiness(self) -> Health:
        runtime = self.app.runtime
        away = False
        if runtime.joined:
            # aiokafka forgets who leads the group as soon as that does not answer.
            coordinator = self._kafka_consumer and self._kafka_consumer._coordinator
            away = coordinator is None or coordinator.coordinator_id is None
        return readiness(
            joined=runtime.joined,
            stopping=self.app.should_stop or runtime.draining,
            away_s=self._broker_absence.away_s(away),
        )

    @property
    def _kafka_consumer(self) -> Any:
        """Return aiokafka's consumer, None before there is one."""
        consumer: Any = self.app._consumer
        return None if consumer is None else consumer._thread._consumer

    def _liveness(self) -> Health:
        silences = [(self._loop_pulse.name, self._loop_pulse.silence_s(self.app.loop))]
        idle_s = 0.0
        # Until it joins, the consumer waits for a broker, which is nothing to restart it for.
        if self.app.runtime.joined and self.app._consumer is not None:
            thread = self.app.consumer._thread  # type: ignore[attr-defined]
            pulse = self._thread_pulse
            silences.append((pulse.name, pulse.silence_s(thread.thread_loop)))
            if self._kafka_consumer is not None:
                idle_s = self._kafka_consumer._subscription.fetcher_idle_time
        idle_max_s = max(IDLE_MIN_S, (self.app.conf.broker_max_poll_interval or 0) / 2)
        stalls = self.app.runtime.stalls
        return liveness(
            silences,
            idle_s=idle_s,
            idle_max_s=idle_max_s,
            place=stalls.place if stalls.under_way else None,
        )
