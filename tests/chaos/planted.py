"""Bugs for the worker under test, planted by its app module; flowguard itself stays as it is."""

from __future__ import annotations

from typing import Final

__all__ = ["ACKNOWLEDGE_ON_EXCEPTION", "COMMIT_TOO_FAR", "FORGET_A_REVOKE"]

#: Every commit says that the first unfinished record is finished.
COMMIT_TOO_FAR: Final = """
from flowguard.facts import CommitPoint
from flowguard.settle.ledger import PartitionLedger

right = PartitionLedger.point.fget

def one_too_far(self):
    point = right(self)
    return CommitPoint(point.offset + 1, tuple(each + 1 for each in point.watermarks))

PartitionLedger.point = property(one_too_far)
"""

#: A batch on which the agent raises is settled, as plain Faust does it.
ACKNOWLEDGE_ON_EXCEPTION: Final = """
from flowguard.agents.stream import FeedStream

def acknowledge(self, error):
    delivered = self.current
    self._end()
    if delivered is not None:
        delivered.returned()
    return delivered is not None

FeedStream.fail = acknowledge
"""

#: Partitions that went to another worker are read and worked on as before.
FORGET_A_REVOKE: Final = """
from flowguard.runtime import FeedRuntime

async def fence_nothing(self, partitions):
    pass

def keep(self, partitions):
    self.membership.settled(partitions)

FeedRuntime.revoking = fence_nothing
FeedRuntime.revoked = keep
"""
