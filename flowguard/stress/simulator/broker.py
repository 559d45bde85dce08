"""The simulated broker: how long it takes to answer, and what is committed."""

from __future__ import annotations

from collections.abc import Mapping

from flowguard.chunk import TopicPartition
from flowguard.facts import CommitPoint
from flowguard.stress.scenario import BrokerPlan
from flowguard.stress.simulator.log import PartitionLog
from flowguard.units import SECOND

__all__ = ["Broker"]


class Broker:
    """One broker, which leads all partitions.

    Args:
        plan: How fast it is.
        log: What it holds.

    Attributes:
        points: What is committed.
        unreachable_until_ns: It answers nothing before.
        delay_ns: Answers take so much longer.
    """

    def __init__(self, plan: BrokerPlan, log: Mapping[TopicPartition, PartitionLog]) -> None:
        self.plan = plan
        self.log = log
        self.points: dict[TopicPartition, CommitPoint] = {}
        self.unreachable_until_ns = 0
        self.delay_ns = 0

    def reachable(self, now_ns: int) -> bool:
        """Tell whether it answers."""
        return now_ns >= self.unreachable_until_ns

    def answers_at(self, now_ns: int, there_ns: int) -> int:
        """Return when the first byte of a response comes.

        Args:
            now_ns: When it was asked.
            there_ns: When it has something to answer with.
        """
        asked_ns = max(now_ns, self.unreachable_until_ns)
        return max(asked_ns, there_ns) + self.plan.fetch_ns + self.delay_ns

    def transfer_ns(self, num_bytes: int) -> int:
        """Return how long so many bytes take."""
        return int(num_bytes * SECOND / self.plan.bytes_per_s)

    @property
    def ack_ns(self) -> int:
        """Return how long it takes to acknowledge what is sent."""
        return self.plan.ack_ns + self.delay_ns

    def store(self, points: Mapping[TopicPartition, CommitPoint]) -> None:
        """Store a commit."""
        self.points |= points
