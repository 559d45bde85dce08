"""Arrival models: their mean rates, their burstiness, and the plan that is made of them."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, pvariance

import polars as pl
import pytest

from flowguard.errors import ConfigError
from flowguard.stress.arrivals import (
    BatchDump,
    Constant,
    Diurnal,
    Flash,
    Hawkes,
    Keys,
    Mmpp,
    Model,
    Poisson,
    Ramp,
    Step,
    SyncBurst,
    Trace,
    Viral,
)
from flowguard.stress.chance import Chance
from flowguard.stress.counts import BIN_NS, Bins, counts_of
from flowguard.stress.plan import NO_KEY, Plan, keys_of, plan_of, sizes_of
from flowguard.stress.scenario import parse_scenario
from flowguard.stress.trace import Events, Intervals
from flowguard.units import MILLISECOND, SECOND

MINUTE = Bins.over(60 * SECOND)
PER_S = SECOND // BIN_NS


def counted(model: Model, seed: int = 1, bins: Bins = MINUTE) -> list[int]:
    return list(counts_of(model, Chance(seed).of("test"), bins))


def by_second(counts: list[int]) -> list[int]:
    return [sum(counts[at : at + PER_S]) for at in range(0, len(counts), PER_S)]


def dispersion(counts: list[int]) -> float:
    """Return variance by mean: 1 for Poisson, more for bursts."""
    return pvariance(counts) / fmean(counts)


def autocorrelation(counts: list[int], lag: int) -> float:
    mean = fmean(counts)
    pairs = zip(counts, counts[lag:], strict=False)
    return fmean((a - mean) * (b - mean) for a, b in pairs) / pvariance(counts)


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        (Constant(rate_per_s=333.0), 333.0),
        (Poisson(rate_per_s=1_000.0), 1_000.0),
        (Step(rate_per_s=500.0, to_per_s=1_500.0, begin_ns=30 * SECOND), 1_000.0),
        (Ramp(rate_per_s=0.0, to_per_s=2_000.0), 1_000.0),
        (Mmpp(low_per_s=500.0, high_per_s=1_500.0), 1_000.0),
        (Hawkes(rate_per_s=200.0, branching=0.8), 1_000.0),
        (Diurnal(rate_per_s=1_000.0, period_ns=20 * SECOND), 1_000.0),
        (SyncBurst(rate_per_s=500.0, count=500, every_ns=SECOND), 1_000.0),
        (BatchDump(count=60_000), 1_000.0),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_model_offers_its_mean_rate(model: Model, rate: float) -> None:
    means = [sum(counted(model, seed)) / 60 for seed in range(5)]

    assert fmean(means) == pytest.approx(rate, rel=0.05)


def test_constant_is_even_and_poisson_has_the_dispersion_of_one() -> None:
    even = counted(Constant(rate_per_s=1_000.0))
    poisson = counted(Poisson(rate_per_s=1_000.0))

    assert set(even) == {5}
    assert dispersion(poisson) == pytest.approx(1.0, abs=0.1)
    assert abs(autocorrelation(poisson, 1)) < 0.05


@pytest.mark.parametrize(
    "model",
    [
        Hawkes(rate_per_s=200.0, branching=0.8),
        Mmpp(low_per_s=500.0, high_per_s=1_500.0, low_for_ns=SECOND, high_for_ns=SECOND),
    ],
    ids=["hawkes", "mmpp"],
)
def test_models_of_bursts_are_bursty_and_remember(model: Model) -> None:
    counts = counted(model)

    assert dispersion(by_second(counts)) > 5
    assert autocorrelation(counts, 1) > 0.1
    assert autocorrelation(counts, 4) > 0.1


def test_a_step_changes_the_rate_at_its_instant() -> None:
    seconds = by_second(counted(Step(rate_per_s=100.0, to_per_s=10_000.0, begin_ns=10 * SECOND)))

    assert max(seconds[:10]) < 200 < 9_000 < min(seconds[10:])


def test_a_flash_crowd_rises_stays_and_goes() -> None:
    model = Flash(
        rate_per_s=1_000.0, factor=10.0, begin_ns=10 * SECOND, rise_ns=2 * SECOND,
        hold_ns=20 * SECOND, decay_ns=2 * SECOND,
    )  # fmt: skip

    seconds = by_second(counted(model))

    assert fmean(seconds[:10]) == pytest.approx(1_000, rel=0.05)
    assert seconds[10] < seconds[11] < seconds[12]
    assert fmean(seconds[12:32]) == pytest.approx(10_000, rel=0.02)
    assert seconds[33] > seconds[35] > seconds[38]
    assert fmean(seconds[50:]) == pytest.approx(1_000, rel=0.05)


def test_viral_growth_is_half_way_in_its_middle_and_fades_by_a_power() -> None:
    model = Viral(
        rate_per_s=1_000.0, factor=21.0, middle_ns=20 * SECOND, growth_ns=10 * SECOND,
        fade_ns=40 * SECOND, decay_ns=10 * SECOND, power=1.0,
    )  # fmt: skip

    seconds = by_second(counted(model))

    assert fmean(seconds[19:21]) == pytest.approx(11_000, rel=0.05)
    assert seconds[15] == pytest.approx(1_000 + 20_000 * 0.12, rel=0.1)
    assert seconds[39] == pytest.approx(21_000, rel=0.05)
    assert seconds[50] == pytest.approx(1_000 + 20_000 * 0.49, rel=0.1)


def test_day_and_night_are_half_a_period_apart() -> None:
    seconds = by_second(counted(Diurnal(rate_per_s=1_000.0, period_ns=20 * SECOND)))

    assert autocorrelation(seconds, 10) < -0.5 < 0.5 < autocorrelation(seconds, 20)


def test_bursts_come_at_their_instants_and_take_their_time() -> None:
    model = SyncBurst(count=1_000, every_ns=10 * SECOND, within_ns=100 * MILLISECOND,
                      begin_ns=SECOND)  # fmt: skip

    counts = counted(model)

    busy = [number for number, count in enumerate(counts) if count]
    assert sum(counts) == 6_000
    assert busy[:20] == list(range(PER_S, PER_S + 20))


def test_a_dump_after_the_end_is_nothing() -> None:
    assert sum(counted(BatchDump(count=10, begin_ns=61 * SECOND))) == 0


def test_the_same_seed_gives_the_same_counts_and_another_others() -> None:
    model = Hawkes(rate_per_s=100.0)

    assert counted(model, 5) == counted(model, 5)
    assert counted(model, 5) != counted(model, 6)


@pytest.mark.parametrize("model", [Poisson(rate_per_s=1e9), Constant(rate_per_s=1e9)])
def test_more_records_than_fit_are_refused_before_they_are_made(model: Model) -> None:
    with pytest.raises(ConfigError, match="at most 50,000,000 fit"):
        counted(model)


# Traces.


def test_a_trace_of_intervals_is_followed_and_scaled_to_its_rate() -> None:
    recorded = Intervals([1.0, 3.0, 1.0, 0.0] * 3, 5.0 * SECOND)
    model = Trace(rate_per_s=1_000.0, rough=False)

    counts = counts_of(model, Chance(1).of("test"), MINUTE, recorded)

    seconds = by_second(list(counts))
    assert sum(counts) / 60 == pytest.approx(1_000, rel=0.02)
    assert fmean(seconds[5:10]) == pytest.approx(3 * fmean(seconds[:5]), rel=0.05)
    assert sum(seconds[15:20]) == 0


def test_inside_an_interval_a_trace_is_rough() -> None:
    recorded = Intervals([1_000.0], 60.0 * SECOND)

    rough, smooth = (
        counts_of(Trace(rate_per_s=1_000.0, rough=each), Chance(1).of("t"), MINUTE, recorded)
        for each in (True, False)
    )

    assert dispersion(by_second(list(rough))) > 10 > 3 > dispersion(by_second(list(smooth)))


def test_each_record_of_a_trace_is_amplified_where_it_was() -> None:
    recorded = Events([0, SECOND, SECOND, 59 * SECOND], 59 * SECOND)

    counts = counts_of(Trace(amplify=2.5), Chance(1).of("test"), MINUTE, recorded)

    seconds = by_second(list(counts))
    assert seconds[0] in (2, 3) and seconds[1] in (5, 6) and seconds[59] in (2, 3)
    assert sum(seconds[2:59]) == 0


# Keys, sizes, and the plan.


def test_hot_keys_have_their_share() -> None:
    keys = keys_of(Keys(kind="hot", count=100, hot=2, share=0.6), Chance(1).of("t"), 20_000)

    counts = keys.value_counts().sort("count", descending=True)["count"]
    assert sum(counts[:2]) / 20_000 == pytest.approx(0.6, abs=0.02)
    assert keys.n_unique() == 100


def test_zipf_keys_are_as_frequent_as_their_rank_says() -> None:
    keys = keys_of(Keys(kind="zipf", count=50, s=1.0), Chance(1).of("t"), 50_000)

    first, second = keys.eq(0).sum(), keys.eq(1).sum()
    assert first / second == pytest.approx(2.0, rel=0.1)


def test_records_without_keys_have_none() -> None:
    assert set(keys_of(Keys(), Chance(1).of("t"), 10)) == {NO_KEY}


def test_sizes_lie_between_the_least_and_the_most() -> None:
    sizes = sizes_of((10, 13), Chance(1).of("t"), 1_000)

    assert set(sizes) == {10, 11, 12, 13}
    assert set(sizes_of((7, 7), Chance(1).of("t"), 5)) == {7}


PLANNED = """
[scenario]
name = "planned"
duration = "10s"
[worker]
partitions = 3
rule = "by_header"
[[worker.lanes]]
name = "realtime"
[[worker.lanes]]
name = "bulk"
[[arrivals]]
lane = "realtime"
model = "poisson"
rate = 500
[[arrivals]]
lane = "bulk"
model = "constant"
rate = 1000
at = "2s"
for = "3s"
keys = "uniform"
"""


def planned(text: str = PLANNED, seed: int = 1) -> Plan:
    return plan_of(parse_scenario(text, file="x.toml"), Chance(seed))


def test_lanes_that_share_a_topic_are_in_one_table_in_the_order_of_their_instants() -> None:
    plan = planned()

    (frame,) = plan.topics.values()
    assert list(plan.topics) == ["records"]
    assert frame["at_ns"].is_sorted()
    bulk = frame.filter(pl.col("lane") == 1)
    assert bulk.height == 3_000
    assert bulk["at_ns"].min() >= 2 * SECOND and bulk["at_ns"].max() < 5 * SECOND  # type: ignore[operator]
    assert plan.by_second(1, 10) == [0, 0, 1000, 1000, 1000, 0, 0, 0, 0, 0]


def test_a_key_is_always_in_the_same_partition_and_what_has_none_is_in_all() -> None:
    (frame,) = planned().topics.values()

    keyed = frame.filter(pl.col("key") != NO_KEY)
    assert keyed.group_by("key").agg(pl.col("partition").n_unique())["partition"].max() == 1
    assert set(frame.filter(pl.col("key") == NO_KEY)["partition"]) == {0, 1, 2}


def test_a_plan_is_the_same_for_the_same_seed_and_one_stream_does_not_change_another() -> None:
    alone = planned(PLANNED[: PLANNED.rindex("[[arrivals]]")])
    both = planned()

    assert both.topics["records"].equals(planned().topics["records"])
    ours = both.topics["records"].filter(pl.col("lane") == 0)
    assert ours["at_ns"].equals(alone.topics["records"]["at_ns"])


def test_a_trace_that_nobody_named_is_asked_for(tmp_path: Path) -> None:
    text = PLANNED.replace('model = "poisson"\nrate = 500', 'model = "trace"')

    with pytest.raises(ConfigError, match="name it with --trace FILE"):
        planned(text)
