"""Chance, from a seed: the same seed gives the same run, on any machine.

Each part of a run draws from a generator of its own, named after what it is for, so that a
fault more or a stream less does not change what the others draw.
"""

from __future__ import annotations

import random
from array import array
from itertools import accumulate
from math import exp, lgamma, log, sqrt
from typing import Final

import polars as pl
import pyarrow as pa

__all__ = ["Chance", "lognormal", "poisson", "uniforms", "zipf_shares"]

#: Above this mean, counts are drawn by rejection, which takes the same time for any mean.
REJECTION_FROM: Final = 16.0


class Chance:
    """Generators of random numbers, one for each name.

    Args:
        seed: Of all of them.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def of(self, name: str) -> random.Random:
        """Return a generator; the same name gives the same numbers."""
        return random.Random(f"{self.seed}/{name}")


def poisson(rng: random.Random, mean: float) -> int:
    """Draw a Poisson count."""
    if mean <= 0.0:
        return 0
    if mean < REJECTION_FROM:
        count, left = 0, rng.random()
        share = exp(-mean)
        while left > share and count < 200:
            left -= share
            count += 1
            share *= mean / count
        return count
    return poisson_by_rejection(rng, mean)


def poisson_by_rejection(rng: random.Random, mean: float) -> int:
    """Draw a Poisson count of a large mean.

    Source: W. Hörmann, The transformed rejection method for generating Poisson random
    variables, Insurance: Mathematics and Economics 12 (1993), algorithm PTRS.
    """
    log_mean = log(mean)
    b = 0.931 + 2.53 * sqrt(mean)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    v_r = 0.9277 - 3.6224 / (b - 2.0)
    while True:
        u = rng.random() - 0.5
        v = rng.random()
        us = 0.5 - abs(u)
        count = int((2.0 * a / us + b) * u + mean + 0.43) if us > 0 else -1
        if us >= 0.07 and v <= v_r and count >= 0:
            return count
        if count < 0 or (us < 0.013 and v > us) or v == 0.0:
            continue
        accepted = log(v * inverse_alpha / (a / (us * us) + b))
        if accepted <= count * log_mean - mean - lgamma(count + 1.0):
            return count


def lognormal(rng: random.Random, sigma: float) -> float:
    """Draw a factor whose mean is 1 and whose logarithm has this standard deviation."""
    if sigma == 0.0:
        return 1.0
    return exp(rng.gauss(0.0, sigma) - sigma * sigma / 2)


def uniforms(rng: random.Random, count: int) -> pl.Series:
    """Draw so many numbers from 0 to below 1, as a column."""
    drawn = pa.py_buffer(rng.randbytes(4 * count))
    bits = pl.Series(pa.UInt32Array.from_buffers(pa.uint32(), count, [None, drawn]))
    return bits.cast(pl.Float64) * 2.0**-32


def zipf_shares(count: int, s: float) -> array[float]:
    """Return, for each of so many keys, the share of all records up to and with it."""
    weights = [rank**-s for rank in range(1, count + 1)]
    total = sum(weights)
    return array("d", (each / total for each in accumulate(weights)))
