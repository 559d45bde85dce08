"""flowguard: streaming backpressure for real-time inference on Faust and Kafka.

    import flowguard as fg

    realtime = fg.Lane("realtime", target="50ms", reserve=0.5)
    backfill = fg.Lane("backfill")
    app = fg.App("fraud", broker="kafka://localhost:9092", lanes=[realtime, backfill])

Only what is named here is public. A name is imported when it is first used: the engine, the
command line and the simulator must not wait for Faust, which they do without.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

#: Module → what it has of these names; type checkers read the imports above.
_PLACES = {
    "agents.feed": "Feed",
    "app": "App",
    "batch": "Batch",
    "dispatch.concurrency": "Adaptive",
    "dispatch.sizing": "BatchSize",
    "errors": "ConfigError FlowguardError HookError Rejected SettleError Unavailable WireError",
    "lanes.fairness": "header key",
    "lanes.lane": "Lane",
    "lanes.overflow": "Block Conflate Divert Shed Spill",
    "lanes.rules": "by_column by_header by_key_prefix by_topic",
    "settle.letter_limit": "DeadLetters",
    "settle.retry": "Retry",
}


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names.split():
            found = getattr(import_module(f"{__name__}.{place}"), name)
            globals()[name] = found  # the next time it is simply there
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
