"""Traces: any CSV that somebody has, and what is said about one that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowguard.errors import ConfigError
from flowguard.stress.trace import Events, Intervals, read_trace, warped
from flowguard.units import SECOND


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


@pytest.mark.parametrize(
    ("first", "second", "gap_s"),
    [
        ("2024-03-01 10:00:00", "2024-03-01 10:05:00", 300),
        ("2024-03-01T10:00:00Z", "2024-03-01T10:00:01Z", 1),
        ("2024-03-01T10:00:00+02:00", "2024-03-01T08:00:30Z", 30),
        ("2023-11-16 18:17:03.9799600", "2023-11-16 18:17:04.4799600", 0.5),
        ("2024-03-01", "2024-03-02", 86_400),
        ("2024-03-01 10:00", "2024-03-01 10:01", 60),
        ("1700000000", "1700000010", 10),
        ("1700000000.5", "1700000001.25", 0.75),
        ("1700000000000", "1700000000250", 0.25),
        ("1700000000000000", "1700000000000500", 0.0005),
        ("1700000000000000000", "1700000000000000700", 7e-7),
        ("0.0", "2.5", 2.5),
        ("12/31/2024 23:59", "01/01/2025 00:00", 60),
        ("31.12.2024 23:59:00", "31.12.2024 23:59:07", 7),
        ("2024/03/01 10:00:00", "2024/03/01 10:00:02", 2),
        ("01/Mar/2024:10:00:00 +0000", "01/Mar/2024:10:00:03 +0000", 3),
    ],
)
def test_timestamps_are_read_as_people_write_them(
    file: Path, first: str, second: str, gap_s: float
) -> None:
    recorded = read_trace(write(file, f"time,what\n{first},a\n{second},b\n"))

    assert isinstance(recorded, Events)
    assert recorded.instants_ns == [0, round(gap_s * SECOND)]


def test_evenly_spaced_rows_with_numbers_are_counts(file: Path) -> None:
    rows = "".join(f"2024-03-01 10:{minute:02}:00,{minute}.5\n" for minute in range(10))

    recorded = read_trace(write(file, "timestamp,value\n" + rows))

    assert isinstance(recorded, Intervals)
    assert recorded.interval_ns == 60 * SECOND
    assert recorded.counts == [minute + 0.5 for minute in range(10)]
    assert recorded.length_ns == 600 * SECOND


def test_a_missing_interval_is_nothing(file: Path) -> None:
    rows = "".join(f"{at},5\n" for at in range(40) if at != 20)

    recorded = read_trace(write(file, rows))

    assert isinstance(recorded, Intervals)
    assert len(recorded.counts) == 40 and recorded.counts[20] == 0.0


def test_unevenly_spaced_rows_are_records_whatever_else_they_have(file: Path) -> None:
    recorded = read_trace(write(file, "t,tokens\n0,480\n0.1,20\n5,77\n"))

    assert recorded == Events([0, SECOND // 10, 5 * SECOND], 5 * SECOND)


def test_what_a_file_means_can_be_said(file: Path) -> None:
    write(file, "n,when,count\n" + "".join(f"{n},{n * 10},{n}\n" for n in range(5)))

    counts = read_trace(file, time="when", value="count")
    rows = read_trace(file, time="when", value="*")

    assert counts == Intervals([0.0, 1.0, 2.0, 3.0, 4.0], 10.0 * SECOND)
    assert isinstance(rows, Events) and len(rows.instants_ns) == 5


@pytest.mark.parametrize(
    "text",
    [
        "1;5\n2;6\n3;7\n",
        "1\t5\n2\t6\n3\t7\n",
        "1,5\r\n2,6\r\n3,7\r\n",
        "\ufeff1,5\n\n2,6\n\n3,7",
        "3,7\n1,5\n2,6\n",
        "t,n\n1, 5\n2, 6\n3, 7\n",
    ],
)
def test_delimiters_blank_lines_and_order_do_not_matter(file: Path, text: str) -> None:
    assert read_trace(write(file, text)) == Intervals([5.0, 6.0, 7.0], float(SECOND))


def test_a_file_of_timestamps_alone_is_one_record_a_row(file: Path) -> None:
    assert read_trace(write(file, "5\n6\n7\n")) == Events([0, SECOND, 2 * SECOND], 2 * SECOND)


def test_a_file_of_one_row_is_one_record(file: Path) -> None:
    assert read_trace(write(file, "t\n5\n")) == Events([0], 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("timestamp,value\n", "has no rows"),
        ("a,b\nc,d\n", "line 2: 'c' is no timestamp"),
        ("t,n\n1,5\n2,6\n\nyesterday,7\n", "line 5: 'yesterday' is no timestamp"),
        ("t,n\n1,5\n2,\n3,7\n4,1\n", "line 3: '' is no number of records"),
        ("t,n\n1,5\n2,-6\n3,7\n", "line 3: '-6' is no number of records"),
        ("t,n\n1,5\n2,nan\n3,7\n", "line 3: 'nan' is no number of records"),
        ("t,n\n1,5\n2\n3,7\n", "line 3 has 1 columns, and needs 2"),
        ("t,n\nnan,5\n2,6\n", "line 2: 'nan' is no timestamp"),
        ("t,n\n" + "".join(f"{t},1\n" for t in range(40)) + "99999999,1\n", "is one of them wrong"),
    ],
)
def test_a_bad_file_is_refused_with_the_line(file: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_trace(write(file, text), value="n" if text.startswith("t,n") else "")


def test_a_column_that_is_not_there_is_named_with_the_nearest(file: Path) -> None:
    write(file, "timestamp,value\n1,2\n")

    with pytest.raises(ConfigError, match=r"no column 'valu'; did you mean 'value'"):
        read_trace(file, value="valu")
    with pytest.raises(ConfigError, match="has no heading"):
        read_trace(write(file, "1,2\n2,3\n"), time="when")


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the trace .*: No such file"):
        read_trace(tmp_path / "no.csv")
    with pytest.raises(ConfigError, match=r"cannot read the trace .*: Is a directory"):
        read_trace(tmp_path)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        read_trace(tmp_path / "b.csv")


def test_a_trace_runs_faster_and_can_be_made_to_fit() -> None:
    counts = Intervals([1.0] * 10, 60.0 * SECOND)
    events = Events([0, 10 * SECOND], 10 * SECOND)

    assert warped(counts, 60.0, fit_ns=SECOND).length_ns == 10 * SECOND
    assert warped(counts, 0.0, fit_ns=20 * SECOND).length_ns == 20 * SECOND
    assert warped(events, 2.0, fit_ns=SECOND) == Events([0, 5 * SECOND], 5 * SECOND)


#: Not part of the project; beside its checkout there may be some.
REAL = sorted(Path(__file__).parents[4].joinpath("shared/traces").glob("*.csv"))


def test_real_traces_are_read() -> None:
    for path in REAL:
        recorded = read_trace(path)

        assert isinstance(recorded, Events if "azure" in path.stem else Intervals), path
        assert recorded.total_until(recorded.length_ns + 1) > 0
