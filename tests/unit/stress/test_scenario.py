"""Scenario files: what they mean, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowguard.dispatch.concurrency import Adaptive
from flowguard.errors import ConfigError
from flowguard.stress.arrivals import BatchDump, Flash, Poisson, Trace
from flowguard.stress.faults import Rebalance, Slow
from flowguard.stress.scenario import (
    Scenario,
    find_scenario,
    parse_scenario,
    read_scenario,
)
from flowguard.units import MIB, MILLISECOND, SECOND

WHOLE = """
[scenario]
name = "flash"
about = "a crowd comes"
seed = 7
duration = "60s"
warmup = "5s"
drain = "20s"

[worker]
memory = "32MiB"
partitions = 2
order = "none"
concurrency = { min = 2, max = 32 }
batch = { max = 512, linger = "2ms" }
fallback = { call = "1ms", on = ["brownout"] }
rule = "by_header"
shadow = ["ladder"]

[[worker.lanes]]
name = "realtime"
target = "50ms"
reserve = 0.25

[[worker.lanes]]
name = "bulk"
overflow = "block"

[provider]
call = "4ms"
record = "20us"
capacity = 16
degradation = 0.01

[[arrivals]]
lane = "realtime"
model = "poisson"
rate = "1k/s"
keys = { kind = "zipf", s = 1.2, count = 500 }
size = ["100", "2KiB"]

[[arrivals]]
lane = "bulk"
model = "flash"
rate = "5k/s"
begin = "20s"

[[faults]]
at = "30s"
for = "10s"
target = "provider"
type = "slow"
factor = 5

[[expect]]
metric = "p99"
lane = "realtime"
during = ["20s", "40s"]
max = "50ms"

