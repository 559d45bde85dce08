"""`flowguard dlq` on Apache Kafka: what it finds, sends back, deletes, and does not do twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import TIMESTAMP_CREATE_TIME

from flowguard.chunk import TopicPartition
from flowguard.cli import cli, dlq_sending
from flowguard.cli.exit_codes import FAILED, OK, USAGE
from tests.builders import chunk_of, dead_letter
from tests.kafka.outside import Outside, Record, headers_of
from tests.kafka.worker import FLOWGUARD, Workers, eventually

Run = Callable[..., Result]

BASE_MS = 1_700_000_000_000
HOUR_MS = 3600 * 1000
HOSTILE = "\x1b]0;owned\x07\nshop.dlq[0] 99\u202e"

PICKY = """
app = fg.App(APP, broker=BROKER)
orders = app.feed(ORDERS, columns={"id": "int64"})

@app.agent(orders)
async def look(batches):
    async for batch in batches:
        pass
"""


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FLOWGUARD_") and name != "FLOWGUARD_TEST_KAFKA":
            monkeypatch.delenv(name)


@pytest.fixture
def dlq(outside: Outside) -> Run:
    """Run `flowguard dlq VERB --topic TOPIC …` in this process."""

    def run(verb: str, topic: str, *args: str, stdin: str | None = None) -> Result:
        where = ["--broker", f"kafka://{outside.settings['bootstrap.servers']}", "--topic", topic]
        return CliRunner().invoke(
            cli, ["dlq", verb, *where, *args], prog_name="flowguard", input=stdin
        )

    return run


def letter(
    number: int,
    orders: str,
    *,
    kind: str = "DecodeError",
    reason: str = "value is no JSON",
    value: bytes | None = None,
    key: bytes | None = None,
    headers: tuple[tuple[str, bytes | None], ...] = (("tenant", b"a"),),
    partition: int = 0,
    original_partition: int = 0,
    tombstone: bool = False,
) -> Record:
    """Return a letter as flowguard's worker writes it, one a second."""
    record = chunk_of(
        [1000 + number],
        partition=TopicPartition(orders, original_partition),
        timestamps=[BASE_MS + 1000 * number],
        keys=[key or b"key-%d" % number],
        values=[None if tombstone else value or b"{%d" % number],
        headers=[[(name.encode(), content) for name, content in headers]],
    )
    made, notes = dead_letter(record, reason, kind)
    return Record(made.value, made.key, notes, partition, made.timestamp)


def document(result: Result) -> dict[str, Any]:
    """Return what a command printed for programs."""
    assert result.exit_code == OK, result.stderr
    assert result.stdout.startswith('{\n  "schema": "flowguard.dlq/v1"')
    return dict(json.loads(result.stdout))


def values(outside: Outside, topic: str) -> list[bytes | None]:
    """Return the values of a topic, sorted."""
    return sorted(each.value() or b"" for each in outside.read(topic))


# ls.


def test_ls_counts_by_what_is_wrong(dlq: Run, outside: Outside, topic: Callable[..., str]) -> None:
    letters = topic("shop.dlq", 2)
    outside.produce(letters, [
        *(letter(each, "orders", partition=each % 2) for each in range(700)),
        *(letter(each, "payments", kind="Rejected", reason="no\nsum") for each in range(700, 710)),
        letter(711, "payments", headers=(("fg-lane", b"bulk"), ("fg-redriven", b"2"))),
        letter(712, "orders", value=b"x" * 950_000),
        Record(b"stranger", b"k"),
    ])  # fmt: skip

    found = document(dlq("ls", letters, "--json"))

    assert (found["verb"], found["letters"], found["returned"]) == ("ls", 713, 1)
    assert (found["left_out"], found["foreign"], found["more"]) == (
        1,
        1,
        {"groups": 0, "letters": 0},
    )
    first, second, *_ = found["groups"]
    assert first == {"type": "DecodeError", "reason": "value is no JSON", "topic": "orders",
                     "lane": None, "letters": 700, "returned": 0, "first": BASE_MS / 1000,
                     "last": BASE_MS / 1000 + 699}  # fmt: skip
    assert (second["type"], second["reason"], second["letters"]) == ("Rejected", "no sum", 10)
    assert {"bulk", None} == {each["lane"] for each in found["groups"]}

    text = dlq("ls", letters, "--limit", "1")
    assert text.exit_code == OK and "713 dead letters in" in text.stdout
    assert "and 13 in 4 groups more" in text.stdout
    assert "2023-11-14 22:13:20" in text.stdout


