"""Which records are too old to be started."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowguard.chunk import Chunk, Slice
from flowguard.control.age import newest_born_ns, young_rows
from flowguard.intake.chunks import Arrival
from flowguard.units import MILLISECOND, SECOND
from tests.builders import EPOCH_MS, chunk_of

MAX_AGE_NS = 10 * SECOND


def read(ages_ms: list[int], at_ns: int = 100 * SECOND) -> Chunk:
    """Return records that were so old when they were read; less than nothing: of the future."""
    timestamps = [EPOCH_MS - age for age in ages_ms]
    chunk = chunk_of(range(len(ages_ms)), timestamps=timestamps)
    chunk.fetched_ns = at_ns
    chunk.born_ns = Arrival(at_ns, EPOCH_MS).born_ns(chunk.first_timestamp_ms)
    return chunk


def young(chunk: Chunk, now_ns: int) -> list[bool]:
    rows = young_rows(Slice(chunk, 0, chunk.num_records), now_ns=now_ns, max_age_ns=MAX_AGE_NS)
    if isinstance(rows, str):
        return [rows == "all"] * chunk.num_records
    return rows.to_pylist()


def test_a_record_as_old_as_permitted_is_young():
    chunk = read([10_000, 9_999, 10_001])

    assert young(chunk, 100 * SECOND) == [True, True, False]
    assert young(chunk, 100 * SECOND + 1) == [False, True, False]


def test_waiting_makes_records_older():
    chunk = read([0, 5_000])

    assert young(chunk, 105 * SECOND) == [True, True]
    assert young(chunk, 105 * SECOND + 1) == [True, False]
    assert young(chunk, 110 * SECOND + 1) == [False, False]


def test_a_timestamp_of_the_future_ages_from_when_it_was_read():
    chunk = read([-(10**9), 1_000])

    assert young(chunk, 110 * SECOND) == [True, False]
    assert young(chunk, 110 * SECOND + 1) == [False, False]


@given(
    ages_ms=st.lists(st.integers(-20_000, 20_000), min_size=1, max_size=20),
    waited_ns=st.integers(0, 20 * SECOND),
    data=st.data(),
)
def test_each_record_is_judged_by_its_own_age(
    ages_ms: list[int], waited_ns: int, data: st.DataObject
):
    chunk = read(ages_ms)
    start = data.draw(st.integers(0, len(ages_ms) - 1))
    piece = Slice(chunk, start, len(ages_ms) - start)
    now_ns = chunk.fetched_ns + waited_ns

    rows = young_rows(piece, now_ns=now_ns, max_age_ns=MAX_AGE_NS)

    wanted = [max(0, age) * MILLISECOND + waited_ns <= MAX_AGE_NS for age in ages_ms[start:]]
    found = [rows == "all"] * piece.count if isinstance(rows, str) else rows.to_pylist()
    assert found == wanted
    assert (now_ns - newest_born_ns(piece) > MAX_AGE_NS) == (not any(wanted))
