"""The memory budget: own shares, the pool, pausing, and never more than the limit."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flowguard.control.memory import (
    COLUMNS_PER_WIRE_BYTE,
    FETCH_BYTES_MAX,
    FETCH_BYTES_MIN,
    PARTITION_BYTES_MAX,
    MemoryBudget,
    Reservation,
)
from flowguard.units import KIB, MIB

NOTHING = Reservation(0, {}, 0)


def budget(partitions: str = "ab", *, memory_bytes: int = 64 * MIB) -> MemoryBudget:
    made = MemoryBudget(memory_bytes)
    made.assign(partitions)
    return made


def test_the_parts_of_the_budget_add_up_to_the_whole():
    memory = MemoryBudget(64 * MIB)

    receive_bytes = 2 * memory.fetch_bytes_max

    assert memory.fetch_bytes_max == 4 * MIB
    assert receive_bytes == memory.receive_bytes_max
    assert memory.output_bytes_max == memory.memory_bytes // 8
    frames_bytes = memory.memory_bytes // 8
    parts = (memory.columns_bytes_max, receive_bytes, frames_bytes, memory.output_bytes_max)
    assert sum(parts) == 64 * MIB


def test_connections_share_the_part_of_receive_buffers_however_many_they_are():
    memory = MemoryBudget(64 * MIB)
    for connection in range(8):
        memory.receive_into(connection, MIB)

    assert 8 * 2 * memory.fetch_bytes_max == memory.receive_bytes_max
    assert memory.used_bytes == memory.receive_bytes == 8 * MIB

    memory.receive_into(0, 0)
    assert memory.used_bytes == 7 * MIB


def test_a_receive_buffer_that_had_to_grow_takes_its_excess_from_the_pool():
    memory = budget("ab")
    room = memory.room("a")

    memory.receive_into("connection", memory.receive_bytes_max)
    assert memory.room("a") == room
    memory.receive_into("connection", memory.receive_bytes_max + 1000)
    assert memory.room("a") == room - 1000


def test_a_partition_whose_next_wire_batch_does_not_fit_is_paused_until_it_does():
    memory = budget("a", memory_bytes=16 * MIB)
    memory.charge("a", memory.room("a") - 3 * MIB, NOTHING)

    assert memory.reserve({"a": 4 * MIB}).shares == {}
    assert memory.paused == {"a"}
    assert not memory.release("a", MIB // 2)
    assert memory.release("a", MIB // 2)
    assert memory.reserve({"a": 4 * MIB}).shares
    assert memory.paused == set()


def test_a_wire_batch_that_never_has_room_is_read_when_nothing_else_is_held():
    memory = budget("abcd", memory_bytes=4 * MIB)
    memory.receive_into("connection", 2 * MIB)  # it grew for that batch
    needs = {"a": 0, "b": 1_100_000, "c": 0, "d": 0}
    assert max(memory.room(each) for each in needs) < needs["b"]
    memory.hold("a", 1)
    assert "b" not in memory.reserve({"b": needs["b"]}).shares
    memory.release("a", 1)

    asked = memory.reserve({"b": needs["b"]})

    assert "b" in asked.shares
    assert memory.allowance("b", asked) >= needs["b"]
    memory.charge("b", needs["b"], asked)
    memory.settle(asked)
    assert memory.reserve({"a": 2_000_000}).shares == {}
    memory.release("b", needs["b"])
    assert memory.held_bytes == memory.requested_bytes == 0


def test_a_request_is_neither_too_small_to_be_worth_it_nor_larger_than_16_mib():
    assert MemoryBudget(MIB).fetch_bytes_max == FETCH_BYTES_MIN
    assert MemoryBudget(1024 * MIB).fetch_bytes_max == FETCH_BYTES_MAX


def test_a_partition_that_is_fast_uses_its_own_share_and_the_pool():
    memory = budget("ab")
    half = memory.columns_bytes_max // 2

    assert memory.room("a") == half // 2 + half
    memory.charge("a", half // 2 + half, NOTHING)

    assert memory.room("a") == 0
    assert memory.room("b") == half // 2


def test_what_comes_back_goes_to_the_pool_first():
    memory = budget("ab")
    half = memory.columns_bytes_max // 2
    memory.charge("a", half, NOTHING)
    assert memory.room("b") == half

    memory.release("a", half // 2)

    assert memory.room("b") == half // 2 + half


def test_a_request_counts_as_twice_its_size_until_it_is_settled():
    memory = budget("ab")

    reservation = memory.reserve(["a", "b"])

    assert reservation.total_bytes == memory.fetch_bytes_max
    assert memory.used_bytes == COLUMNS_PER_WIRE_BYTE * memory.fetch_bytes_max
    memory.settle(reservation)
    assert memory.used_bytes == 0


def test_columns_take_the_place_of_what_was_reserved_for_them():
    memory = budget("ab")
    reservation = memory.reserve(["a"])
    before = memory.used_bytes

    memory.charge("a", 1000, reservation)
    assert (memory.used_bytes, memory.held_bytes) == (before, 1000)
    memory.settle(reservation)

    assert (memory.used_bytes, memory.held_by("a")) == (1000, 1000)


def test_columns_beyond_the_reservation_count_in_full():
    memory = budget("ab")
    reservation = memory.reserve(["a"])

    memory.charge("a", reservation.left_bytes + 500, reservation)
    memory.settle(reservation)

    assert memory.requested_bytes == 0
    assert memory.used_bytes == COLUMNS_PER_WIRE_BYTE * reservation.total_bytes + 500


def test_settling_twice_gives_nothing_back_twice():
    memory = budget("ab")
    reservation = memory.reserve(["a"])

    memory.settle(reservation)
    memory.settle(reservation)

    assert memory.requested_bytes == 0


def test_the_allowance_of_a_response_counts_its_own_reservation_as_free():
    memory = budget("a", memory_bytes=MIB)
    before = memory.room("a")

    reservation = memory.reserve(["a"])

    assert memory.room("a") < before
    assert memory.allowance("a", reservation) == before


def test_the_allowance_of_one_partition_shrinks_with_what_the_others_got():
    memory = budget("ab", memory_bytes=MIB)
    reservation = memory.reserve(["a", "b"])
    whole = memory.allowance("a", reservation)

    memory.charge("a", whole, reservation)

    assert memory.allowance("a", reservation) == 0
    assert memory.allowance("b", reservation) == memory.columns_bytes_max // 4


def test_no_partition_gets_more_than_four_mib_of_one_request():
    memory = budget("a", memory_bytes=1024 * MIB)

    assert memory.reserve(["a"]).shares == {"a": PARTITION_BYTES_MAX}


def test_a_partition_without_room_is_left_out_and_the_others_go_on():
    memory = budget("ab", memory_bytes=MIB)
    memory.charge("a", memory.room("a"), NOTHING)

    reservation = memory.reserve(["a", "b"])

    assert reservation.shares.keys() == {"b"}
    assert memory.paused == {"a"}


def test_a_paused_partition_goes_on_only_when_it_has_room_for_a_whole_request():
    memory = budget("ab", memory_bytes=16 * MIB)
    full = memory.room("a")
    memory.charge("a", full, NOTHING)
    memory.settle(memory.reserve(["a"]))
    enough = memory._enough
    assert enough > FETCH_BYTES_MIN

    assert memory.release("a", FETCH_BYTES_MIN) is False
    assert memory.reserve(["a"]).shares == {}
    assert memory.release("a", enough - FETCH_BYTES_MIN) is True
    reservation = memory.reserve(["a"])

    assert reservation.shares.keys() == {"a"}
    assert memory.paused == set()


def test_a_partition_that_was_not_paused_is_not_held_to_that_much():
    memory = budget("ab", memory_bytes=16 * MIB)
    memory.charge("a", memory.room("a") - FETCH_BYTES_MIN, NOTHING)

    assert memory.reserve(["a"]).shares == {"a": FETCH_BYTES_MIN // COLUMNS_PER_WIRE_BYTE}


def test_many_partitions_with_tiny_shares_still_make_progress():
    names = [str(number) for number in range(1000)]
    memory = MemoryBudget(MIB)
    memory.assign(names)
    memory.charge("0", memory.room("0"), NOTHING)

    reservation = memory.reserve(names)

    assert reservation.shares.keys() == set(names[1:])


def test_revoking_lets_everything_of_a_partition_go_and_its_share_with_it():
    memory = budget("ab")
    half = memory.columns_bytes_max // 2
    memory.charge("a", half, NOTHING)
    memory.charge("b", 100, NOTHING)

    memory.revoke(["a"])

    assert memory.held_bytes == 100
    assert memory.room("b") == half - 100 + half


def test_what_arrives_for_a_revoked_partition_is_not_counted():
    memory = budget("ab")
    reservation = memory.reserve(["a"])
    memory.revoke(["a"])

    memory.charge("a", 1000, reservation)
    memory.settle(reservation)

    assert memory.used_bytes == 0
    assert memory.held_by("a") == 0


def test_a_partition_that_joins_makes_the_shares_smaller_and_loses_nothing():
    memory = budget("a")
    memory.charge("a", memory.columns_bytes_max // 2, NOTHING)
    assert memory._pool_used == 0

    memory.assign(["b"])

    assert memory._pool_used == memory.columns_bytes_max // 4
    memory.release("a", memory.columns_bytes_max // 2)
    assert (memory._pool_used, memory.held_bytes) == (0, 0)


steps = st.lists(
    st.tuples(
        st.sampled_from(["request", "parse", "settle", "release", "revoke", "assign"]),
        st.integers(0, 5),
        st.floats(0, 4),
    ),
    max_size=120,
)


@given(steps=steps, memory_kib=st.sampled_from([1024, 4096, 65_536]))
@settings(deadline=None, max_examples=150)
def test_columns_never_exceed_their_part_and_all_is_given_back(steps, memory_kib):
    """A fetcher that keeps to its allowance, whatever compression makes of the bytes."""
    memory = MemoryBudget(memory_kib * KIB)
    names = list(range(6))
    memory.assign(names[:3])
    under_way: list[Reservation] = []
    held = dict.fromkeys(names, 0)
    assigned = set(names[:3])
    for step, which, ratio in steps:
        if step == "request" and len(under_way) < 4:
            under_way.append(memory.reserve(sorted(assigned)))
        elif step == "parse" and under_way:
            reservation = under_way[which % len(under_way)]
            for name in reservation.shares:
                unpacked = int(reservation.shares[name] * ratio)
                num_bytes = min(unpacked, memory.allowance(name, reservation))
                if name in assigned:
                    held[name] += num_bytes
                memory.charge(name, num_bytes, reservation)
        elif step == "settle" and under_way:
            memory.settle(under_way.pop(which % len(under_way)))
        elif step == "release" and which in assigned:
            num_bytes = min(held[which], int(held[which] * ratio))
            held[which] -= num_bytes
            memory.release(which, num_bytes)
        elif step == "revoke":
            memory.revoke([which])
            assigned.discard(which)
            held[which] = 0
        elif step == "assign":
            grown = which in assigned or sum(held.values()) == 0
            if grown:  # a share that shrinks may leave its partition above it for a while
                memory.assign([which])
                assigned.add(which)

        assert memory.held_bytes == sum(held.values())
        assert memory.held_bytes <= memory.columns_bytes_max
        assert memory.requested_bytes >= 0
    for reservation in under_way:
        memory.settle(reservation)
    for name in assigned:
        memory.release(name, held[name])

    assert memory.used_bytes == 0
    assert memory._pool_used == 0


# What is missing.


@settings(max_examples=200, deadline=None)
@given(
    held=st.lists(st.integers(0, 60 * MIB), min_size=2, max_size=5),
    need=st.integers(0, 4 * MIB),
)
def test_a_paused_partition_goes_on_when_it_has_let_go_what_is_missing_and_not_before(
    held: list[int], need: int
):
    memory = MemoryBudget(64 * MIB)
    memory.assign(range(len(held)))
    for partition, num_bytes in enumerate(held):
        memory.hold(partition, num_bytes)
    memory.reserve({0: need})
    paused = 0 in memory.paused
    missing = memory.missing(0)
    assert paused or missing == 0
    if missing == 0 or missing > held[0]:
        return  # nothing to do, or others must let go as well

    assert not memory.release(0, missing - 1)
    assert memory.release(0, 1)


def test_what_was_made_of_other_columns_is_held_until_it_is_released():
    memory = budget("ab")

    memory.hold("a", 1000)
    assert memory.held_by("a") == memory.held_bytes == 1000
    memory.release("a", 1000)
    memory.hold("gone", 1000)

    assert memory.held_bytes == 0
