"""Traces: what really happened, from any CSV file with timestamps.

Two kinds are told apart by looking: counts of evenly spaced intervals (`timestamp,count`),
and one row for each thing that happened. A heading is optional; the delimiter is a comma, a
semicolon or a tab.

Timestamps may be ISO 8601, with a space or a T, with or without fraction and zone; dates as
in `12/31/2024 23:59`, `31.12.2024 23:59`; or numbers: seconds, milliseconds, microseconds or
nanoseconds since 1970, or seconds from any beginning.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from flowguard.errors import ConfigError
from flowguard.suggest import nearest
from flowguard.units import SECOND

__all__ = ["EACH_ROW", "Events", "Intervals", "Recorded", "Written", "read_trace", "warped"]

#: As the name of the column of values: there is none, each row is one record.
EACH_ROW: Final = "*"

#: Evenly spaced: so many of all intervals are alike, to so much of their length.
EVEN_SHARE: Final = 0.9
EVEN_SLACK: Final = 0.02

#: Formats that ISO 8601 does not know.
FORMATS: Final = (
    "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M",
    "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M",
    "%d/%b/%Y:%H:%M:%S %z",
)  # fmt: skip

#: A number since 1970 of at least this much is in a finer unit than seconds (in the year 2001
#: there were 1e9 s, 1e12 ms, 1e15 µs).
SINCE_1970: Final = ((1e17, 1), (1e14, 1_000), (1e11, 1_000_000))

SIZE_MAX: Final = 1 << 30
INTERVALS_MAX: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Events:
    """One instant a record.

    Args:
        instants_ns: From the first one on, ascending.
        length_ns: From the first to the last.
    """

    instants_ns: Sequence[int]
    length_ns: int

    def total_until(self, end_ns: int) -> float:
        """Return how many there are before an instant."""
        return sum(1 for each in self.instants_ns if each < end_ns)


@dataclass(frozen=True, slots=True)
class Intervals:
    """How many records each interval has.

    Args:
        counts: Of each, >= 0; they need not be whole.
        interval_ns: How long each is.
    """

    counts: Sequence[float]
    interval_ns: float

    @property
    def length_ns(self) -> int:
        """Return how long all are."""
        return round(len(self.counts) * self.interval_ns)

    def total_until(self, end_ns: int) -> float:
        """Return how many records there are before an instant."""
        whole = min(len(self.counts), int(end_ns / self.interval_ns))
        part = end_ns / self.interval_ns - whole
        rest = self.counts[whole] * part if whole < len(self.counts) else 0.0
        return sum(self.counts[:whole]) + rest


Recorded = Events | Intervals


class Written(NamedTuple):
    """One row: its line, and its cells."""

    line: int
    cells: list[str]


def warped(recorded: Recorded, speed: float, *, fit_ns: int) -> Recorded:
    """Return a trace on a faster clock.

    Args:
        speed: How much faster; 0: as fast that all of it fits.
        fit_ns: Into how long it fits then.
    """
    speed = speed or max(1, recorded.length_ns) / fit_ns
    if isinstance(recorded, Intervals):
        return Intervals(recorded.counts, max(1.0, recorded.interval_ns / speed))
    return Events([int(each / speed) for each in recorded.instants_ns],
                  int(recorded.length_ns / speed))  # fmt: skip


def read_trace(path: Path, *, time: str = "", value: str = "") -> Recorded:
    """Return what a file holds.

    Args:
        time: Column of the timestamps; "": the first.
        value: Column of counts; "": the second if it looks like it; `*`: each row is a record.

    Raises:
        ConfigError: It cannot be read; the message names the line.
    """
    heading, rows = rows_of(path)
    if not rows:
        raise ConfigError(f"trace {path.name} has no rows; it needs a timestamp in each")
    time_at = column_at(time, heading, path) if time else 0
    instants_ns = read_times([cell_of(row, time_at, path) for row in rows], rows, path)
    order = sorted(range(len(rows)), key=instants_ns.__getitem__)
    first_ns = instants_ns[order[0]]
    elapsed_ns = [instants_ns[at] - first_ns for at in order]
    value_at = column_of_values(value, heading, rows, elapsed_ns, path, time_at)
    if value_at is None:
        return Events(elapsed_ns, elapsed_ns[-1])
    counts = [read_count(rows[at], value_at, path) for at in order]
    return in_intervals(elapsed_ns, counts, path)


def rows_of(path: Path) -> tuple[list[str], list[Written]]:
    """Return the heading, empty if there is none, and the rows that are not blank."""
    try:
        if path.stat().st_size > SIZE_MAX:
            raise ConfigError(f"trace {path.name} is larger than 1 GiB; cut it")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read the trace {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"trace {path.name} is no text in UTF-8") from None
    rows = list(written(text, path))
    if rows and time_of(rows[0].cells[0]) is None and not has_time(rows[0]):
        return [cell.strip() for cell in rows[0].cells], rows[1:]
    return [], rows


def written(text: str, path: Path) -> Iterator[Written]:
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield Written(reader.line_num, [cell.strip() for cell in cells])
    except csv.Error as error:
        raise ConfigError(f"trace {path.name} line {reader.line_num}: {error}") from None


def has_time(row: Written) -> bool:
    return any(time_of(cell) is not None for cell in row.cells)


def column_at(name: str, heading: list[str], path: Path) -> int:
    """Return where a column is.

    Raises:
        ConfigError: There is no such.
    """
    if name in heading:
        return heading.index(name)
    if not heading:
        raise ConfigError(f"trace {path.name} has no heading, so no column {name!r}")
    like = nearest(name, heading)
    hint = f"did you mean {like!r}?" if like else f"columns are {', '.join(heading)}"
    raise ConfigError(f"trace {path.name} has no column {name!r}; {hint}")


def cell_of(row: Written, at: int, path: Path) -> str:
    if at >= len(row.cells):
        raise ConfigError(
            f"trace {path.name} line {row.line} has {len(row.cells)} columns, and needs {at + 1}"
        )
    return row.cells[at]


# Timestamps.


def read_times(cells: list[str], rows: list[Written], path: Path) -> list[int]:
    """Return timestamps in nanoseconds, all read in the way that suits most of them.

    Raises:
        ConfigError: A row has none.
    """
    read = way_of(cells)
    times = []
    for cell, row in zip(cells, rows, strict=True):
        time = None if read is None else read(cell)
        if time is None:
            raise ConfigError(
                f"trace {path.name} line {row.line}: {cell!r} is no timestamp; use ISO 8601 or "
                f"seconds since 1970"
            )
        times.append(time)
    return times


def way_of(cells: list[str]) -> Callable[[str], int | None] | None:
    """Return how to read these timestamps: the way that most of the first can be read in."""
    some = cells[:200]
    ways: list[Callable[[str], int | None]] = [number_reader(some), iso_ns]
    ways += [format_reader(each) for each in FORMATS]
    found = [(sum(way(cell) is not None for cell in some), way) for way in ways]
    best = max(count for count, _ in found)
    if best == 0:
        return None
    return next(way for count, way in found if count == best)


def time_of(cell: str) -> int | None:
    """Return a cell as a timestamp in any way, None if it is none."""
    read = way_of([cell])
    return None if read is None else read(cell)


def number_reader(cells: list[str]) -> Callable[[str], int | None]:
    """Return how to read numbers: in the unit that the largest must be in."""
    numbers = [abs(number) for cell in cells if (number := number_of(cell)) is not None]
    largest = max(numbers, default=0.0)
    unit = next((unit for least, unit in SINCE_1970 if largest >= least), SECOND)

    def read(cell: str) -> int | None:
        if cell.isdecimal():
            return int(cell) * unit
        # A double has no room for nanoseconds since 1970.
        return None if number_of(cell) is None else round(Decimal(cell) * unit)

    return read


def number_of(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if isfinite(number) else None


def iso_ns(cell: str) -> int | None:
    """Return ISO 8601 in nanoseconds; without a zone it is UTC."""
    try:
        return epoch_ns(datetime.fromisoformat(cell))
    except ValueError:
        return None


def format_reader(form: str) -> Callable[[str], int | None]:
    def read(cell: str) -> int | None:
        try:
            return epoch_ns(datetime.strptime(cell, form))
        except ValueError:
            return None

    return read


def epoch_ns(moment: datetime) -> int:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds * 1_000


# Values.


def column_of_values(
    value: str,
    heading: list[str],
    rows: list[Written],
    elapsed_ns: list[int],
    path: Path,
    time_at: int,
) -> int | None:
    """Return the column of counts, None if each row is a record."""
    if value == EACH_ROW:
        return None
    if value:
        return column_at(value, heading, path)
    at = 1 if time_at == 0 else 0
    numeric = all(at < len(row.cells) and number_of(row.cells[at]) is not None for row in rows[:20])
    return at if numeric and is_even(elapsed_ns) else None


def is_even(elapsed_ns: list[int]) -> bool:
    """Tell whether nearly all instants are the same time apart."""
    gaps = [after - before for before, after in pairwise(elapsed_ns)]
    if not gaps:
        return False
    typical = median(gaps)
    alike = sum(abs(gap - typical) <= typical * EVEN_SLACK for gap in gaps)
    return typical > 0 and alike >= EVEN_SHARE * len(gaps)


def read_count(row: Written, at: int, path: Path) -> float:
    cell = cell_of(row, at, path)
    number = number_of(cell)
    if number is None or number < 0:
        raise ConfigError(
            f"trace {path.name} line {row.line}: {cell!r} is no number of records, from 0 on"
        )
    return number


def in_intervals(elapsed_ns: list[int], counts: list[float], path: Path) -> Intervals:
    """Return counts in intervals of the same length; what is missing is nothing.

    Raises:
        ConfigError: There are too many, because an instant is far from the others.
    """
    gaps = [after - before for before, after in pairwise(elapsed_ns)]
    interval_ns = median(gap for gap in gaps if gap > 0) if any(gaps) else SECOND
    number = round(elapsed_ns[-1] / interval_ns) + 1
    if number > INTERVALS_MAX:
        raise ConfigError(
            f"trace {path.name} has {number:,} intervals of {interval_ns / SECOND:g} s between its "
            f"first and its last timestamp; is one of them wrong?"
        )
    placed = [0.0] * number
    for at_ns, count in zip(elapsed_ns, counts, strict=True):
        placed[round(at_ns / interval_ns)] += count
    return Intervals(placed, float(interval_ns))
