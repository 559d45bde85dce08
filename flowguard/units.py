"""Quantities as people write them: durations, sizes and rates.

A quantity is text (`"50ms"`, `"20GiB"`, `"5k/s"`), a `timedelta`, or a number in
seconds or bytes, as in Faust. Inside flowguard durations are integers in
nanoseconds (`_ns`) and sizes integers in bytes (`_bytes`).
"""

from __future__ import annotations

import re
from datetime import timedelta
from math import inf
from typing import Final

from flowguard.errors import ConfigError

__all__ = [
    "KIB",
    "MIB",
    "MICROSECOND",
    "MILLISECOND",
    "SECOND",
    "Duration",
    "Size",
    "duration_ns",
    "format_duration",
    "format_size",
    "rate_per_s",
    "size_bytes",
]

Duration = str | int | float | timedelta
Size = str | int | float

MICROSECOND: Final = 1_000
MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000

KIB: Final = 1024
MIB: Final = 1024 * KIB

DURATION_UNITS: Final = {
    "ns": 1,
    "us": MICROSECOND,
    "µs": MICROSECOND,
    "ms": MILLISECOND,
    "s": SECOND,
    "m": 60 * SECOND,
    "min": 60 * SECOND,
    "h": 3600 * SECOND,
    "d": 86400 * SECOND,
}
SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "k": 1000,
    "kb": 1000,
    "m": 1000**2,
    "mb": 1000**2,
    "g": 1000**3,
    "gb": 1000**3,
    "t": 1000**4,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}
COUNT_UNITS: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3}
PER_UNITS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600}

QUANTITY: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*$")
RATE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]?)\s*/\s*([A-Za-z]+)\s*$")


def duration_ns(value: Duration, *, name: str = "duration") -> int:
    """Return a duration in nanoseconds; plain numbers are seconds.

    Raises:
        ConfigError: The text is no duration, or it is negative.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        match = QUANTITY.match(value)
        if match is None or match[2].lower() not in DURATION_UNITS:
            raise ConfigError(
                f'{name}={value!r} is no duration; write it like "50ms", "5s" or "2h"'
            )
        return round(float(match[1]) * DURATION_UNITS[match[2].lower()])
    if is_no_amount(value):
        raise ConfigError(
            f'{name}={value!r} is no duration; write it like "50ms" or 0.05 (seconds)'
        )
    return round(value * SECOND)


def size_bytes(value: Size, *, name: str = "size") -> int:
    """Return a size in bytes; plain numbers are bytes.

    Raises:
        ConfigError: The text is no size, or it is negative.
    """
    if isinstance(value, str):
        match = QUANTITY.match(value)
        if match is None or match[2].lower() not in SIZE_UNITS:
            raise ConfigError(f'{name}={value!r} is no size; write it like "512MiB" or "20GB"')
        return round(float(match[1]) * SIZE_UNITS[match[2].lower()])
    if is_no_amount(value):
        raise ConfigError(
            f'{name}={value!r} is no size; write it like "512MiB" or a number of bytes'
        )
    return round(value)


def rate_per_s(value: str | int | float, *, name: str = "rate") -> float:
    """Return a rate per second; plain numbers are per second.

    Raises:
        ConfigError: The text is no rate, or it is negative.
    """
    if isinstance(value, str):
        match = RATE.match(value)
        if (
            match is None
            or match[2].lower() not in COUNT_UNITS
            or match[3].lower() not in PER_UNITS
        ):
            raise ConfigError(f'{name}={value!r} is no rate; write it like "5k/s" or "300/min"')
        return float(match[1]) * COUNT_UNITS[match[2].lower()] / PER_UNITS[match[3].lower()]
    if is_no_amount(value):
        raise ConfigError(
            f'{name}={value!r} is no rate; write it like "5k/s" or a number per second'
        )
    return float(value)


def is_no_amount(value: object) -> bool:
    """Tell whether a value is anything but a number from 0 on; infinity and NaN are none."""
    return isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < inf


def format_duration(seconds: float) -> str:
    """Return a duration as people read it: `"3.4 ms"`, `"2.0 s"`."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min"


def format_size(num_bytes: float) -> str:
    """Return a size as people read it: `"12.3 MiB"`."""
    for unit in ("B", "KiB", "MiB"):
        if abs(num_bytes) < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"
