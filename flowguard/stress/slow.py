"""A provider that is really slow."""

from __future__ import annotations

import asyncio

from flowguard.stress.scenario import Scenario
from flowguard.units import SECOND

__all__ = ["SlowProvider"]


class SlowProvider:
    def __init__(self, scenario: Scenario) -> None:
        self.plan = scenario.provider
        self.seats = asyncio.Semaphore(self.plan.capacity or 10**6)

    def begin(self, at_ns: int) -> None:
        pass

    async def call(self, records: int) -> None:
        async with self.seats:
            await asyncio.sleep(self.plan.service_ns(records) / SECOND)
