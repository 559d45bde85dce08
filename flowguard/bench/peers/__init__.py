"""Who reads: each module has `setup(context) -> run` and `run(n) -> Reading`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

__all__ = ["PEERS", "Peer"]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who takes part in a contest.

    Args:
        module: Where its `setup` is.
        baseline: With whom it is compared in the document.
        divisor: The slow read a part of the records; rates are compared.
        needs: The package that only the extra `bench` installs.
        path: Directories where Python looks first in its process.
    """

    module: str
    baseline: str | None = "limit"
    divisor: int = 1
    needs: str | None = None
    path: tuple[str, ...] = ()


#: Name in reports → who that is. They take turns in this order.
PEERS: Final[Mapping[str, Peer]] = {
    "limit": Peer("flowguard.bench.peers.limit", baseline=None),
    "faust": Peer("flowguard.bench.peers.plain_faust", divisor=100),
    "aiokafka": Peer("flowguard.bench.peers.aiokafka_getmany", divisor=10),
    "confluent-kafka": Peer("flowguard.bench.peers.confluent", needs="confluent_kafka"),
    "quix": Peer("flowguard.bench.peers.quix", divisor=10, needs="quixstreams"),
    "flowguard-raw": Peer("flowguard.bench.peers.flowguard_raw", baseline="confluent-kafka"),
    "flowguard-json": Peer("flowguard.bench.peers.flowguard_json", baseline="quix"),
}
