"""What windows have shown of each limit, by two witnesses, and how far they can be trusted.

A reading is the time of a seat that a batch takes, as a logarithm, so that differences are
ratios. Goodput says it, measured as work that was finished; service time says it, too, and is
less noisy where batches are few or unequal. They are combined by their variances.

    variance of a reading = what batches differ by, within a window (`service_error` and
                            `goodput_error`) + what windows differ by (the noise, learnt here)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log
from typing import Final, NamedTuple

from flowguard.control.limit import Window
from flowguard.units import SECOND

__all__ = ["Level", "Noise", "Reading", "Said", "combine"]

#: What was measured counts this much less with each window.
KEEP: Final = 0.985

#: A mean follows what is measured: it never counts for more than so many windows.
WINDOWS_COUNTED: Final = 10.0

#: What counts for less than a hundredth of a noisy window is forgotten.
PRECISION_MIN: Final = 0.1

#: What windows are taken to differ by at first, and at least, as deviations.
NOISE_FIRST: Final = 0.1
NOISE_MIN: Final = 0.02

#: Weight of a window in the noise, at least; and of how many the first value counts.
NOISE_SHARE: Final = 0.05
NOISE_PRIOR: Final = 5

#: A reading further off than this counts as that far: it is a surprise, no noise.
CLIP_SQUARE: Final = 9.0


class Said(NamedTuple):
    """What one witness says, with its variance."""

    value: float
    variance: float


class Reading(NamedTuple):
    """What both say; of a window, of a limit, or of the difference between two."""

    goodput: Said
    service: Said

    def minus(self, other: Reading) -> Reading:
        """Return the difference; the variances add up."""
        return Reading(
            *(
                Said(mine.value - its.value, mine.variance + its.variance)
                for mine, its in zip(self, other, strict=True)
            )
        )


def combine(reading: Reading) -> tuple[float, float]:
    """Return what both say together, and its deviation.

    The quieter witness counts for more. They saw the same batches, so two that agree are
    hardly better than one.
    """
    total = value = deviation = 0.0
    for said in reading:
        weight = 1.0 / said.variance
        total += weight
        value += weight * said.value
        deviation += said.variance**-0.5
    return value / total, deviation / total


@dataclass(slots=True)
class Noise:
    """What windows differ by beyond what their batches explain, as variances."""

    goodput: float = NOISE_FIRST**2
    service: float = NOISE_FIRST**2
    windows: int = 0

    def read(self, window: Window) -> Reading:
        """Return what a window says."""
        busy = window.in_flight_mean
        # The time that refused batches took is lost to those that ended well.
        served = max(1e-6, 1.0 - window.dropped_share)
        return Reading(
            Said(log(busy / window.goodput_per_s), self.goodput + window.goodput_error**2),
            Said(
                log(max(1.0, window.service_ns) / SECOND / served),
                self.service + window.service_error**2,
            ),
        )

    def learn(self, off: Reading) -> None:
        """Learn from how far a window was from what was known of its limit."""
        self.windows += 1
        share = max(NOISE_SHARE, 1.0 / (NOISE_PRIOR + self.windows))
        self.goodput = learnt(self.goodput, off.goodput, share)
        self.service = learnt(self.service, off.service, share)


def learnt(noise: float, off: Said, share: float) -> float:
    """Return the noise after one more window."""
    explained = off.variance - noise
    square = min(off.value**2, CLIP_SQUARE * off.variance)
    return float(max(NOISE_MIN**2, noise + share * (square - explained - noise)))


@dataclass(slots=True)
class Mean:
    """A mean weighted by variances, which forgets."""

    value: float = 0.0
    precision: float = 0.0

    def add(self, said: Said) -> None:
        precision = 1.0 / said.variance
        self.precision = min(self.precision + precision, WINDOWS_COUNTED * precision)
        self.value += (said.value - self.value) * precision / self.precision

    @property
    def said(self) -> Said:
        return Said(self.value, 1.0 / self.precision)


@dataclass(slots=True)
class Level:
    """What was measured at one limit."""

    goodput: Mean = field(default_factory=Mean)
    service: Mean = field(default_factory=Mean)

    @property
    def known(self) -> bool:
        """Tell whether anything was."""
        return self.goodput.precision > 0.0

    @property
    def counts(self) -> bool:
        """Tell whether what is known still counts for anything, or is about to be."""
        return not self.known or self.goodput.precision > PRECISION_MIN

    @property
    def reading(self) -> Reading:
        """Return what is known."""
        return Reading(self.goodput.said, self.service.said)

    def add(self, reading: Reading) -> None:
        """Take in a window."""
        self.goodput.add(reading.goodput)
        self.service.add(reading.service)

    def forget(self, keep: float = KEEP) -> None:
        """Let what is known count less."""
        self.goodput.precision *= keep
        self.service.precision *= keep
