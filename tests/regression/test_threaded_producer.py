"""`producer_threaded=True` has paths that cannot work: each shutdown is a TypeError.

What feeds send never goes that way: their batches have connections of their own, and their rows the
producer of the event loop.
"""

from __future__ import annotations

import inspect

from faust.transport.drivers.aiokafka import Producer, ThreadedProducer
from mode.threads import ServiceThread

from flowguard.intake.producer import FeedProducer


def test_plain_faust_has_a_shutdown_of_its_threaded_producer_that_cannot_be_awaited() -> None:
    assert inspect.iscoroutinefunction(ServiceThread._shutdown_thread)
    assert "await self._shutdown_thread()" in inspect.getsource(ServiceThread)
    assert not inspect.iscoroutinefunction(ThreadedProducer._shutdown_thread)


def test_the_producer_of_feeds_is_not_the_threaded_one() -> None:
    assert issubclass(FeedProducer, Producer)
    assert not issubclass(FeedProducer, ThreadedProducer)
    for name in ("send_frame", "event_queue"):
        if hasattr(FeedProducer, name):
            assert "threaded" not in inspect.getsource(getattr(FeedProducer, name))
