"""Faults that a real run makes itself: a worker that is killed, stands still, or loses
partitions to another one. What the provider does wrong, the pipeline does itself.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from flowguard.stress.faults import Crash, Fault, Pause, Rebalance
from flowguard.stress.live import LiveRun
from flowguard.units import SECOND

__all__ = ["Mishaps"]


class Mishaps:
    """The faults of a scenario, each at its time.

    Args:
        faults: All of them; those of the provider are only shown.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = faults

    def current(self, t: float) -> tuple[str, ...]:
        """Return what is wrong at this moment, for people."""
        at_ns = t * SECOND
        return tuple(
            str(fault) for fault in self.faults if fault.at_ns <= at_ns < shown_until_ns(fault)
        )

    async def make(self, run: LiveRun) -> None:
        """Do it all; cancelled when the load has ended."""
        await asyncio.gather(*(self._make(run, fault) for fault in self.faults))

    async def _make(self, run: LiveRun, fault: Fault) -> None:
        match fault.kind:
            case Crash():
                await self._crash(run, fault, fault.kind)
            case Pause():
                await until(run, fault.at_ns)
                run.worker.send(signal.SIGSTOP)
                await until(run, fault.until_ns)
                run.worker.send(signal.SIGCONT)
            case Rebalance():
                await self._rebalance(run, fault, fault.kind)

    async def _crash(self, run: LiveRun, fault: Fault, crash: Crash) -> None:
        for at_ns in instants(fault, crash.every_ns):
            await until(run, at_ns)
            await run.worker.end()
            await until(run, at_ns + crash.restart_ns)
            await run.worker.spawn()

    async def _rebalance(self, run: LiveRun, fault: Fault, rebalance: Rebalance) -> None:
        """Let a second worker join, and leave again; Kafka deals out the partitions."""
        for at_ns in instants(fault, rebalance.every_ns):
            end_ns = at_ns + rebalance.every_ns // 2 if rebalance.every_ns else fault.until_ns
            await until(run, at_ns)
            other = run.new_worker()
            await other.spawn()
            await until(run, end_ns)
            await other.drain()
            other.bury()

    async def undo(self, run: LiveRun) -> None:
        """Let the worker run, and others leave."""
        run.worker.send(signal.SIGCONT)
        if not run.worker.running:
            await run.worker.spawn()
        for other in run.workers[1:]:
            if other.running:
                await other.drain()
                other.bury()


def instants(fault: Fault, every_ns: int) -> list[int]:
    """Return when a fault happens: once, or again and again until it is over."""
    if not every_ns:
        return [fault.at_ns]
    return list(range(fault.at_ns, fault.until_ns, every_ns)) or [fault.at_ns]


def shown_until_ns(fault: Fault) -> int:
    """Return until when people should see it: what happens at once for as long as it takes."""
    if isinstance(fault.kind, Crash):
        return max(fault.until_ns, fault.at_ns + fault.kind.restart_ns + SECOND)
    return fault.until_ns


async def until(run: LiveRun, at_ns: int) -> None:
    """Wait for an instant of the run."""
    await asyncio.sleep(max(0.0, at_ns / SECOND - run.elapsed_s))
