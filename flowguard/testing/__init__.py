"""Tests of pipelines: one batch through an agent, or the whole app on a virtual clock.

    frame ─▶ batch(…) ─▶ await agent.call(batch) ─▶ frames           a unit test of an agent

    produce ─▶ Log ─▶ Fetcher ─▶ Engine ─▶ agents ─▶ BatchSender ─▶ Log ─▶ sent
               in memory   └───── flowguard's own, on a virtual clock ─────┘    in memory

- Only Kafka and time are replaced: records are wire batches, which the real parser reads and
  the real encoder writes.
- Everything runs on one thread and one event loop, whose time passes when nothing else can
  happen. So a run is quick, and the same seed gives the same run.
- A crash forgets the worker and keeps the log, the commits and the spill directory.
"""

from flowguard.errors import SimulationError
from flowguard.testing.batches import batch
from flowguard.testing.harness import Harness
from flowguard.testing.moment import Moment
from flowguard.testing.watch import LatencySummary

__all__ = ["Harness", "LatencySummary", "Moment", "SimulationError", "batch"]
