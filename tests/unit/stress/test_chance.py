"""Random numbers: their means and spreads, and that a seed gives them again."""

from __future__ import annotations

from statistics import fmean, pvariance

import pytest

from flowguard.stress.chance import Chance, lognormal, poisson, uniforms, zipf_shares


@pytest.mark.parametrize("mean", [0.01, 0.7, 5.0, 15.9, 16.1, 40.0, 3_000.0])
def test_poisson_counts_have_their_mean_and_as_much_variance(mean: float) -> None:
    rng = Chance(1).of("test")
    count = 20_000

    drawn = [poisson(rng, mean) for _ in range(count)]

    # Five standard errors; of the variance about mean * sqrt(2 / n) for large means.
    assert fmean(drawn) == pytest.approx(mean, abs=5 * (mean / count) ** 0.5)
    assert pvariance(drawn) == pytest.approx(mean, rel=0.06 + 5 / (mean * count) ** 0.5)


def test_nothing_comes_of_a_mean_of_nothing() -> None:
    assert poisson(Chance(1).of("test"), 0.0) == 0


def test_factors_of_jitter_have_mean_one() -> None:
    rng = Chance(1).of("test")

    drawn = [lognormal(rng, 0.3) for _ in range(20_000)]

    assert fmean(drawn) == pytest.approx(1.0, abs=0.01)
    assert lognormal(rng, 0.0) == 1.0


def test_a_column_of_uniform_numbers_covers_zero_to_one() -> None:
    drawn = uniforms(Chance(1).of("test"), 20_000)

    assert drawn.min() >= 0.0 and drawn.max() < 1.0  # type: ignore[operator]
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)


def test_shares_of_zipf_end_at_one_and_fall() -> None:
    shares = zipf_shares(100, 1.2)

    gaps = [after - before for before, after in zip([0.0, *shares], shares, strict=False)]
    assert shares[-1] == pytest.approx(1.0)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] / gaps[1] == pytest.approx(2**1.2)


def test_a_name_has_numbers_of_its_own_and_a_seed_gives_them_again() -> None:
    first, again, other = Chance(3).of("a"), Chance(3).of("a"), Chance(3).of("b")

    drawn = [first.random() for _ in range(5)]

    assert drawn == [again.random() for _ in range(5)]
    assert drawn != [other.random() for _ in range(5)]
