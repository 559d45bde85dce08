"""Whether the process has used up its file descriptors, said once.

What needs one then fails and is tried again: connections, the files of lanes that spill, the
pages. Each of these would say so by itself, and none of them that it is the limit.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import time
from collections.abc import Callable
from typing import Final

__all__ = ["DescriptorWatch", "SystemLimit", "open_descriptors", "say_it_once"]

#: How often they are counted: it takes some 10 µs for each that is open.
COUNT_S: Final = 1.0

#: It is over when so many can be opened again; a worker needs some ten at a time.
FREE_AGAIN: Final = 16

#: How asyncio begins its own line, one each second with a traceback, while a page is asked for.
ASYNCIO_SAYS: Final = "socket.accept() out of system resource"


def open_descriptors() -> int | None:
    """Return how many descriptors are open, None if not one more can be opened to count them."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return None
        return 0  # this system does not tell


def limit_of_descriptors() -> int:
    """Return how many may be open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class DescriptorWatch:
    """Say when the last descriptor is used, and when there are some again.

    Args:
        log: Where it is said.
        count: Returns how many are open; None if that cannot be told for want of one.
        limit: Returns how many may be.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        log: logging.Logger,
        *,
        count: Callable[[], int | None] = open_descriptors,
        limit: Callable[[], int] = limit_of_descriptors,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._count = count
        self._limit = limit
        self._clock = clock
        self._next_s = 0.0
        self.exhausted = False

    def look(self) -> None:
        """Count, if it is time."""
        now_s = self._clock()
        if now_s < self._next_s:
            return
        self._next_s = now_s + COUNT_S
        count, limit = self._count(), self._limit()
        if not self.exhausted and (count is None or count >= limit):
            self.exhausted = True
            self._log.error(
                "all %d file descriptors of this process are in use: new connections and files "
                "wait and are tried again, what is open goes on; raise the limit (ulimit -n, "
                "LimitNOFILE=), or look for files that are not closed", limit,
            )  # fmt: skip
        elif self.exhausted and count is not None and count <= limit - FREE_AGAIN:
            self.exhausted = False
            self._log.warning("there are file descriptors again: %d of %d are in use", count, limit)


class SystemLimit(logging.Filter):
    """Leave out what asyncio says each second while there is no descriptor for a page."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to say it."""
        return not record.getMessage().startswith(ASYNCIO_SAYS)


SYSTEM_LIMIT: Final = SystemLimit()


def say_it_once() -> None:
    """Leave it to the watch to say that there are no more; safe to call again."""
    logging.getLogger("asyncio").addFilter(SYSTEM_LIMIT)
