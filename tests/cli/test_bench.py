"""`flowguard bench`: its document, and how it says that it cannot measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowguard.bench import cluster, contest
from flowguard.bench.meter import Meter, peak_memory
from flowguard.bench.peers import PEERS, Peer
from flowguard.bench.records import RT_EVERY, make_value, wire_batches
from flowguard.bench.wire import fill
from flowguard.stress.embedded import free_port
from tests.kafka_broker import PROJECT, KafkaBroker

RUN = (sys.executable, "-c", "from flowguard.cli import main; main()", "bench")


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*RUN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_everyone_who_was_asked_reads_the_topic_and_the_document_has_the_keys_promised(
    kafka: KafkaBroker, tmp_path: Path
) -> None:
    names = ["limit", "confluent-kafka", "flowguard-raw", "flowguard-json"]

    done = run_bench(
        *("--broker", kafka.bootstrap, "--records", "200000", "--turns", "1"),
        *("--only", ",".join(names), "--json", "--output", str(tmp_path / "bench.json")),
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert json.loads((tmp_path / "bench.json").read_text()) == found
    assert found.keys() == {"schema", "machine", "results"}
    assert found["schema"] == "flowguard.bench/v1"
    assert found["machine"]["records"] == 200_000
    assert [row["name"] for row in found["results"]] == names
    for row in found["results"]:
        assert list(row) == [
            "name", "value", "unit", "cpu_us_per_record", "baseline", "ratio", "peak_memory",
        ]  # fmt: skip
        assert row["value"] > 0 and row["cpu_us_per_record"] > 0
        assert 10_000_000 < row["peak_memory"] < 2_000_000_000
        assert row["unit"] == "records/s"
    assert [row["baseline"] for row in found["results"]] == [
        None, "limit", "confluent-kafka", "quix",
    ]  # fmt: skip
    rows = {row["name"]: row for row in found["results"]}
    rates = {name: row["value"] for name, row in rows.items()}
    expected = rates["flowguard-raw"] / rates["confluent-kafka"]
    assert rows["flowguard-raw"]["ratio"] == pytest.approx(expected)
    assert rows["limit"]["ratio"] is None
    assert rows["flowguard-json"]["ratio"] is None  # quix was not asked
    assert "turn 1 of 1: limit" in done.stderr


def test_its_topic_is_gone_afterwards(kafka: KafkaBroker) -> None:
    done = run_bench(
        *("--broker", kafka.bootstrap, "--records", "200000", "--turns", "1", "--only", "limit")
    )

    assert done.returncode == 0, done.stderr
    assert "limit" in done.stdout
    topics = kafka.admin().list_topics(timeout=10).topics
    assert not [name for name in topics if name.startswith("flowguard-bench-")]


def test_without_a_broker_it_says_how_to_get_one() -> None:
    done = run_bench()

    assert done.returncode == 2
    assert "make kafka" in done.stderr and done.stderr.count("\n") == 1


def test_a_broker_that_does_not_answer_is_exit_code_3() -> None:
    done = run_bench("--broker", f"127.0.0.1:{free_port()}")

    assert done.returncode == 3
    assert "no Kafka answers" in done.stderr and done.stderr.count("\n") == 1


def test_an_unknown_peer_is_answered_with_the_nearest_name() -> None:
    done = run_bench("--broker", "127.0.0.1:1", "--only", "confluent")

    assert done.returncode == 2
    assert "did you mean confluent-kafka?" in done.stderr


def test_a_peer_that_is_not_installed_has_a_row_of_nulls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "find_spec", lambda name: None)
    run = contest.Contest(
        broker="", records=1, partitions=1, turns=1, names=["limit"], say=lambda line: None
    )

    assert contest.missing(["limit", "quix", "confluent-kafka"]) == ["quix", "confluent-kafka"]
    (row,) = contest.document(run, ["quix"])["results"]
    assert (row["value"], row["cpu_us_per_record"], row["ratio"]) == (None, None, None)
    assert "not installed" in contest.table(run, ["quix"])


def test_the_first_handover_starts_the_clock_and_does_not_count() -> None:
    meter = Meter(30)

    assert [meter.add(count) for count in (0, 10, 10, 10)] == [False, False, False, True]
    assert meter.reading.records == 20
    assert meter.reading.seconds > 0


def test_a_meter_that_was_not_filled_has_no_reading() -> None:
    meter = Meter(10)
    meter.add(5)

    with pytest.raises(RuntimeError, match="5 of 10"):
        _ = meter.reading


def test_the_topic_is_filled_with_as_many_records_as_asked_for() -> None:
    batches = list(wire_batches(400_003))

    assert sum(count for _, count in batches) == 400_003
    assert max(len(batch) for batch, _ in batches) <= 1_000_000
    assert 180 <= len(make_value(1_234_567)) <= 200
    assert RT_EVERY == 10


def test_a_topic_of_many_partitions_can_be_filled_as_soon_as_it_is_there(
    kafka: KafkaBroker,
) -> None:
    for number in range(3):  # leaders are named a moment before they lead
        name = f"bench-many-{number}"
        with cluster.topics(kafka.bootstrap, name, partitions=64):
            fill(name, cluster.leaders_of(kafka.bootstrap, name), 400_000)


def test_a_peer_that_fails_is_named_and_the_others_go_on(kafka: KafkaBroker) -> None:
    run = contest.Contest(
        kafka.bootstrap, 200_000, 4, 2, ["broken", "limit"], lambda line: None,
        peers={**PEERS, "broken": Peer("flowguard.bench.peers.not_there")}, goes_on=True,
    )  # fmt: skip

    run.run()

    assert len(run.readings["limit"]) == 2
    assert "not_there" in run.failed["broken"] and "broken" not in run.readings


def test_a_peer_does_not_carry_flowguard(kafka: KafkaBroker, tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(
        "import sys\n"
        "from flowguard.bench.meter import Reading\n"
        "def setup(context):\n"
        "    carried = {'faust', 'polars', 'pyarrow'} & sys.modules.keys()\n"
        "    return lambda n: Reading(len(carried), 1.0, 1.0, 1)\n"
    )
    run = contest.Contest(
        kafka.bootstrap, 200_000, 1, 1, ["bare"], lambda line: None,
        peers={"bare": Peer("bare", path=(str(tmp_path),))},
    )  # fmt: skip

    run.run()

    assert run.readings["bare"][0].records == 0


def test_the_most_memory_of_a_process_is_that_of_its_children_too() -> None:
    alone = peak_memory()
    hold = "held = bytearray(b'x') * 100_000_000; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert peak_memory() > alone + 90_000_000
        child.kill()


def test_without_java_its_peers_are_named_and_the_others_are_measured(
    kafka: KafkaBroker, tmp_path: Path
) -> None:
    command = [sys.executable, str(PROJECT / "benchmarks" / "bench_peers.py"), "--json"]
    arguments = ["--broker", kafka.bootstrap, "--records", "200000", "--turns", "1"]

    done = subprocess.run(
        [*command, *arguments, "--only", "limit,kafka-streams"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["results"]] == ["limit"]
    assert found["results"][0]["of_limit"] == 1.0
    assert "java is not installed" in found["absent"]["kafka-streams"]
    assert "kafka-streams takes no part: java is not installed" in done.stderr
