"""Algorithms that move the limit of concurrency; each looks at one window after the other.

goodput    learns whether more batches at once get more done (the default)
gradient   present against long-term service time     Netflix concurrency-limits, Gradient2
vegas      batches that seem to wait at the provider   Netflix concurrency-limits, Vegas
aimd       one more, or a tenth less after a refusal   Netflix concurrency-limits, AIMD
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from flowguard.control.limit import Algorithm
from flowguard.control.limits.aimd import Aimd
from flowguard.control.limits.goodput import Goodput
from flowguard.control.limits.gradient import Gradient
from flowguard.control.limits.vegas import Vegas

__all__ = ["ALGORITHMS", "make_algorithm"]

ALGORITHMS: Final[Mapping[str, Callable[[], Algorithm]]] = {
    "goodput": Goodput,
    "gradient": Gradient,
    "vegas": Vegas,
    "aimd": Aimd,
}


def make_algorithm(choice: str | Algorithm) -> Algorithm:
    """Return the algorithm of a name, or the one that is given."""
    return ALGORITHMS[choice]() if isinstance(choice, str) else choice
