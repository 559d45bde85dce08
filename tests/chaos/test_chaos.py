"""Short runs of chaos with fixed seeds; longer ones: python -m tests.chaos --seed 7 --minutes 2."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.plan import plan_of
from tests.chaos.rig import Result

SECONDS = 6.0
EVERY_S = 1.6

#: Of those with two or three workers, two kills, and a freeze longer than the session.
SEEDS = (151, 255)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_happens_to_workers_no_record_is_lost_and_order_is_kept(
    suffer: Callable[..., Result], seed: int
):
    result = suffer(plan_of(seed, seconds=SECONDS, every_s=EVERY_S))

    assert result.is_good, "\n".join(result.lines)
    assert result.verdict.outputs > 1_000 and result.verdict.letters > 0
    assert result.done["killed"] > 0, "nothing was killed; take another seed"
