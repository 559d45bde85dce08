"""A slow sink: a service in a process of its own that takes the time it says.

A caller sends the number of records of a call (4 bytes, big-endian) and gets a byte back when
the call is done. Up to `capacity` calls at once take `call + records × record` each; more of
them share what there is and get less together, as connections to a database do.
"""

from __future__ import annotations

import asyncio
import struct
from multiprocessing.connection import Connection

from flowguard.stress.scenario import ProviderPlan
from flowguard.stress.slow import SlowProvider

HOST = "127.0.0.1"


def serve(
    call_s: float, record_s: float, capacity: int, degradation: float, pipe: Connection
) -> None:
    """Run the service until killed; it tells its port, and how much it served when asked."""
    asyncio.run(_serve(call_s, record_s, capacity, degradation, pipe))


async def _serve(
    call_s: float, record_s: float, capacity: int, degradation: float, pipe: Connection
) -> None:
    provider = SlowProvider(
        ProviderPlan(
            call_ns=round(call_s * 1e9),
            record_ns=round(record_s * 1e9),
            capacity=capacity,
            degradation=degradation,
        )
    )
    served = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        try:
            while True:
                (records,) = struct.unpack(">I", await reader.readexactly(4))
                await provider.call(records)
                served += records
                writer.write(b"\0")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, HOST, 0)
    pipe.send(server.sockets[0].getsockname()[1])
    asyncio.get_running_loop().add_reader(pipe.fileno(), lambda: (pipe.recv(), pipe.send(served)))
    await server.serve_forever()


class SlowSink:
    """Calls the service; a connection serves one call at a time, and there are as many as
    calls at once."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self, records: int) -> None:
        """Return when the service has taken so many records."""
        reader, writer = (
            self._idle.pop() if self._idle else await asyncio.open_connection(HOST, self.port)
        )
        writer.write(struct.pack(">I", records))
        await reader.readexactly(1)
        self._idle.append((reader, writer))
