"""How a process of a run is told what to do, and answers.

It takes one task as JSON on its command line and orders as lines on standard input, and
answers in lines of JSON on standard output:

    begin EPOCH_MS ─▶ │ process │ ─▶ {"ready": true}, then one line a second, then
    stop ───────────▶ │         │ ─▶ {"done": …}

The end of its input ends it, so it never outlives whoever started it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["REPORT_EVERY_S", "Orders", "say"]

REPORT_EVERY_S: Final = 1.0


class Orders:
    """What comes in on standard input.

    Attributes:
        stopped: Set by `stop`.
    """

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self._begin: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def listen(self) -> None:
        """Take orders until the input ends."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := (await reader.readline()).decode().split():
            if line[0] == "stop":
                self.stopped.set()
            elif line[0] == "begin" and not self._begin.done():
                self._begin.set_result(int(line[1]))

    async def begin_ms(self) -> int:
        """Wait until the instant of the beginning is known, and return it."""
        say({"ready": True})
        return await self._begin


def say(message: Mapping[str, Any]) -> None:
    """Tell whoever started this process."""
    print(json.dumps(message), flush=True)