[[expect]]
metric = "limit"
aggregate = "max"
min = 4
max = 32
"""

SMALL = """
[scenario]
name = "small"
duration = "10s"
[[worker.lanes]]
name = "realtime"
[[arrivals]]
lane = "realtime"
model = "poisson"
rate = 100
"""


def parsed(text: str) -> Scenario:
    return parse_scenario(text, file="x.toml")


def test_a_file_is_read_with_its_units() -> None:
    scenario = parsed(WHOLE)

    assert (scenario.name, scenario.seed, scenario.duration_ns) == ("flash", 7, 60 * SECOND)
    assert scenario.worker.memory_bytes == 32 * MIB
    assert scenario.worker.concurrency == Adaptive(min=2, max=32)
    assert scenario.worker.batch.linger_ns == 2 * MILLISECOND
    assert scenario.worker.fallback is not None and scenario.worker.fallback.on == ("brownout",)
    assert [lane.name for lane in scenario.worker.lanes] == ["realtime", "bulk"]
    assert scenario.worker.lanes[0].target_ns == 50 * MILLISECOND
    assert scenario.worker.shadow == {"ladder"}
    assert scenario.provider.service_ns(100) == 6 * MILLISECOND
    first, second = scenario.arrivals
    assert first.model == Poisson(rate_per_s=1000.0) and first.sizes == (100, 2048)
    assert (first.keys.kind, first.keys.count) == ("zipf", 500)
    assert isinstance(second.model, Flash) and second.model.begin_ns == 20 * SECOND
    (fault,) = scenario.faults
    assert fault.kind == Slow(factor=5.0) and fault.until_ns == 40 * SECOND
    latency, limit = scenario.expect
    assert (latency.least, latency.most, latency.aggregate) == (None, 0.05, "all")
    assert (limit.least, limit.most, limit.aggregate) == (4.0, 32.0, "max")
    assert scenario.topics == ["records"]


def test_what_is_left_out_has_a_default() -> None:
    scenario = parsed(SMALL)

    assert scenario.worker.concurrency == 8
    assert scenario.topics == ["realtime"]
    assert scenario.faults == () and scenario.expect == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("duration =", "durration ="), r"x.toml: \[scenario\] has no option 'durration'; did you"),
        (('duration = "10s"', ""), r"x.toml: \[scenario\] lacks duration"),
        (('"10s"', '"10 parsecs"'), r"\[scenario\] duration='10 parsecs' is no duration"),
        (('"10s"', "-1"), r"duration=-1 is no duration"),
        (('"10s"', "0"), r"\[scenario\] duration must be longer than nothing"),
        (('"10s"', '"10s"\nwarmup = "11s"'), "warmup must be shorter than duration"),
        (('name = "small"', "name = 5"), r"\[scenario\] name=5 must be text"),
        (('"poisson"', '"poison"'), r"\[\[arrivals\]\] 1 model='poison' is not known; did you "
                                    r"mean poisson"),
        (('model = "poisson"', ""), r"\[\[arrivals\]\] 1 lacks model"),
        (("rate = 100", ""), r"\[\[arrivals\]\] 1 lacks rate"),
        (("rate = 100", 'rate = "many"'), r"\[\[arrivals\]\] 1 rate='many' is no rate"),
        (("rate = 100", "rate = 100\nfactor = 3"), r"model poisson, has no option 'factor'"),
        (("rate = 100", "rate = 100\nkeys = 'zip'"), r"kind='zip' is not known; did you mean zipf"),
        (("rate = 100", "rate = 100\nkeys = {kind='hot', hot=9, count=3}"), "hot=9 must be from 1"),
        (("rate = 100", "rate = 100\nsize = [9, 3]"), r"size=\[9, 3\] must be \[least, most\]"),
        (("rate = 100", "rate = 100\nsize = [1, 2, 3]"), r"must be a size, or \[least, most\]"),
        (("rate = 100", "rate = 100\ntopic = 'other'"), "with rule = 'by_topic'"),
        (('lane = "realtime"', 'lane = "realtim"'), r"lane='realtim' is no lane of \[worker\]; "
                                                    r"did you mean 'realtime'"),
        (('name = "realtime"', 'name = "realtime"\ntarget = "fast"'), "worker.*target='fast'"),
        (('name = "realtime"', 'name = "realtime"\ntaget = "1s"'), "did you mean target"),
        (('name = "realtime"', 'name = "realtime"\noverflow = "drop"'), "overflow='drop'"),
        (("[[worker.lanes]]", "[worker]\nconcurrency = 0\n[[worker.lanes]]"), "concurrency=0"),
        (
            ("[[worker.lanes]]", "[worker]\nconcurrency = {max = 0}\n[[worker.lanes]]"),
            "Adaptive.max=0 is no number",
        ),
        (("[[worker.lanes]]", "[worker]\nmemory = '1kB'\n[[worker.lanes]]"), "memory is too"),
        (("[[worker.lanes]]", "[worker]\norder = 'keys'\n[[worker.lanes]]"), "did you mean key"),
        (("[[worker.lanes]]", "[worker]\npartitions = 0\n[[worker.lanes]]"), "partitions=0"),
        (("[[worker.lanes]]", "[worker]\npartitions = 1.5\n[[worker.lanes]]"), "a whole number"),
        (("[[worker.lanes]]", "[worker]\nbatch = 5\n[[worker.lanes]]"), "batch must be a table"),
        (("[[arrivals]]", "[arrivals]"), r"arrivals must be an array of tables"),
        (("[scenario]", "[scenari]"), "has no option 'scenari'; did you mean scenario"),
        (("[scenario]", "[scenario"), "x.toml is no TOML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_and_the_message_names_the_place(
    change: tuple[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(SMALL.replace(*change))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[[faults]]\nat = '1s'\ntarget = 'provider'\ntype = 'slow'\n", "1 lacks for: how long"),
        ("[[faults]]\nat = '1s'\ntarget = 'provider'\n", "lacks type"),
        ("[[faults]]\nat = '1s'\nfor='1s'\ntarget = 'providr'\ntype = 'slow'", "mean provider"),
        ("[[faults]]\nat = '1s'\nfor='1s'\ntarget = 'provider'\ntype = 'slo'", "did you mean slow"),
        (
            "[[faults]]\nat = '1s'\nfor='1s'\ntarget = 'disk'\ntype = 'full'",
            "keeps nothing on disk",
        ),
        ("[[faults]]\nfor='1s'\ntarget = 'provider'\ntype = 'slow'", "lacks at"),
        ("[[faults]]\nat='1s'\nfor='1s'\ntarget='provider'\ntype='errors'\nratio=3", "not a share"),
        ("[[faults]]\nat='1s'\nfor='1s'\ntarget='provider'\ntype='errors'\nrate=3", "mean ratio"),
        ("[[expect]]\nmetric = 'p99'\n", "1 lacks min or max"),
        ("[[expect]]\nmetric = 'p98'\nmax='1s'\n", "did you mean p99"),
        ("[[expect]]\nmetric = 'p99'\nmax='fast'\n", "max='fast' is no duration"),
        ("[[expect]]\nmetric = 'p99'\nmax='1s'\nmin='2s'", "is more than max"),
        ("[[expect]]\nmetric = 'p99'\nmax='1s'\nduring=['2s','1s']", "ends before it begins"),
        ("[[expect]]\nmetric = 'p99'\nmax='1s'\nduring='2s'", "must be two instants"),
        ("[[expect]]\nmetric = 'limit'\nmax=3\nlane='realtime'", "is about the worker"),
        ("[[expect]]\nmetric = 'p99'\nmax='1s'\nlane='bulk'", "is no lane"),
        ("[[expect]]\nmetric = 'p99'\nmax='1s'\naggregate='mean'", "is one value already"),
        ("[[expect]]\nmetric = 'limit'\nmax='3'", "must be a number"),
    ],
)
def test_wrong_faults_and_expectations_are_refused(table: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(SMALL + table)


def test_without_arrivals_there_is_nothing_to_run() -> None:
    with pytest.raises(ConfigError, match="offers nothing"):
        parsed("[scenario]\nname='x'\nduration='1s'\n")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*missing.toml: No such file"):
        read_scenario(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        read_scenario(tmp_path / "binary.toml")


def test_a_name_that_is_neither_shipped_nor_a_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no scenario 'nosuchthing'"):
        find_scenario("nosuchthing")


def test_a_real_run_refuses_what_only_the_simulator_can_do() -> None:
    fault = "[[faults]]\nat='1s'\nfor='1s'\ntarget='clock'\ntype='skew'\nby='5min'\n"

    with pytest.raises(ConfigError, match=r"\(clock skew\).*--simulate"):
        parsed(SMALL + fault).check_real()
    parsed(SMALL).check_real()


def test_a_rebalance_that_gives_all_back_at_once_needs_no_length() -> None:
    fault = "[[faults]]\nat='1s'\ntarget='group'\ntype='rebalance'\nshare=0\n"

    assert parsed(SMALL + fault).faults[0].kind == Rebalance(share=0.0)


def test_a_trace_can_be_exchanged_only_where_there_is_one(tmp_path: Path) -> None:
    traced = SMALL.replace('"poisson"', '"trace"').replace("rate = 100", "")

    changed = parsed(traced).with_trace(tmp_path / "a.csv")

    assert changed.arrivals[0].model == Trace(file=str(tmp_path / "a.csv"))
    with pytest.raises(ConfigError, match="replays no trace"):
        parsed(SMALL).with_trace(tmp_path / "a.csv")


def test_a_dump_is_a_number_of_records() -> None:
    dump = SMALL.replace('"poisson"', '"batch-dump"').replace("rate = 100", "count = 5")

    assert parsed(dump).arrivals[0].model == BatchDump(count=5)
