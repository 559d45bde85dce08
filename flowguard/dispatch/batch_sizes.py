"""How many records a batch of each lane may have.

A running batch cannot be preempted. It holds a seat, for which a lane with a target may wait that
has none of its own; and while the agent's code runs, it holds the event loop, for which all wait.
Where the lanes with the tightest targets have seats that no other lane gets, batches of the others
may take longer, as long as most of that is waiting for something outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from flowguard.dispatch.sizing import TARGET_SHARE, WORTHWHILE_NS, BatchLimit
from flowguard.lanes.lane_set import LaneSet

__all__ = ["BatchSizes"]

#: Of batches that no lane with a target waits for: longer ones gain little.
PATIENT_TARGET_NS: Final = TARGET_SHARE * WORTHWHILE_NS


class BatchSizes:
    """Learn how many records a batch of each lane may have.

    Args:
        records_max: The agent's `BatchSize.max`.
        lanes: The app's lanes.
        reserved: By lane, how many seats there always are that no other lane gets.

    Attributes:
        common: What all lanes may have, whoever waits for them.
    """

    def __init__(self, records_max: int, lanes: LaneSet, reserved: Sequence[int]) -> None:
        self.common = BatchLimit(records_max, target_ns=lanes.target_ns_min)
        self._on_loop = BatchLimit(records_max, target_ns=lanes.target_ns_min)
        waiting = [tightest_waiting_ns(lanes, rank, reserved) for rank in range(len(lanes))]
        patient = set(waiting) - {lanes.target_ns_min}
        limits = {each: BatchLimit(records_max, target_ns=each) for each in patient}
        self._patient = list(limits.values())
        self._of_lane = [limits.get(each) for each in waiting]

    @property
    def of_lanes(self) -> list[int]:
        """Return for each lane how many records its next batch may have."""
        common = self.common.records
        if not self._patient:
            return [common] * len(self._of_lane)
        most = min(self._on_loop.records, self.common.worthwhile)
        return [
            common if patient is None else max(common, min(patient.records, most))
            for patient in self._of_lane
        ]

    def sample(self, *, records: int, service_ns: int, held_ns: int | None, now_ns: int) -> None:
        """Learn from one batch that has just finished.

        Args:
            held_ns: The longest time for which nothing else could run on the event loop, None
                if nobody looked.
        """
        for limit in (self.common, *self._patient):
            limit.sample(records=records, service_ns=service_ns, now_ns=now_ns)
        if self._patient:
            held_ns = service_ns if held_ns is None else held_ns
            self._on_loop.sample(records=records, service_ns=held_ns, now_ns=now_ns)


def tightest_waiting_ns(lanes: LaneSet, rank: int, reserved: Sequence[int]) -> int | None:
    """Return the tightest target of the lanes that may wait for a seat that a lane has.

    None where no lane has a target.
    """
    if lanes.target_ns_min is None:
        return None
    waiting = [
        lane.target_ns
        for other, lane in enumerate(lanes)
        if lane.target_ns is not None and (other == rank or not reserved[other])
    ]
    return min(waiting, default=PATIENT_TARGET_NS)