def test_ls_counts_only_what_is_selected(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters = topic("shop.dlq", 2)
    outside.produce(letters, [
        *(letter(each, "orders", partition=each % 2) for each in range(10)),
        *(letter(each, "payments", kind="Rejected", partition=each % 2) for each in range(10, 20)),
        letter(3, "orders", partition=0),  # an old record, behind newer ones
    ])  # fmt: skip

    def count(*args: str) -> int:
        return int(document(dlq("ls", letters, "--json", *args))["letters"])

    assert count() == 21
    assert count("--type", "Rejected") == 10
    assert count("--type", "Rejected", "--type", "DecodeError") == 21
    assert count("--orig-topic", "orders") == 11
    assert count("--orig-topic", "orders", "--type", "Rejected") == 0
    assert count("--since", "2023-11-14T22:13:25") == 15
    assert count("--since", "2023-11-14T22:13:25", "--type", "DecodeError") == 5
    assert count("--since", "1h") == 0


def test_aborted_and_open_transactions_are_not_shown(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters = topic("shop.dlq")
    producer = outside.producer(transactional_id=letters)
    producer.init_transactions(30)
    for end, number in ((producer.commit_transaction, 0), (producer.abort_transaction, 1)):
        producer.begin_transaction()
        outside.send(producer, letters, [letter(number, "orders")])
        producer.flush(30)
        end(30)
    producer.begin_transaction()
    outside.send(producer, letters, [letter(2, "orders")])
    producer.flush(30)  # and nobody knows yet how this one ends

    assert document(dlq("ls", letters, "--json"))["letters"] == 1
    shown = document(dlq("show", letters, "--json"))["letters"]
    assert [each["original"]["offset"] for each in shown] == [1000]
    gone = dlq("show", letters, "--offset", "0:2")
    assert gone.exit_code == FAILED and "there is no letter at 0:2" in gone.stderr
    producer.abort_transaction(30)


def test_a_topic_without_letters_and_one_that_is_not_there(
    dlq: Run, topic: Callable[..., str]
) -> None:
    empty = topic("shop.dlq", 3)

    assert "no dead letters in" in dlq("ls", empty).stdout
    assert "no dead letters in" in dlq("show", empty).stdout
    assert "nothing to redrive" in dlq("redrive", empty, "--yes").stdout
    assert "nothing to delete" in dlq("purge", empty, "--all", "--yes").stdout
    for verb, *args in (["ls"], ["show"], ["redrive", "--yes"], ["purge", "--all", "--yes"]):
        missing = dlq(verb, empty[:-1], *args)
        assert missing.exit_code == USAGE and missing.stderr.count("\n") == 1
        assert f"there is no topic '{empty[:-1]}'; did you mean {empty}?" in missing.stderr


# show.


def test_show_has_the_newest_letters_and_single_ones(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters = topic("shop.dlq", 2)
    outside.produce(letters, [letter(each, "orders", partition=each % 2,
                                     kind="Rejected" if each < 3 else "DecodeError")
                              for each in range(100)])  # fmt: skip

    def offsets(*args: str) -> list[int]:
        shown = document(dlq("show", letters, "--json", *args))["letters"]
        return [each["original"]["offset"] for each in shown]

    assert offsets("-n", "3") == [1097, 1098, 1099]
    assert offsets() == list(range(1090, 1100))
    assert offsets("--type", "Rejected", "-n", "2") == [1001, 1002]
    assert offsets("--offset", "1:4", "--offset", "0:0") == [1009, 1000]
    gone = dlq("show", letters, "--offset", "0:50")
    assert gone.exit_code == FAILED
    assert f"there is no letter at 0:50 of {letters}; it holds 0 to 49" in gone.stderr
    assert "there is no letter at 7:0" in dlq("show", letters, "--offset", "7:0").stderr

    text = dlq("show", letters, "--offset", "0:2").stdout
    assert text.splitlines()[0] == f"{letters}[0] 2"
    assert "  error     DecodeError" in text and "  value     {4" in text
    assert "  from      orders[0] 1004, 2023-11-14 22:13:24" in text
    assert "  header    tenant: a" in text and "fg-orig" not in text


def test_hostile_letters_are_shown_and_not_obeyed(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters = topic("shop.dlq")
    bad = HOSTILE.encode()
    outside.produce(letters, [
        letter(0, HOSTILE, kind=HOSTILE, reason=HOSTILE, value=bad, key=bad,
               headers=((HOSTILE, bad), ("none", None), ("binary", b"\xff\x00"))),
        letter(1, "orders", value=b"\xff\xfe" * 1000),
        letter(2, "orders", value=b"y" * 800_000),
    ])  # fmt: skip

    listed, shown = dlq("ls", letters), dlq("show", letters)
    told = document(dlq("show", letters, "--json"))["letters"]

    for text in (listed.stdout, shown.stdout):
        assert all(each.isprintable() for line in text.splitlines() for each in line)
        assert "\\x1b]0;owned\\x07" in text
    edge = [line for line in shown.stdout.splitlines() if line and not line.startswith(" ")]
    assert edge == [f"{letters}[0] {each}" for each in range(3)]
    assert len(shown.stdout) < 10_000 and "(800,000 bytes; --full shows all)" in shown.stdout
    assert len(dlq("show", letters, "--full").stdout) > 800_000
    assert told[0]["key"]["text"] == told[0]["value"]["text"] == told[0]["type"] == HOSTILE
    assert told[0]["headers"][1:] == [
        {"name": "none", "value": None},
        {"name": "binary", "value": {"bytes": 2, "hex": "ff00"}},
    ]
    assert told[1]["value"] == {"bytes": 2000, "hex": "fffe" * 1000}


# redrive.


def test_redrive_sends_the_records_back_as_they_were_and_once(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters, orders, payments = topic("shop.dlq", 2), topic("orders", 4), topic("payments")
    outside.produce(letters, [
        *(letter(each, orders, partition=each % 2, original_partition=each % 4)
          for each in range(1200)),
        letter(1200, payments, headers=(("fg-redriven", b"1"), ("fg-orig-x", b"x"))),
        letter(1201, payments, tombstone=True),
        letter(1202, payments, value=b"x" * 950_000),
        Record(b"stranger", b"k", partition=0),
    ])  # fmt: skip

    done = dlq("redrive", letters, "--yes", "--json")
    again = dlq("redrive", letters, "--yes", "--json")

    found = document(done)
    assert found["to"] == {orders: 1200, payments: 2} and found["letters"] == 1202
    assert (found["left_out"], found["foreign"], found["redriven_before"]) == (1, 1, 0)
    assert document(again)["letters"] == 0
    assert document(again)["redriven_before"] == 1204
    messages = outside.read(orders)
    assert sorted(each.value() for each in messages) == sorted(b"{%d" % n for n in range(1200))
    for each in messages:
        number = int(each.value()[1:])
        assert each.key() == b"key-%d" % number and each.partition() == number % 4
        assert each.headers() == [("tenant", b"a"), ("fg-redriven", b"1")]
        assert each.timestamp() == (TIMESTAMP_CREATE_TIME, BASE_MS + 1000 * number)
    one, tombstone = outside.read(payments)
    assert one.headers() == [("fg-redriven", b"2")]
    assert tombstone.value() is None and tombstone.key() == b"key-1201"
    assert outside.committed(f"{letters}.redrive", letters) == outside.ends(letters)

    assert (
        "nothing to redrive\n1,204 were redriven before" in dlq("redrive", letters, "--yes").stdout
    )
    assert document(dlq("redrive", letters, "--yes", "--again", "--json"))["letters"] == 1202
    assert outside.count(orders) == 2400


def test_each_selection_is_redriven_once_and_forgets_no_other(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters, orders, payments = topic("shop.dlq", 2), topic("orders"), topic("payments")
    outside.produce(letters, [letter(each, orders if each % 3 else payments, partition=each % 2,
                                     kind="AB"[each % 2]) for each in range(300)])  # fmt: skip

    def sent(*args: str) -> int:
        return int(document(dlq("redrive", letters, "--yes", "--json", *args))["letters"])

    assert sent("--orig-topic", payments, "--limit", "30") == 30
    assert sent("--orig-topic", payments) == 70
    assert sent("--orig-topic", payments) == 0
    assert sent("--type", "A", "--limit", "10") == 10
    assert sent("--type", "A", "--since", "2023-11-14T22:15:00") == 67
    assert sent("--limit", "50") == 50
    assert sent() == 200 - 10 - 67 - 50
    assert sent() == 0
    assert sent("--type", "A", "--again") == 150
    assert sent() == 0, "to start over with a selection forgot the others"
    assert Counter(values(outside, payments)) == {
        b"{%d" % each: 2 if each % 2 == 0 else 1 for each in range(0, 300, 3)
    }


def test_redrive_to_another_topic_keeps_the_order_of_each_key(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters, there = topic("shop.dlq", 2), topic("there", 3)
    outside.produce(letters, [letter(each, "gone", key=b"k%d" % (each % 7), partition=each % 7 % 2,
                                     original_partition=9) for each in range(700)])  # fmt: skip

    assert dlq("redrive", letters, "--yes", "--to", there).exit_code == OK

    of_key: dict[bytes, list[int]] = {}
    places: dict[bytes, set[int]] = {}
    for each in outside.read(there):
        of_key.setdefault(each.key(), []).append(int(each.value()[1:]))
        places.setdefault(each.key(), set()).add(each.partition())
    assert all(found == list(range(key, 700, 7)) for key, found in
               ((int(name[1:]), numbers) for name, numbers in of_key.items()))  # fmt: skip
    assert len(of_key) == 7 and all(len(each) == 1 for each in places.values())
    java = outside.produce(topic("twin", 3), [Record(b"", name) for name in of_key])
    assert {each.key(): {each.partition()} for each in java} == places


def test_records_without_key_or_value_go_back_to_their_partition(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters, orders = topic("shop.dlq"), topic("orders", 3)
    bare = [replace(letter(each, orders, original_partition=2, tombstone=each == 1), key=None)
            for each in range(3)]  # fmt: skip
    outside.produce(letters, bare)

    assert document(dlq("redrive", letters, "--yes", "--json"))["letters"] == 3

    found = outside.read(orders)
    assert [(each.partition(), each.key(), each.value()) for each in found] == [
        (2, None, b"{0"), (2, None, None), (2, None, b"{2")
    ]  # fmt: skip
    assert all(each.timestamp()[1] == BASE_MS + 1000 * n for n, each in enumerate(found))


def test_redrive_asks_and_a_dry_run_changes_nothing(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters, orders = topic("shop.dlq"), topic("orders")
    outside.produce(letters, [letter(each, orders) for each in range(20)])

    nobody = dlq("redrive", letters)
    refused = dlq("redrive", letters, stdin="n\n")
    dry = dlq("redrive", letters, "--dry-run", "--limit", "15")

    assert nobody.exit_code == USAGE and "nothing is redriven: nobody answers" in nobody.stderr
    assert refused.exit_code == FAILED and "nothing is redriven, as you said" in refused.stderr
    assert dry.exit_code == OK and "would redrive 15 letters" in dry.stdout
    assert outside.count(orders) == 0
    agreed = dlq("redrive", letters, stdin="y\n")
    assert agreed.exit_code == OK and "redrove 20 letters" in agreed.stdout
    assert outside.count(orders) == 20


def test_letters_that_come_back_meanwhile_are_for_the_next_run(
    dlq: Run, outside: Outside, topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    letters, orders = topic("shop.dlq"), topic("orders")
    outside.produce(letters, [letter(each, orders) for each in range(10)])
    send = dlq_sending.Redriver._send

    async def and_fail_again(self: Any, sent: Any) -> None:
        await send(self, sent)
        outside.produce(letters, [letter(each.offset + 100, orders) for each in sent])

    monkeypatch.setattr(dlq_sending.Redriver, "_send", and_fail_again)

    assert document(dlq("redrive", letters, "--yes", "--json"))["letters"] == 10
    assert document(dlq("redrive", letters, "--yes", "--json"))["letters"] == 10
    assert outside.count(letters) == 30


def test_a_topic_that_is_gone_stops_before_it_and_is_not_created(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters, orders = topic("shop.dlq"), topic("orders")
    outside.produce(letters, [*(letter(each, orders) for each in range(1000)),
                              letter(1000, "never-was")])  # fmt: skip

    dry = dlq("redrive", letters, "--dry-run")
    result = dlq("redrive", letters, "--yes")

    assert "topic never-was does not exist: redriving would stop there" in dry.stdout
    assert result.exit_code == FAILED and result.stderr.count("\n") == 1
    assert f"stopped at {letters}[0] 1000" in result.stderr and "does not exist" in result.stderr
    assert "never-was" not in outside.admin.list_topics(timeout=30).topics
    rest = document(dlq("redrive", letters, "--yes", "--json", "--orig-topic", orders))
    assert 1000 == outside.count(orders) >= rest["letters"], "something was sent twice"


def test_a_letter_that_its_topic_refuses_stops_and_what_is_before_it_is_kept(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters, orders = topic("shop.dlq"), topic("orders", max_message_bytes="20000")
    outside.produce(letters, [*(letter(each, orders) for each in range(600)),
                              letter(600, orders, value=b"x" * 30_000)])  # fmt: skip

    result = dlq("redrive", letters, "--yes")

    assert result.exit_code == FAILED and result.stderr.count("\n") == 1
    assert f"stopped at {letters}[0] 600" in result.stderr
    assert "MessageSizeTooLarge" in result.stderr
    assert outside.committed(f"{letters}.redrive", letters)[0] >= 500


def test_killed_in_the_middle_it_loses_none_and_repeats_few(
    dlq: Run, outside: Outside, topic: Callable[..., str], tmp_path: Any
) -> None:
    letters, orders = topic("shop.dlq", 2), topic("orders")
    outside.produce(letters, [letter(each, orders, partition=each % 2) for each in range(2000)])
    broker = outside.settings["bootstrap.servers"]
    command = [*FLOWGUARD, "dlq", "redrive", "--broker", broker, "--topic", letters, "--yes",
               "--rate", "1000/s"]  # fmt: skip
    runs = 0
    for _ in range(3):
        before = outside.count(orders)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        eventually(lambda before=before: outside.count(orders) > before + 150)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        runs += 1

    assert 0 < outside.count(orders) < 2000
    assert dlq("redrive", letters, "--yes").exit_code == OK

    found = Counter(values(outside, orders))
    assert found.keys() == {b"{%d" % each for each in range(2000)}
    repeated = found.total() - 2000
    assert repeated <= runs * 100, "more than one batch a kill was repeated"
    assert document(dlq("redrive", letters, "--yes", "--json"))["letters"] == 0


def test_interrupted_it_ends_in_one_line(outside: Outside, topic: Callable[..., str]) -> None:
    letters, orders = topic("shop.dlq"), topic("orders")
    outside.produce(letters, [letter(each, orders) for each in range(500)])
    command = [*FLOWGUARD, "dlq", "redrive", "--broker", outside.settings["bootstrap.servers"],
               "--topic", letters, "--yes", "--rate", "20/s"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    eventually(lambda: outside.count(orders) > 5)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=30)

    assert (process.returncode, said) == (130, b"")
    assert complained.strip() == b"flowguard: interrupted"  # behind what the terminal echoes


# purge.


def test_purge_deletes_up_to_an_offset_a_time_or_what_was_redriven(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters, orders = topic("shop.dlq", 2), topic("orders")
    outside.produce(letters, [letter(each, orders, partition=each % 2) for each in range(100)])

    def purge(*args: str) -> dict[str, Any]:
        return document(dlq("purge", letters, "--yes", "--json", *args))

    dry = purge("--all", "--dry-run")
    assert (dry["chosen"], dry["deleted"], dry["not_redriven"]) == (100, 0, 100)
    assert outside.count(letters) == 100
    assert purge("--before", "0:10", "--before", "1:5")["deleted"] == 15
    assert purge("--before", "0:10")["deleted"] == 0
    assert purge("--before", "2023-11-14T22:14:00")["deleted"] == 40 - 15
    assert outside.count(letters) == 60
    assert purge("--redriven")["deleted"] == 0
    assert document(dlq("redrive", letters, "--yes", "--json", "--limit", "35"))["letters"] == 35
    found = purge("--redriven")
    assert (found["deleted"], found["not_redriven"]) == (35, 0)
    assert document(dlq("redrive", letters, "--yes", "--json"))["letters"] == 25
    assert purge("--all")["deleted"] == 25
    assert outside.count(letters) == 0 and len(outside.read(orders)) == 60
    wrong = dlq("purge", letters, "--before", "5:1", "--yes")
    assert wrong.exit_code == USAGE and "has no partition 5; it has 2" in wrong.stderr


def test_purge_asks_and_says_what_was_not_redriven(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters, orders = topic("shop.dlq"), topic("orders")
    outside.produce(letters, [letter(each, orders) for each in range(20)])
    assert dlq("redrive", letters, "--yes", "--limit", "5").exit_code == OK

    nobody = dlq("purge", letters, "--all")
    refused = dlq("purge", letters, "--all", stdin="n\n")

    assert nobody.exit_code == USAGE and "nothing is deleted: nobody answers" in nobody.stderr
    assert "15 of them were not redriven" in refused.stderr and refused.exit_code == FAILED
    assert outside.count(letters) == 20
    agreed = dlq("purge", letters, "--all", stdin="y\n")
    assert agreed.exit_code == OK and agreed.stdout.endswith("deleted 20 records\n")
    assert outside.count(letters) == 0


def test_purge_of_a_compacted_topic_is_refused_in_one_line(
    dlq: Run, outside: Outside, topic: Callable[..., str]
) -> None:
    letters = topic("shop.dlq", cleanup_policy="compact")
    outside.produce(letters, [letter(0, "orders")])

    result = dlq("purge", letters, "--all", "--yes")

    assert result.exit_code == FAILED and result.stderr.count("\n") == 1
    assert "PolicyViolation" in result.stderr and "cleanup.policy=delete" in result.stderr


# With an app.


def test_letters_of_a_worker_go_back_and_return_with_a_count(
    dlq: Run, outside: Outside, workers: Workers, topic: Callable[..., str]
) -> None:
    orders = topic("orders", 2)
    outside.produce(orders, [Record(b'{"id": 1}'), Record(b"nonsense", b"k", [("tenant", b"t")]),
                             Record(b'{"id": 2}')])  # fmt: skip
    worker = workers.start(PICKY, ORDERS=orders)
    worker.until(lambda: outside.is_done(worker.group, orders))
    letters = f"{worker.group}.dlq"

    command = [*FLOWGUARD, "dlq", "redrive", "-A", "app", "--json", "--yes"]
    (shown,) = document(dlq("show", letters, "--json"))["letters"]
    done = subprocess.run(
        command, cwd=worker.directory, capture_output=True, text=True, check=False
    )
    worker.until(lambda: outside.count(letters) == 2)
    worker.until(lambda: outside.is_done(worker.group, orders))

    assert shown["value"]["text"] == "nonsense" and shown["original"]["topic"] == orders
    assert (done.returncode, done.stderr) == (OK, "")
    assert json.loads(done.stdout)["topics"] == [letters]
    assert json.loads(done.stdout)["to"] == {orders: 1}
    assert document(dlq("ls", letters, "--json"))["returned"] == 1
    newest = max(outside.read(letters), key=lambda each: each.offset())
    assert headers_of(newest)["fg-redriven"] == b"1" and headers_of(newest)["tenant"] == b"t"


def test_an_app_that_never_wrote_a_letter_has_none(
    outside: Outside, tmp_path: Any, topic_name: Callable[..., str]
) -> None:
    broker = outside.settings["bootstrap.servers"]
    app = topic_name("app")
    (tmp_path / "app.py").write_text(
        f'import flowguard as fg\napp = fg.App({app!r}, broker="kafka://{broker}")\n'
    )

    done = subprocess.run([*FLOWGUARD, "-A", "app", "dlq", "ls"], cwd=tmp_path,
                          capture_output=True, text=True, check=False)  # fmt: skip

    assert (done.returncode, done.stderr) == (OK, "")
    assert done.stdout == f"no dead letters in {app}.dlq\n"
    assert f"{app}.dlq" not in outside.admin.list_topics(timeout=30).topics
