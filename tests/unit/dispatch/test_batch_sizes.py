"""How many records a batch of each lane may have: who waits for the seat, and who for the loop."""

from __future__ import annotations

from flowguard.dispatch.batch_sizes import BatchSizes
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.units import MICROSECOND, MILLISECOND

RT = Lane("rt", target="40ms", reserve=0.5)  # a quarter of it is 10 ms
HINTS = Lane("hints", target="400ms")
BULK = Lane("bulk")

RECORD_NS = 500 * MICROSECOND


class Served(BatchSizes):
    """Batch sizes of an agent that takes as long as it takes for each record."""

    def __init__(self, *lanes: Lane, reserved: list[int]) -> None:
        super().__init__(4096, LaneSet(lanes), reserved)
        self._now_ns = 0

    def serve(self, *, on_loop: float | None = 0.0, turns: int = 40) -> list[int]:
        """Serve full batches of all lanes in turn; return what each may have then.

        Args:
            on_loop: For which share of the time they hold the event loop, None if unknown.
        """
        for turn in range(turns):
            records = self.of_lanes[turn % len(self.of_lanes)]
            service_ns = records * RECORD_NS
            held_ns = None if on_loop is None else round(service_ns * on_loop)
            self._now_ns += service_ns
            self.sample(
                records=records, service_ns=service_ns, held_ns=held_ns, now_ns=self._now_ns
            )
        return self.of_lanes


def test_where_seats_are_shared_every_batch_is_as_short_as_the_tightest_target_asks() -> None:
    assert Served(RT, HINTS, BULK, reserved=[0, 0, 0]).serve() == [20, 20, 20]


def test_beside_a_seat_of_its_own_a_tight_lane_does_not_make_the_batches_of_others_short() -> None:
    rt, hints, bulk = Served(RT, HINTS, BULK, reserved=[1, 0, 0]).serve()

    assert rt == 20
    assert hints * RECORD_NS <= 100 * MILLISECOND, "a quarter of its own target"
    assert 100 <= hints == bulk, "hints may wait for the seat that bulk has"


def test_what_nobody_with_a_target_waits_for_is_as_long_as_is_worth_it() -> None:
    rt, bulk = Served(RT, BULK, reserved=[1, 0]).serve()

    assert rt == 20
    assert bulk >= 50 and bulk * RECORD_NS <= 50 * MILLISECOND


def test_what_holds_the_event_loop_is_short_whoever_has_a_seat() -> None:
    all_of_it, half_of_it = (Served(RT, HINTS, BULK, reserved=[1, 0, 0]) for _ in range(2))

    assert max(all_of_it.serve(on_loop=1.0)) == 20
    assert max(half_of_it.serve(on_loop=0.5)) == 40


def test_what_nobody_looked_at_is_taken_to_hold_the_event_loop() -> None:
    assert max(Served(RT, HINTS, BULK, reserved=[1, 0, 0]).serve(on_loop=None)) == 20


def test_without_targets_batches_are_as_large_as_the_agent_allows() -> None:
    assert Served(Lane("one"), BULK, reserved=[0, 0]).serve() == [4096, 4096]
