"""What the state pages of the worker under test add up to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowguard.snapshot import COUNTS
from flowguard.stress.processes import Worker


def state(used: int, **spilled: int | None) -> dict[str, Any]:
    """Return a state document: memory in use, and what each lane has on disk."""
    lanes = {
        name: {**dict.fromkeys(COUNTS, 0), "spilled_bytes": num_bytes}
        for name, num_bytes in spilled.items()
    }
    return {"memory": {"used": used, "budget": 100}, "lanes": lanes}


def seen(tmp_path: Path, *states: dict[str, Any]) -> Worker:
    """Return a worker whose page said this, one after the other."""
    worker = Worker(
        ("-c", ""), bootstrap="127.0.0.1:1", environment={}, directory=tmp_path, partitions=1
    )
    for each in states:
        worker._take_in(each)
    return worker


def test_peaks_are_of_what_was_seen_at_one_instant(tmp_path: Path) -> None:
    worker = seen(
        tmp_path, state(10, bulk=30, hourly=5), state(40, bulk=10, hourly=20), state(0, bulk=0)
    )

    assert (worker.peak_memory, worker.peak_spill) == (40, 35)


def test_a_worker_that_does_not_tell_what_is_on_disk_has_nothing_there(tmp_path: Path) -> None:
    without = state(10, bulk=None)
    del without["lanes"]["bulk"]["spilled_bytes"]

    assert seen(tmp_path, without, state(10, bulk=None)).peak_spill == 0
