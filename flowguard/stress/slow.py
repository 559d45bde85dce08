"""A provider that is really slow: the simulator's, on the clock of this machine.

It decides how long each call takes and which one fails; here calls wait for it. So a scenario
means the same to a real worker as to a simulated one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import flowguard as fg
from flowguard.errors import FlowguardError
from flowguard.stress.chance import Chance
from flowguard.stress.faults import Fault
from flowguard.stress.scenario import ProviderPlan
from flowguard.stress.simulator.provider import REFUSAL_NS, Answer, Call, Provider
from flowguard.stress.simulator.provider_trouble import plan_provider_fault
from flowguard.units import SECOND

__all__ = ["CallFailed", "RealAgenda", "SlowProvider"]


class CallFailed(FlowguardError):
    """The provider did not take the batch."""


class RealAgenda:
    """What will happen, on the clock of this machine and the loop that runs."""

    def __init__(self) -> None:
        self._began_ns = time.monotonic_ns()

    @property
    def now_ns(self) -> int:
        """Return the time since it was made."""
        return time.monotonic_ns() - self._began_ns

    def at(self, at_ns: int, event: Callable[[], None]) -> None:
        """Let something happen at an instant, at once if that has passed."""
        wait_ns = at_ns - self.now_ns
        if wait_ns <= 0:
            event()
        else:
            asyncio.get_running_loop().call_later(wait_ns / SECOND, event)


class SlowProvider:
    """The provider of a scenario, for a coroutine to wait for.

    Args:
        plan: What it can do.
        seed: Of its chance.
    """

    def __init__(self, plan: ProviderPlan, seed: int = 1) -> None:
        self.usual = plan
        self.provider = Provider(plan, Chance(seed).of("provider"))
        self.agenda = RealAgenda()
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, faults: Iterable[Fault], *, began_ago_ns: int) -> None:
        """Let faults happen when they are to.

        Args:
            faults: With instants from the beginning of the scenario.
            began_ago_ns: How long that was ago; negative if it is to come.
        """
        begin_ns = self.agenda.now_ns - began_ago_ns
        for fault in faults:
            shifted = replace(
                fault, at_ns=fault.at_ns + begin_ns, until_ns=fault.until_ns + begin_ns
            )
            plan_provider_fault(self, shifted)

    async def call(self, records: int) -> None:
        """Return when the provider has taken a batch.

        Raises:
            Unavailable: The provider is not there.
            CallFailed: It did not take the batch.
        """
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def end(answer: Answer) -> None:
            if not done.done():
                done.set_result(answer)

        begun = self.provider.call(self.agenda.now_ns, records, end)
        if isinstance(begun, Answer):
            await asyncio.sleep(REFUSAL_NS / SECOND)
            answer = begun
        else:
            answer = await self._wait(begun, done)
        if answer.why:
            raise failure(answer)

    async def _wait(self, call: Call, done: asyncio.Future[Answer]) -> Answer:
        self.wake_provider()
        timeout_s = self.usual.timeout_ns / SECOND or None
        try:
            async with asyncio.timeout(timeout_s):
                return await done
        except TimeoutError:
            return Answer("the provider did not answer in time")
        finally:
            self.provider.cancel(call, self.agenda.now_ns)
            self.wake_provider()

    def wake_provider(self) -> None:
        """Come back when the next call is done; after each change of the provider."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ns = self.provider.due_ns
        if due_ns is not None:
            wait_s = max(0, due_ns - self.agenda.now_ns) / SECOND
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._advance)

    def _advance(self) -> None:
        self.provider.advance(self.agenda.now_ns)
        self.wake_provider()


def failure(answer: Answer) -> Exception:
    """Return what an agent raises."""
    if answer.unavailable:
        wait_ns = answer.retry_after_ns
        return fg.Unavailable(None if wait_ns is None else wait_ns / SECOND, why=answer.why)
    return CallFailed(answer.why)
