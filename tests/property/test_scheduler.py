"""Laws of the scheduler, and the same results as its slow twin, call by call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard._native.scheduler import Scheduler
from tests.model.scheduler import QUANTUM_COST, ModelScheduler
from tests.property import schedules

LANES = 4
RECORD_COST = 256
NO_LIMIT = 2**62

Call = tuple[str, tuple[int, ...], dict[str, int]]


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    cap = draw(st.sampled_from([0.2, 0.5, 0.8, 0.95, 1.0]))
    return {
        "lane_count": LANES,
        "weights": draw(st.lists(st.integers(1, 20), min_size=LANES, max_size=LANES)),
        "cap": cap,
        "floor": draw(st.sampled_from([0.0, 0.01, 0.05])),
        "record_cost": draw(st.sampled_from([1, RECORD_COST, 5000])),
    }


@st.composite
def all_options(draw: st.DrawFn) -> dict[str, Any]:
    """Options that let a lane look at deadlines and ages, too."""
    ages = st.one_of(st.none(), st.integers(0, 100))
    return {
        **draw(options()),
        "deadlines": draw(st.lists(st.booleans(), min_size=LANES, max_size=LANES)),
        "demote_after_ns": draw(st.lists(ages, min_size=LANES, max_size=LANES)),
    }


def calls(queue_count: int) -> st.SearchStrategy[list[Call]]:
    """Sequences of calls; admissions get their handles when they are played."""
    lane, queue = st.integers(0, LANES - 1), st.integers(0, queue_count - 1)
    place = st.tuples(lane, queue)
    flag = st.booleans()
    admit: st.SearchStrategy[Call] = st.tuples(
        st.sampled_from(["admit"] * 5 + ["put_back"]),
        st.tuples(lane, queue, st.integers(1, 200), st.integers(0, 60_000)),
        st.fixed_dictionaries(
            {
                "stamp_ns": st.integers(-5, 5),
                "owner": st.integers(-1, 3),
                "born_ns": st.one_of(st.integers(-50, 300), st.just(NO_LIMIT)),
            }
        ),
    )
    take: st.SearchStrategy[Call] = st.tuples(
        st.just("take"),
        st.tuples(
            st.one_of(st.just(2**LANES - 1), st.integers(0, 2**LANES - 1)),
            st.integers(1, 300),
            st.one_of(st.just(NO_LIMIT), st.integers(0, 100_000)),
        ),
        st.fixed_dictionaries(
            {
                "exclusive": flag,
                "single_queue": flag,
                "now_ns": st.integers(0, 300),
                "seats": st.integers(1, 4),
            }
        ),
    )
    others: st.SearchStrategy[Call] = st.one_of(
        st.tuples(st.just("open"), place, st.just({})),
        st.tuples(st.just("close"), place, st.just({})),
        st.tuples(st.just("drop_queue"), st.tuples(queue), st.just({})),
        st.tuples(st.just("drop_owner"), st.tuples(st.integers(0, 3)), st.just({})),
        st.tuples(
            st.just("correct"), st.tuples(lane, queue, st.integers(-100_000, 100_000)), st.just({})
        ),
        st.tuples(
            st.just("extract"),
            st.tuples(
                lane,
                queue,
                st.one_of(st.just(NO_LIMIT), st.integers(1, 300)),
                st.one_of(st.just(NO_LIMIT), st.integers(0, 100_000)),
            ),
            st.just({}),
        ),
        st.tuples(st.just("set_batch_records"), st.tuples(lane, st.integers(1, 50)), st.just({})),
    )
    return st.lists(st.one_of(admit, admit, take, take, others), max_size=80)


def play(scheduler: Any, calls: list[Call]) -> Iterator[tuple[Call, Any]]:
    """Carry out calls one by one; a handle is the number of its call."""
    for number, call in enumerate(calls):
        name, arguments, flags = call
        if name in ("admit", "put_back"):
            lane, queue, records, num_bytes = arguments
            arguments = (lane, queue, number, records, num_bytes)
        yield (name, arguments, flags), getattr(scheduler, name)(*arguments, **flags)


def state(scheduler: Any, queue_count: int) -> list[Any]:
    """Everything that can be asked."""
    counts = [
        (
            scheduler.ready_records(i),
            scheduler.demoted_records(i),
            scheduler.queued_records(i),
            scheduler.queued_bytes(i),
            scheduler.sub_queues(i),
        )
        for i in range(LANES)
    ]
    heads = [scheduler.head(i, queue) for i in range(LANES) for queue in range(queue_count)]
    return [scheduler.ready_lanes(), counts, heads]


queue_counts = st.sampled_from([1, 2, 5, 20])


@settings(max_examples=250, deadline=None)
@given(st.data(), all_options(), queue_counts)
def test_every_call_gives_what_the_model_gives(
    data: st.DataObject, options: dict[str, Any], queue_count: int
) -> None:
    real, model = Scheduler(**options), ModelScheduler(**options)
    script = data.draw(calls(queue_count))

    for (call, result), (_, wanted) in zip(play(real, script), play(model, script), strict=True):
        assert result == wanted, call
        assert state(real, queue_count) == state(model, queue_count), call


def test_short_schedules_give_what_the_model_gives() -> None:
    """More of them: `python -m tests.property.schedules`, which also plays one again."""
    assert schedules.play(first=1, count=20_000, processes=2) == []


@settings(max_examples=150, deadline=None)
@given(st.data(), all_options(), queue_counts)
def test_each_record_is_taken_once_in_order_or_taken_out_or_dropped(
    data: st.DataObject, options: dict[str, Any], queue_count: int
) -> None:
    scheduler = Scheduler(**options)
    waiting: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    script = data.draw(calls(queue_count))

    for (name, arguments, _), result in play(scheduler, script):
        if name in ("admit", "put_back"):
            lane, queue, handle, records, _bytes = arguments
            admitted = [(handle, index) for index in range(records)]
            before = waiting[lane, queue]
            waiting[lane, queue] = before + admitted if name == "admit" else admitted + before
        elif name == "extract":
            lane, queue = arguments[:2]
            remove_taken(waiting, lane, [(queue, *entry) for entry in result])
        elif name == "take" and result is not None:
            remove_taken(waiting, *result)
        elif name == "drop_queue":
            places = [(i, arguments[0]) for i in range(LANES)]
            dropped = [record for place in places for record in waiting.pop(place, [])]
            assert result == list(dict.fromkeys(handle for handle, _ in dropped))
        elif name == "drop_owner":
            for place in waiting:
                waiting[place] = [record for record in waiting[place] if record[0] not in result]

    for i in range(LANES):
        left = sum(len(records) for (lane, _), records in waiting.items() if lane == i)
        assert scheduler.queued_records(i) == left


def remove_taken(
    waiting: dict[tuple[int, int], list[tuple[int, int]]],
    lane: int,
    entries: list[tuple[int, int, int, int]],
) -> None:
    """Check that an entry is the head of its sub-queue, and take it off."""
    for queue, handle, start, count in entries:
        head = waiting[lane, queue][:count]
        assert head == [(handle, start + index) for index in range(count)]
        del waiting[lane, queue][:count]


@settings(max_examples=150, deadline=None)
@given(st.data(), queue_counts)
def test_a_closed_sub_queue_is_never_served_and_limits_hold(
    data: st.DataObject, queue_count: int
) -> None:
    scheduler = Scheduler(LANES)
    closed: set[tuple[int, int]] = set()
    script = data.draw(calls(queue_count))

    for (name, arguments, flags), result in play(scheduler, script):
        if name == "close":
            closed.add((arguments[0], arguments[1]))
        elif name == "open":
            closed.discard((arguments[0], arguments[1]))
        elif name == "drop_queue":
            closed -= {(i, arguments[0]) for i in range(LANES)}
        elif name == "take" and result is not None:
            lane, entries = result
            places = {(lane, entry[0]) for entry in entries}
            assert arguments[0] >> lane & 1
            assert 1 <= sum(entry[3] for entry in entries) <= arguments[1]
            assert not places & closed
            assert len(places) == 1 or not flags["single_queue"]
            closed |= places if flags["exclusive"] else set()


@settings(max_examples=30, deadline=None)
@given(calls(5))
def test_same_calls_give_the_same_results(script: list[Call]) -> None:
    ages = {"deadlines": [True, False] * 2, "demote_after_ns": [50, 50, None, None]}
    first, second = (Scheduler(LANES, **ages) for _ in range(2))  # type: ignore[arg-type]
    assert list(play(first, script)) == list(play(second, script))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1)), st.booleans()),
        max_size=600,
    )
)
def test_any_number_of_any_sub_queues_is_found_again(steps: list[tuple[int, bool]]) -> None:
    scheduler = Scheduler(1)
    handles: dict[int, list[int]] = defaultdict(list)

    for handle, (queue, is_drop) in enumerate(steps):
        if is_drop:
            assert scheduler.drop_queue(queue) == handles.pop(queue, [])
        else:
            scheduler.admit(0, queue, handle, 1, 1)
            handles[queue].append(handle)

    for queue, waiting in handles.items():
        assert scheduler.head(0, queue) == (waiting[0], 0)
    _, entries = scheduler.take(1, NO_LIMIT, NO_LIMIT) or (0, [])
    assert sorted(entry[1] for entry in entries) == sorted(chain(*handles.values()))


# -- Shares of lanes ---------------------------------------------------------


def shares_of(options: dict[str, Any], lanes: list[int]) -> dict[int, float]:
    """Return what the lanes below the top are entitled to."""
    below = lanes[1:]
    weights = sum(options["weights"][i] for i in below)
    return {
        i: max(options["floor"], (1 - options["cap"]) * options["weights"][i] / weights)
        for i in below
    }


def saturate(
    options: dict[str, Any], lanes: list[int], sizes: list[int], batches: int, single_queue: bool
) -> Iterator[tuple[int, int]]:
    """Yield lane and cost of each batch while all of these lanes stay full."""
    scheduler = Scheduler(**options)
    cost_of: dict[int, int] = {}
    handle = 0
    for _ in range(batches):
        for lane in lanes:
            while scheduler.queued_records(lane) < 100:
                size = sizes[handle % len(sizes)]
                scheduler.admit(lane, handle % 3, handle, 20, 20 * size)
                cost_of[handle] = size + options["record_cost"]
                handle += 1
        taken = scheduler.take(
            NO_LIMIT * 4 - 1, 20, NO_LIMIT, exclusive=False, single_queue=single_queue
        )
        assert taken is not None
        yield taken[0], sum(cost_of[entry[1]] * entry[3] for entry in taken[1])


@settings(max_examples=60, deadline=None)
@given(
    options(),
    st.lists(st.integers(0, LANES - 1), min_size=2, unique=True).map(sorted),
    st.lists(st.integers(0, 4000), min_size=1, max_size=7),
    st.booleans(),
)
def test_every_lane_gets_its_share_within_two_batches_at_any_time(
    options: dict[str, Any], lanes: list[int], sizes: list[int], single_queue: bool
) -> None:
    """Cap, weights, floors and no starvation are all in this one law.

    A batch of a lane is at most 20 records; the third batch of the bound is the
    one that could not be interrupted, or by which the estimate was wrong.
    """
    wanted = shares_of(options, lanes)
    batch_cost = 20 * (max(sizes) + options["record_cost"])
    served: dict[int, int] = defaultdict(int)

    for lane, cost in saturate(options, lanes, sizes, 1000, single_queue):
        served[lane] += cost
        total = sum(served.values())
        for index, share in wanted.items():
            behind = share * total - served[index]
            assert -batch_cost <= behind <= 3 * batch_cost + total * 2e-6


@settings(max_examples=60, deadline=None)
@given(options(), st.integers(1, LANES - 1), st.integers(0, 4000))
def test_one_lane_below_the_top_is_never_more_than_one_batch_off(
    options: dict[str, Any], lower: int, size: int
) -> None:
    share = shares_of(options, [0, lower])[lower]
    batch_cost = 20 * (size + options["record_cost"])
    served = total = 0

    for lane, cost in saturate(options, [0, lower], [size], 500, single_queue=False):
        served += cost if lane == lower else 0
        total += cost
        # Due when one batch behind, which shows after the batch that made it so.
        behind = share * total - served
        assert -1 <= behind <= (1 + share) * batch_cost + total * 2e-6


# -- Shares of sub-queues ----------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 20_000), min_size=2, max_size=12),
    st.integers(1, 400),
    st.booleans(),
)
def test_sub_queues_that_stay_ready_share_within_a_quantum_and_a_cut(
    sizes: list[int], records_max: int, single_queue: bool
) -> None:
    scheduler = Scheduler(1)
    for queue, size in enumerate(sizes):
        scheduler.admit(0, queue, queue, 100_000, 100_000 * size)
    served = [0] * len(sizes)
    # A turn overdraws by less than a record, or by the batch that one queue gives.
    cut_records = records_max if single_queue else 1
    error = QUANTUM_COST + cut_records * (max(sizes) + RECORD_COST)

    for _ in range(200):
        taken = scheduler.take(1, records_max, NO_LIMIT, exclusive=False, single_queue=single_queue)
        assert taken is not None
        for queue, _handle, _start, count in taken[1]:
            served[queue] += count * (sizes[queue] + RECORD_COST)
        assert max(served) - min(served) <= error


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 20_000), min_size=2, max_size=12),
    st.integers(1, 400),
    st.integers(2, 5),
)
def test_sub_queues_that_share_seats_differ_by_a_quantum_and_a_batch(
    sizes: list[int], records_max: int, seats: int
) -> None:
    scheduler = Scheduler(1)
    for queue, size in enumerate(sizes):
        scheduler.admit(0, queue, queue, 100_000, 100_000 * size)
    served = [0] * len(sizes)
    error = QUANTUM_COST + records_max * (max(sizes) + RECORD_COST)

    for _ in range(200):
        taken = scheduler.take(1, records_max, NO_LIMIT, seats=seats)
        assert taken is not None
        for queue, _handle, _start, count in taken[1]:
            served[queue] += count * (sizes[queue] + RECORD_COST)
            scheduler.open(0, queue)
        assert max(served) - min(served) <= error


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=4), min_size=1, max_size=20),
    st.integers(1, 6),
    st.integers(1, 500),
    st.sampled_from([{}, {"deadlines": [True]}, {"demote_after_ns": [0]}]),
)
def test_each_free_seat_gets_its_part_of_the_sub_queues_and_fills_its_batch(
    waiting: list[list[int]], seats: int, records_max: int, options: dict[str, Any]
) -> None:
    scheduler = Scheduler(1, **options)
    for queue, slices in enumerate(waiting):
        for index, records in enumerate(slices):
            scheduler.admit(0, queue, 4 * queue + index, records, 100 * records, index, -1, 0)

    closed: set[int] = set()
    for free in range(seats, 0, -1):
        taken = scheduler.take(1, records_max, NO_LIMIT, now_ns=1, seats=free)
        ready = len(waiting) - len(closed)
        if ready == 0:
            assert taken is None
            return
        assert taken is not None
        queues = {entry[0] for entry in taken[1]}
        assert len(queues) <= -(-ready // free)
        assert not queues & closed
        records = sum(entry[3] for entry in taken[1])
        assert records == min(records_max, sum(sum(waiting[queue]) for queue in queues))
        closed |= queues


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([2, 64, 1000]), st.integers(1, 50), st.booleans())
def test_up_to_a_thousand_sub_queues_are_all_served_once_a_round(
    queue_count: int, records: int, exclusive: bool
) -> None:
    scheduler = Scheduler(1)
    for queue in range(queue_count):
        for part in range(3):
            scheduler.admit(0, queue, 3 * queue + part, records, QUANTUM_COST)

    for _ in range(3):
        seen = []
        for _ in range(queue_count):
            taken = scheduler.take(1, records, NO_LIMIT, exclusive=exclusive, single_queue=True)
            assert taken is not None
            seen += [entry[0] for entry in taken[1]]
        assert sorted(seen) == list(range(queue_count))
        for queue in seen:
            scheduler.open(0, queue)
    assert scheduler.take(1, 1, NO_LIMIT) is None


def test_sub_queues_that_are_corrected_share_what_they_really_cost() -> None:
    """Estimates are equal, but records of sub-queue 1 cost three times as much."""
    scheduler = Scheduler(1)
    for queue in (0, 1):
        scheduler.admit(0, queue, queue, 1_000_000, 0)
    cost = [0, 0]

    for _ in range(2000):
        taken = scheduler.take(1, 16, NO_LIMIT, exclusive=False, single_queue=True)
        assert taken is not None
        [(queue, _, _, count)] = taken[1]
        extra = 2 * queue * count * RECORD_COST
        scheduler.correct(0, queue, extra)
        cost[queue] += count * RECORD_COST + extra
        assert abs(cost[0] - cost[1]) <= 2 * QUANTUM_COST


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(-100, 100), st.integers(1, 20)), max_size=60
    ),
    st.integers(1, 50),
)
def test_deadlines_are_served_in_order_of_the_first_slices(
    slices: list[tuple[int, int, int]], records_max: int
) -> None:
    scheduler = Scheduler(1, deadlines=[True])
    waiting: dict[int, list[int]] = defaultdict(list)
    for handle, (queue, stamp_ns, records) in enumerate(slices):
        scheduler.admit(0, queue, handle, records, 0, stamp_ns)
        waiting[queue].append(handle)

    while taken := scheduler.take(1, records_max, NO_LIMIT, exclusive=False):
        for queue, handle, start, count in taken[1]:
            assert waiting[queue][0] == handle
            assert slices[handle][1] == min(slices[q[0]][1] for q in waiting.values() if q)
            if start + count == slices[handle][2]:
                waiting[queue].pop(0)
    assert not any(waiting.values())


@settings(max_examples=150, deadline=None)
@given(st.permutations(range(60)), st.sets(st.integers(0, 59)))
def test_deadlines_stay_in_order_whichever_sub_queues_leave(
    stamps: list[int], leaving: set[int]
) -> None:
    scheduler = Scheduler(1, deadlines=[True])
    for queue, stamp_ns in enumerate(stamps):
        scheduler.admit(0, queue, queue, 1, 0, stamp_ns)
    for queue in leaving:
        scheduler.close(0, queue)

    _, taken = scheduler.take(1, 60, NO_LIMIT) or (0, [])
    served = [stamps[entry[0]] for entry in taken]
    assert served == sorted(set(stamps) - {stamps[queue] for queue in leaving})


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 8), st.integers(0, 200)),
        min_size=1, max_size=60,
    ),
    st.lists(st.integers(0, 60), min_size=100, max_size=100),
)  # fmt: skip
def test_with_strict_priority_nothing_too_old_goes_before_anything_young(
    slices: list[tuple[int, int, int]], steps: list[int]
) -> None:
    scheduler = Scheduler(3, cap=1.0, floor=0.0, demote_after_ns=[50, 100, None])
    ages = (50, 100, NO_LIMIT)
    waiting: dict[tuple[int, int], list[int]] = defaultdict(list)
    for handle, (lane, queue, born_ns) in enumerate(slices):
        scheduler.admit(lane, queue, handle, 1, 0, born_ns=born_ns)
        waiting[lane, queue].append(handle)

    now_ns = 0
    for step in steps[: len(slices)]:
        now_ns += step
        # Demoted or not, then the lane; of the demoted the oldest.
        best = min(
            (True, slices[head[0]][2])
            if now_ns - slices[head[0]][2] > ages[lane]
            else (False, lane)
            for (lane, _), head in waiting.items()
            if head
        )
        lane, [(queue, handle, _, _)] = scheduler.take(7, 1, 1, exclusive=False, now_ns=now_ns) or (
            0,
            [],
        )
        born_ns = slices[handle][2]
        assert best == ((True, born_ns) if now_ns - born_ns > ages[lane] else (False, lane))
        assert waiting[lane, queue].pop(0) == handle
    assert scheduler.ready_lanes() == 0
