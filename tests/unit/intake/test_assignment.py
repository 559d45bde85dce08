"""Who gets which partition: evenly, and nothing from under the hands of its owner."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flowguard.intake.assignment import Claim, Place, Shares, share_out

ORDERS = frozenset({"orders"})


def orders(*numbers: int) -> frozenset[Place]:
    return frozenset(("orders", number) for number in numbers)


def test_the_first_worker_gets_everything_at_once() -> None:
    shares = share_out({"orders": 3}, {"a": Claim(ORDERS)})

    assert shares.given == {"a": orders(0, 1, 2)}
    assert not shares.withheld


def test_what_moves_to_a_second_worker_is_given_to_nobody_until_it_is_let_go() -> None:
    first = share_out(
        {"orders": 4}, {"a": Claim(ORDERS, orders(0, 1, 2, 3), 1), "b": Claim(ORDERS)}
    )
    assert first.given == {"a": orders(0, 1), "b": set()}
    assert first.withheld == orders(2, 3)

    second = share_out({"orders": 4}, {"a": Claim(ORDERS, orders(0, 1), 2), "b": Claim(ORDERS)})
    assert second.given == {"a": orders(0, 1), "b": orders(2, 3)}
    assert not second.withheld


def test_what_a_worker_leaves_goes_to_the_others_at_once() -> None:
    shares = share_out(
        {"orders": 4}, {"a": Claim(ORDERS, orders(0), 3), "b": Claim(ORDERS, orders(3), 3)}
    )

    assert shares.given == {"a": orders(0, 1), "b": orders(2, 3)}
    assert not shares.withheld


def test_a_claim_from_before_a_long_absence_does_not_count() -> None:
    shares = share_out(
        {"orders": 2},
        {"a": Claim(ORDERS, orders(0, 1), 2), "b": Claim(ORDERS, orders(0, 1), 7)},
    )

    assert shares.given == {"a": set(), "b": orders(0)}
    assert shares.withheld == orders(1)


def test_what_two_claim_at_the_same_time_is_let_go_by_both_first() -> None:
    claims = {"a": Claim(ORDERS, orders(0), 2), "b": Claim(ORDERS, orders(0), 2)}

    shares = share_out({"orders": 1}, claims)

    assert shares.given == {"a": set(), "b": set()}
    assert shares.withheld == orders(0)


def test_a_topic_that_does_not_exist_and_claims_beyond_its_end_are_no_error() -> None:
    shares = share_out(
        {"orders": 1, "later": 0},
        {"a": Claim(frozenset({"orders", "later"}), orders(0, 9), 1)},
    )

    assert shares.given == {"a": orders(0)}


def test_a_worker_that_reads_other_topics_gets_none_of_the_rest() -> None:
    shares = share_out(
        {"orders": 2, "hints": 2}, {"a": Claim(ORDERS), "b": Claim(frozenset({"hints"}))}
    )

    assert shares.given["a"] == orders(0, 1)
    assert shares.given["b"] == {("hints", 0), ("hints", 1)}


def test_topics_of_the_same_size_go_together() -> None:
    both = frozenset({"orders", "hints"})

    shares = share_out({"orders": 3, "hints": 3}, {"a": Claim(both), "b": Claim(both)})

    for share in shares.given.values():
        assert {n for topic, n in share if topic == "orders"} == {
            n for topic, n in share if topic == "hints"
        }


def test_a_topic_that_is_added_goes_to_who_has_that_partition_of_the_others() -> None:
    both = frozenset({"orders", "hints"})
    members = {"a": Claim(both, orders(1), 4), "b": Claim(both, orders(0), 4)}

    shares = share_out({"orders": 2, "hints": 2}, members)

    assert shares.given == {"a": orders(1) | {("hints", 1)}, "b": orders(0) | {("hints", 0)}}
    assert not shares.withheld


def settle(partitions: dict[str, int], members: dict[str, Claim]) -> tuple[list[Shares], int]:
    """Let members let go and rejoin until everything is given away."""
    rounds: list[Shares] = []
    for generation in range(20):
        shares = share_out(partitions, members)
        rounds.append(shares)
        if not shares.withheld:
            return rounds, generation
        members = {
            name: Claim(members[name].topics, frozenset(given), generation + 10)
            for name, given in shares.given.items()
        }
    raise AssertionError("it never ends")


TOPIC_COUNTS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 9), min_size=1)


@st.composite
def groups(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, Claim]]:
    partitions = draw(TOPIC_COUNTS)
    places = [(topic, number) for topic, count in partitions.items() for number in range(count)]
    names = draw(st.lists(st.sampled_from("vwxyz"), min_size=1, unique=True))
    members = {}
    for name in names:
        owned = draw(st.sets(st.sampled_from(places))) if places else set()
        generation = draw(st.integers(1, 3))
        members[name] = Claim(frozenset(partitions), frozenset(owned), generation)
    return partitions, members


@given(groups())
def test_in_the_end_everybody_has_the_same_of_each_topic_or_one_more(
    group: tuple[dict[str, int], dict[str, Claim]],
) -> None:
    partitions, members = group

    rounds, _ = settle(partitions, members)

    last = rounds[-1].given
    everything = [place for given in last.values() for place in given]
    assert Counter(everything) == Counter(
        (topic, number) for topic, count in partitions.items() for number in range(count)
    )
    for topic in partitions:
        counts = [sum(place[0] == topic for place in given) for given in last.values()]
        assert max(counts) - min(counts) <= 1
    totals = [len(given) for given in last.values()]
    assert max(totals) - min(totals) <= len(partitions)


@given(groups())
def test_nobody_gets_what_another_one_still_claims(
    group: tuple[dict[str, int], dict[str, Claim]],
) -> None:
    partitions, members = group

    shares = share_out(partitions, members)

    for name, share in shares.given.items():
        others = {place for each in members if each != name for place in members[each].owned}
        newest = {
            place: max(claim.generation for claim in members.values() if place in claim.owned)
            for place in others
        }
        assert not {
            place
            for place in share & others
            if place not in members[name].owned or members[name].generation < newest[place]
        }


@given(groups())
def test_what_is_settled_stays_as_it_is(group: tuple[dict[str, int], dict[str, Claim]]) -> None:
    partitions, members = group
    rounds, _ = settle(partitions, members)
    owned = {
        name: Claim(members[name].topics, frozenset(given), 99)
        for name, given in rounds[-1].given.items()
    }

    again = share_out(partitions, owned)

    assert again.given == rounds[-1].given
    assert not again.withheld
