"""Scorecards to look at, as the JSON that commands write."""

from __future__ import annotations

from typing import Any

from flowguard.snapshot import COUNTS

__all__ = ["lane", "moment", "scorecard"]


def lane(**known: Any) -> dict[str, Any]:
    """Return a lane of a scorecard; what is not named is 0 or unknown."""
    unknown = dict.fromkeys(("p50", "p99", "p999", "unloaded_p99", "target", "on_time"))
    return {**dict.fromkeys(COUNTS, 0), "degraded": 0, **unknown, **known}


def moment(t: float, **known: Any) -> dict[str, Any]:
    """Return an entry of the timeline."""
    return {"t": t, "offered": {"realtime": 500.0}, "settled": {"realtime": 499.0}, **known}


def scorecard(**known: Any) -> dict[str, Any]:
    """Return a whole scorecard."""
    return {
        "schema": "flowguard.scorecard/v1",
        "scenario": "flash-crowd",
        "result": "pass",
        "why": "all 1 objectives held",
        "offered": 1_500,
        "settled": 1_497,
        "lost": 0,
        "duplicates": 0,
        "shed": 0,
        "conflated": 0,
        "expired": 0,
        "diverted": 0,
        "dead_letters": 0,
        "skipped": 0,
        "peak_memory": 64 * 2**20,
        "peak_rss": None,
        "peak_spill": None,
        "recovery_seconds": None,
        "objectives": [{"name": "lost", "limit": 0, "value": 0, "passed": True}],
        "lanes": {"realtime": lane(read=1_500, settled=1_497, p99=0.02, target=0.05)},
        "timeline": [
            moment(
                float(second),
                p99={"realtime": 0.01 * second},
                memory=second * 2**20,
                memory_budget=256 * 2**20,
                limit={"score": 4 + second},
                in_flight={"score": 3},
                rung=second // 2,
                pressure=second / 10,
            )
            for second in range(1, 6)
        ],
        **known,
    }
