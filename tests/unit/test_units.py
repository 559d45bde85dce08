"""Quantities as people write them."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowguard.errors import ConfigError
from flowguard.units import (
    duration_ns,
    format_duration,
    format_size,
    rate_per_s,
    size_bytes,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("50ms", 50_000_000),
        ("1.5s", 1_500_000_000),
        ("5 s", 5_000_000_000),
        ("250us", 250_000),
        ("250µs", 250_000),
        ("7ns", 7),
        ("2m", 120_000_000_000),
        ("2min", 120_000_000_000),
        ("2h", 7_200_000_000_000),
        ("1d", 86_400_000_000_000),
        ("5MS", 5_000_000),
        (0.05, 50_000_000),
        (3, 3_000_000_000),
        (0, 0),
        (timedelta(milliseconds=5), 5_000_000),
    ],
)
def test_durations_are_nanoseconds(value, expected):
    assert duration_ns(value) == expected


@pytest.mark.parametrize(
    "value", ["", "50", "ms", "-5s", "5 parsecs", -1, float("nan"), float("inf"), True, None,
              timedelta(seconds=-1)]
)  # fmt: skip
def test_what_is_no_duration_is_an_error_that_names_the_option(value):
    with pytest.raises(ConfigError, match="linger="):
        duration_ns(value, name="linger")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("512MiB", 512 * 1024**2),
        ("20GiB", 20 * 1024**3),
        ("1.5KiB", 1536),
        ("20GB", 20 * 1000**3),
        ("10k", 10_000),
        ("1TiB", 1024**4),
        ("12b", 12),
        ("12", 12),
        (4096, 4096),
    ],
)
def test_sizes_are_bytes(value, expected):
    assert size_bytes(value) == expected


@pytest.mark.parametrize(
    "value", ["", "MiB", "-1KiB", "5 apples", -1, float("nan"), float("inf"), True, None]
)
def test_what_is_no_size_is_an_error_that_names_the_option(value):
    with pytest.raises(ConfigError, match="memory="):
        size_bytes(value, name="memory")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("5k/s", 5000.0), ("300/min", 5.0), ("1M/h", 1e6 / 3600), ("10 / s", 10.0), (2.5, 2.5)],
)
def test_rates_are_per_second(value, expected):
    assert rate_per_s(value) == expected


@pytest.mark.parametrize("value", ["", "5k", "/s", "5/fortnight", -1, float("nan"), True])
def test_what_is_no_rate_is_an_error(value):
    with pytest.raises(ConfigError, match="rate="):
        rate_per_s(value)


@given(st.integers(0, 10**15))
def test_a_duration_written_in_nanoseconds_is_read_back(value):
    assert math.isclose(duration_ns(f"{value}ns"), value, rel_tol=1e-15)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0000034, "3 µs"), (0.0034, "3.4 ms"), (2, "2.0 s"), (90, "90.0 s"), (600, "10.0 min")],
)
def test_durations_are_shown_as_people_read_them(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(5, "5 B"), (1536, "1.5 KiB"), (12.3 * 1024**2, "12.3 MiB"), (5 * 1024**4, "5120.0 GiB")],
)
def test_sizes_are_shown_as_people_read_them(num_bytes, text):
    assert format_size(num_bytes) == text
