"""How many records an arrival model offers in each small bin of time.

    model ─▶ rate of each bin ─▶ count of each bin

Most models are a rate that changes, with Poisson counts around it; the others say how many
come at once, or let records bring further records.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log, pi, sin
from typing import TYPE_CHECKING, Any, Final

from flowguard.errors import ConfigError
from flowguard.stress.arrivals import (
    BatchDump,
    Constant,
    Diurnal,
    Flash,
    Hawkes,
    Mmpp,
    Model,
    Poisson,
    Ramp,
    Step,
    SyncBurst,
    Trace,
    Viral,
)
from flowguard.stress.chance import poisson
from flowguard.stress.trace import Intervals, Recorded
from flowguard.units import MILLISECOND, SECOND

if TYPE_CHECKING:
    import random

__all__ = ["BIN_NS", "RECORDS_MAX", "Bins", "counts_of", "rate_of"]

#: Records inside one bin are spread evenly, so a bin is shorter than any target.
BIN_NS: Final = 5 * MILLISECOND

#: More than this is a mistake in a scenario, and would not fit into memory.
RECORDS_MAX: Final = 50_000_000

#: Inside an interval of a trace the rate jumps between these factors, so many times.
ROUGH_FACTORS: Final = (0.4, 1.6)
ROUGH_TURNS: Final = 8


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of a stream: the first begins at 0.

    Args:
        count: How many.
        ns: How long each is.
    """

    count: int
    ns: int = BIN_NS

    @classmethod
    def over(cls, length_ns: int) -> Bins:
        """Return the bins of a time."""
        return cls(-(-length_ns // BIN_NS))

    def middle_ns(self, number: int) -> int:
        """Return the middle of a bin."""
        return number * self.ns + self.ns // 2

    @property
    def seconds(self) -> float:
        """Return how long one is."""
        return self.ns / SECOND

    @property
    def length_ns(self) -> int:
        """Return how long all are."""
        return self.count * self.ns


def counts_of(
    model: Model, rng: random.Random, bins: Bins, recorded: Recorded | None = None
) -> array[int]:
    """Return the number of records of each bin.

    Args:
        model: When records come.
        rng: Where chance comes from.
        recorded: What the file of a trace holds, in the time of the scenario.

    Raises:
        ConfigError: There are too many.
    """
    if isinstance(model, Trace):
        assert recorded is not None, "a trace has been read before"
        counts = counts_of_trace(model, recorded, rng, bins)
    elif (rate := rate_of(model, bins.length_ns)) is not None:
        counts = noisy([rate(bins.middle_ns(number)) for number in range(bins.count)], rng, bins)
    else:
        counts = OTHERS[type(model)](model, rng, bins)
    if sum(counts) > RECORDS_MAX:
        raise ConfigError(
            f"the arrivals are {sum(counts):,} records, and at most {RECORDS_MAX:,} fit; use "
            f"lower rates or a shorter duration"
        )
    return counts


def noisy(rates: list[float], rng: random.Random, bins: Bins) -> array[int]:
    """Return Poisson counts of a rate that changes.

    Raises:
        ConfigError: There will be too many.
    """
    seconds = bins.seconds
    if sum(rates) * seconds > 2 * RECORDS_MAX:
        raise ConfigError(
            f"the arrivals are {sum(rates) * seconds:,.0f} records, and at most {RECORDS_MAX:,} "
            f"fit; use lower rates or a shorter duration"
        )
    return array("q", (poisson(rng, rate * seconds) for rate in rates))


# Rates.


def rate_of(model: Model, length_ns: int) -> Callable[[int], float] | None:
    """Return the rate per second at each instant, None if that is not what the model is about."""
    match model:
        case Poisson():
            return lambda at_ns: model.rate_per_s
        case Step():
            return lambda at_ns: model.rate_per_s if at_ns < model.begin_ns else model.to_per_s
        case Ramp():
            return lambda at_ns: ramp(model, at_ns, length_ns)
        case Flash():
            return lambda at_ns: flash(model, at_ns)
        case Viral():
            return lambda at_ns: viral(model, at_ns)
        case Diurnal():
            return lambda at_ns: diurnal(model, at_ns)
    return None


def ramp(model: Ramp, at_ns: int, length_ns: int) -> float:
    over_ns = model.over_ns or length_ns - model.begin_ns
    done = min(1.0, max(0.0, (at_ns - model.begin_ns) / max(1, over_ns)))
    return model.rate_per_s + (model.to_per_s - model.rate_per_s) * done


def flash(model: Flash, at_ns: int) -> float:
    since_ns = at_ns - model.begin_ns
    if since_ns < 0:
        return model.rate_per_s
    height = min(1.0, since_ns / max(1, model.rise_ns))
    after_ns = max(0, since_ns - model.rise_ns - model.hold_ns)
    if after_ns:
        height = exp(-after_ns / model.decay_ns) if model.decay_ns else 0.0
    return model.rate_per_s * (1 + (model.factor - 1) * height)


def viral(model: Viral, at_ns: int) -> float:
    # From a tenth to nine tenths a logistic curve takes 2 ln 9 of its time scale.
    scale_ns = max(1.0, model.growth_ns / (2 * log(9)))
    height = 1 / (1 + exp(min(700.0, (model.middle_ns - at_ns) / scale_ns)))
    if model.fade_ns and at_ns > model.fade_ns:
        height *= (1 + (at_ns - model.fade_ns) / max(1, model.decay_ns)) ** -model.power
    return model.rate_per_s * (1 + (model.factor - 1) * height)


def diurnal(model: Diurnal, at_ns: int) -> float:
    turn = 2 * pi * (at_ns / model.period_ns + model.phase)
    return model.rate_per_s * (1 + model.swing * sin(turn))


# What is no rate.


def constant(model: Constant, rng: random.Random, bins: Bins) -> array[int]:
    per_bin = model.rate_per_s * bins.seconds
    ends = [int(per_bin * number + 1e-9) for number in range(bins.count + 1)]
    return array("q", (end - begin for begin, end in pairwise(ends)))


def mmpp(model: Mmpp, rng: random.Random, bins: Bins) -> array[int]:
    lasts = [max(1, model.low_for_ns), max(1, model.high_for_ns)]
    rates = [model.low_per_s, model.high_per_s]
    high = rng.random() < lasts[1] / sum(lasts)
    return noisy(jumping(rates, lasts, int(high), rng, bins), rng, bins)


def jumping(
    values: list[float], lasts_ns: list[int], now: int, rng: random.Random, bins: Bins
) -> list[float]:
    """Return for each bin the mean of a value that jumps between two after random times."""
    means, left_ns = [], rng.expovariate(1.0) * lasts_ns[now]
    for _ in range(bins.count):
        mean, todo_ns = 0.0, float(bins.ns)
        while left_ns < todo_ns:
            mean += values[now] * left_ns
            todo_ns -= left_ns
            now = 1 - now
            left_ns = rng.expovariate(1.0) * lasts_ns[now]
        left_ns -= todo_ns
        means.append((mean + values[now] * todo_ns) / bins.ns)
    return means


def hawkes(model: Hawkes, rng: random.Random, bins: Bins) -> array[int]:
    """Let each record bring `branching` others in the bins after its own.

    Counts by bin instead of Ogata's thinning, so that it costs the same at any rate; bins
    are much shorter than the memory.
    """
    left = exp(-bins.ns / model.memory_ns)
    base = model.rate_per_s * bins.seconds
    counts = array("q")
    # Excitement as in the middle of a long run, or the beginning would be too quiet.
    excited = base * model.branching / (1 - model.branching)
    for _ in range(bins.count):
        count = poisson(rng, base + excited)
        counts.append(count)
        excited = excited * left + count * model.branching * (1 - left)
    return counts


def sync_burst(model: SyncBurst, rng: random.Random, bins: Bins) -> array[int]:
    counts = noisy([model.rate_per_s] * bins.count, rng, bins)
    for at_ns in range(model.begin_ns, bins.length_ns, model.every_ns):
        spread(counts, at_ns, model.within_ns, model.count, bins)
    return counts


def batch_dump(model: BatchDump, rng: random.Random, bins: Bins) -> array[int]:
    counts = array("q", bytes(8 * bins.count))
    spread(counts, model.begin_ns, model.over_ns, model.count, bins)
    return counts


def spread(counts: array[int], begin_ns: int, over_ns: int, count: int, bins: Bins) -> None:
    """Add records, evenly over a time; what comes after the last bin is left out."""
    first = begin_ns // bins.ns
    number = max(1, -(-over_ns // bins.ns))
    for n in range(number):
        if first + n < len(counts):
            counts[first + n] += count * (n + 1) // number - count * n // number


OTHERS: Final[Mapping[type[Any], Callable[[Any, random.Random, Bins], array[int]]]] = {
    Constant: constant, Mmpp: mmpp, Hawkes: hawkes, SyncBurst: sync_burst, BatchDump: batch_dump,
}  # fmt: skip


# Traces.


def counts_of_trace(model: Trace, recorded: Recorded, rng: random.Random, bins: Bins) -> array[int]:
    """Return the counts of what really happened, amplified."""
    factor = model.amplify
    if model.rate_per_s:
        length_s = min(recorded.length_ns, bins.length_ns) / SECOND
        total = recorded.total_until(bins.length_ns)
        factor = model.rate_per_s * length_s / total if total else 0.0
    if isinstance(recorded, Intervals):
        return noisy(rates_of_intervals(model, recorded, factor, rng, bins), rng, bins)
    counts = array("q", bytes(8 * bins.count))
    for at_ns in recorded.instants_ns:
        if at_ns < bins.length_ns:
            counts[at_ns // bins.ns] += 1
    return array("q", (amplified(count, factor, rng) for count in counts))


def amplified(count: int, factor: float, rng: random.Random) -> int:
    """Return a count times a factor; the part of it that is no whole number by chance."""
    whole = int(count * factor)
    return whole + (rng.random() < count * factor - whole)


def rates_of_intervals(
    model: Trace, recorded: Intervals, factor: float, rng: random.Random, bins: Bins
) -> list[float]:
    """Return the rate of each bin, from counts of long intervals."""
    per_s = [each * factor * SECOND / recorded.interval_ns for each in recorded.counts]
    rates = [
        per_s[at] if (at := int(bins.middle_ns(n) / recorded.interval_ns)) < len(per_s) else 0.0
        for n in range(bins.count)
    ]
    if not model.rough:
        return rates
    lasts_ns = [max(1, int(recorded.interval_ns / ROUGH_TURNS))] * 2
    rough = jumping(list(ROUGH_FACTORS), lasts_ns, rng.randrange(2), rng, bins)
    return [rate * each for rate, each in zip(rates, rough, strict=True)]
