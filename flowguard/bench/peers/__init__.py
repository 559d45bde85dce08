"""Who reads: each module has `setup(context) -> run` and `run(n) -> Reading`."""

from __future__ import annotations

from typing import Final

__all__ = ["MODULES"]

#: Name in reports → module here. They take turns in this order.
MODULES: Final = {
    "limit": "limit",
    "faust": "plain_faust",
    "aiokafka": "aiokafka_getmany",
    "confluent-kafka": "confluent",
    "quix": "quix",
    "flowguard-raw": "flowguard_raw",
    "flowguard-json": "flowguard_json",
}
