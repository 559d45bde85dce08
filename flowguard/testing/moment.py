"""What happens to an app at an instant of a run: faults, and whatever a test wants."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowguard.errors import ConfigError
from flowguard.units import SECOND, Duration, duration_ns

if TYPE_CHECKING:
    from flowguard.testing.harness import Harness

__all__ = ["Moment"]


class Moment:
    """An instant of a run; each method lets something happen then and returns the moment.

    Durations are strings (`"3s"`), `timedelta`, or seconds.

    Args:
        harness: Whose run it is.
        at_ns: The instant, from the beginning of the run.
    """

    def __init__(self, harness: Harness, at_ns: int) -> None:
        self._harness = harness
        self._at_ns = at_ns

    def kill_sink(self, sink: Any, *, for_: Duration | None = None) -> Moment:
        """Let the broker refuse what is written to a feed or topic, as while replicas are down.

        Args:
            sink: A feed, a topic, or the name of one.
            for_: How long; until `revive_sink` without one.
        """
        topic = topic_of(sink)
        self._for(for_, self._broker.kill, self._broker.revive, topic)
        return self

    def revive_sink(self, sink: Any) -> Moment:
        """Let the broker take it again, once for each time it was killed."""
        topic = topic_of(sink)
        return self._do(lambda: self._broker.revive(topic))

    def slow_sink(self, sink: Any, *, by: Duration, for_: Duration | None = None) -> Moment:
        """Let each write to a feed or topic take longer.

        Args:
            sink: A feed, a topic, or the name of one.
            by: How much longer.
            for_: How long; to the end of the run without one.
        """
        topic, by_s = topic_of(sink), duration_ns(by, name="by") / SECOND
        slow = self._broker.slow

        def begin(_: Any) -> None:
            slow[topic] = slow.get(topic, 0.0) + by_s

        def end(_: Any) -> None:
            slow[topic] -= by_s

        self._for(for_, begin, end, None)
        return self

    def pause_broker(self, *, for_: Duration) -> Moment:
        """Let the broker answer nothing: no reads, no writes, no commits.

        Args:
            for_: How long.
        """
        self._for(for_, lambda _: self._broker.pause(), lambda _: self._broker.go_on(), None)
        return self

    def rebalance(self, *, away: float = 0.0, for_: Duration | None = None) -> Moment:
        """Let the group take all partitions from the worker, and give them back.

        Args:
            away: Share of the partitions that another member has meanwhile, 0..1; it does
                nothing with them.
            for_: How long it has them; to the end of the run without a duration.

        Raises:
            ConfigError: `away` is no share.
        """
        if not 0.0 <= away <= 1.0:
            raise ConfigError(f"rebalance(away={away!r}) is no share; give 0.0 to 1.0")
        self._do(lambda: self._harness._rebalance(away))
        if away and for_ is not None:
            end_ns = self._at_ns + duration_ns(for_, name="for_")
            self._harness._on(end_ns, lambda: self._harness._rebalance(0.0))
        return self

    def crash(self, *, down: Duration = 0) -> Moment:
        """Let the worker die with all it has in memory; another one of the same app starts.

        What it had sent to the broker may be written or not. The new one begins at what was
        committed.

        Args:
            down: How long there is no worker.
        """
        start_ns = self._at_ns + duration_ns(down, name="down")
        self._do(self._harness._die)
        self._harness._on(start_ns, self._harness._start)
        return self

    def call(self, function: Callable[[], Any]) -> Moment:
        """Call a function of the test's, such as one that switches a dependency off.

        Args:
            function: Takes no arguments; an `async` one runs on the harness's loop.
        """
        return self._do(lambda: self._run(function))

    def _run(self, function: Callable[[], Any]) -> None:
        result = function()
        if inspect.iscoroutine(result):
            self._harness._spawn(result)

    @property
    def _broker(self) -> Any:
        return self._harness._broker

    def _do(self, action: Callable[[], Any]) -> Moment:
        self._harness._on(self._at_ns, action)
        return self

    def _for(
        self, duration: Duration | None, begin: Callable[[Any], Any], end: Callable[[Any], Any],
        what: Any,
    ) -> None:  # fmt: skip
        self._do(lambda: begin(what))
        if duration is not None:
            end_ns = self._at_ns + duration_ns(duration, name="for_")
            self._harness._on(end_ns, lambda: end(what))


def topic_of(sink: Any) -> str:
    """Return the name of a feed or topic.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(sink, str):
        return sink
    name = getattr(sink, "get_topic_name", None)
    if name is None:
        raise ConfigError(f"{sink!r} is no feed or topic; give one, or its name")
    return str(name())
