"""What a worker shows of itself; nothing here decides anything.

    Engine ── snapshot() ──▶ Snapshot ─┬─ state.py       /api/state, a JSON document
                                       ├─ prometheus.py  /metrics, from the table in metrics.py
                                       └─ pages.py       /, a page for people
    FeedRuntime ── health.py ──▶ /healthz, /readyz

Everything is built when somebody asks, from one snapshot, so watching costs nothing between
two questions. Unknown is null in JSON, and absent in metrics.
"""
