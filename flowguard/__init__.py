"""flowguard: streaming backpressure for real-time inference on Faust and Kafka.

    import flowguard as fg

    realtime = fg.Lane("realtime", target="50ms", reserve=0.5)
    backfill = fg.Lane("backfill")
    app = fg.App("fraud", broker="kafka://localhost:9092", lanes=[realtime, backfill])

Only what is named here is public.
"""

from flowguard.agents.feed import Feed
from flowguard.app import App
from flowguard.batch import Batch
from flowguard.dispatch.concurrency import Adaptive
from flowguard.dispatch.sizing import BatchSize
from flowguard.errors import (
    ConfigError,
    FlowguardError,
    HookError,
    Rejected,
    SettleError,
    Unavailable,
    WireError,
)
from flowguard.lanes.fairness import header, key
from flowguard.lanes.lane import Lane
from flowguard.lanes.overflow import Block, Conflate, Divert, Shed, Spill
from flowguard.lanes.rules import by_column, by_header, by_key_prefix, by_topic
from flowguard.settle.letter_limit import DeadLetters
from flowguard.settle.retry import Retry

__all__ = [
    "Adaptive",
    "App",
    "Batch",
    "BatchSize",
    "Block",
    "ConfigError",
    "Conflate",
    "DeadLetters",
    "Divert",
    "Feed",
    "FlowguardError",
    "HookError",
    "Lane",
    "Rejected",
    "Retry",
    "SettleError",
    "Shed",
    "Spill",
    "Unavailable",
    "WireError",
    "by_column",
    "by_header",
    "by_key_prefix",
    "by_topic",
    "header",
    "key",
]

__version__ = "0.1.0"
