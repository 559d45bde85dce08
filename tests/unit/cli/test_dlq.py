"""`flowguard dlq`: what letters say, what is remembered, what is shown, how commands refuse."""

from __future__ import annotations

import json
import random

import pytest

from flowguard.chunk import TopicPartition
from flowguard.cli.broker import Access, access_to, server_of
from flowguard.cli.dlq_contents import as_entry, excerpt, readable
from flowguard.cli.dlq_counts import OTHER, Counts
from flowguard.cli.dlq_letters import Letter, Selection, original_headers, shortened
from flowguard.cli.dlq_ls import as_text
from flowguard.cli.dlq_progress import METADATA_BYTES_MAX, Part, Progress, decoded, encoded
from flowguard.cli.dlq_sending import Order, Sorted
from flowguard.cli.dlq_show import lines_of
from flowguard.cli.dlq_source import Source, letter_topics
from flowguard.cli.exit_codes import NO_BROKER, OK, USAGE, CommandError
from flowguard.cli.find_app import find_app
from flowguard.cli.moments import moment_ms, place_of, when
from flowguard.clock import SystemClock
from tests.builders import chunk_of, dead_letter
from tests.unit.cli.conftest import Run

HOUR_MS = 3600 * 1000
HOSTILE = "\x1b]0;owned\x07\nshop.dlq[0] 99\u202e\u009b2J"


def letter(
    offset: int = 0,
    *,
    value: bytes | None = b"{",
    reason: str = "value is no JSON",
    kind: str = "DecodeError",
    topic: str = "orders",
    headers: tuple[tuple[str, bytes | None], ...] = (),
    timestamp_ms: int = 1_700_000_000_000,
) -> Letter:
    """Return a letter as flowguard's worker writes it."""
    record = chunk_of(
        [1000 + offset], partition=TopicPartition(topic, 3), keys=[b"k"], values=[value],
        timestamps=[timestamp_ms], headers=[[(name.encode(), own) for name, own in headers]],
    )  # fmt: skip
    made, notes = dead_letter(record, reason, kind)
    return Letter(
        topic="shop.dlq", partition=0, offset=offset, timestamp_ms=made.timestamp,
        key=made.key, value=made.value, headers=notes,
    )  # fmt: skip


def bare(*headers: tuple[str, bytes | None], value: bytes | None = b"v") -> Letter:
    """Return a record that somebody else has written."""
    return Letter("shop.dlq", 0, 0, -1, None, value, headers)


# What letters say.


def test_a_letter_says_what_was_wrong_and_where() -> None:
    found = letter(7)

    assert (found.error_type, found.reason, found.attempt) == ("DecodeError", "value is no JSON", 1)
    assert (found.original_topic, found.original_partition) == ("orders", 3)
    assert (found.original_offset, found.original_timestamp_ms) == (1007, 1_700_000_000_000)
    assert (found.redriven, found.lane, found.place) == (0, None, "shop.dlq[0] 7")


@pytest.mark.parametrize(
    "text", [b"", b"-1", b"1e3", b"0x10", "٣".encode(), b"9" * 30, b" 7", b"\xff", None]
)
def test_a_note_that_is_no_number_is_none(text: bytes | None) -> None:
    found = bare(("fg-orig-offset", text), ("fg-orig-timestamp", text), ("fg-redriven", text))

    assert found.original_offset is None and found.original_timestamp_ms is None
    assert found.redriven == 0


def test_the_notes_of_flowguard_are_stronger_than_headers_of_the_record() -> None:
    found = letter(headers=(("fg-orig-topic", b"secrets"), ("fg-error-type", b"Nothing")))

    assert (found.original_topic, found.error_type) == ("orders", "DecodeError")


def test_the_record_gets_back_the_headers_that_it_had() -> None:
    own = (("tenant", b"a"), ("tenant", b"b"), ("fg-lane", b"bulk"), ("empty", None),
           ("fg-redriven", b"2"))  # fmt: skip

    assert original_headers(letter(headers=own)) == list(own)


def test_a_letter_of_a_letter_becomes_the_letter_that_it_was() -> None:
    inner = letter(headers=(("tenant", b"a"),))
    outer = letter(headers=tuple(inner.headers), topic="shop.dlq", kind="Rejected")

    assert original_headers(outer) == list(inner.headers)


def test_a_value_that_was_left_out_is_not_taken_for_a_tombstone() -> None:
    large = letter(value=b"x" * (1 << 20))

    assert large.value is None and large.value_left_out
    assert not letter(value=None).value_left_out
    assert not letter(value=b"x", reason=large.reason or "").value_left_out
    assert not bare(value=None).value_left_out


def test_reasons_are_counted_together_where_only_large_values_differ() -> None:
    one, other = letter(value=b"x" * (1 << 20)), letter(value=b"y" * (2 << 20))

    assert one.reason != other.reason
    assert shortened(one.reason) == shortened(other.reason) == "value is no JSON (value left out)"


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        (None, "no reason"),
        ("a\n\tb  c", "a b c"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 79 + "…"),
        ("x" * 100_000, "x" * 79 + "…"),
        ("y " * 400 + "z", ("y " * 40)[:79] + "…"),
    ],
)
def test_reasons_are_one_short_line(reason: str | None, short: str) -> None:
    assert shortened(reason) == short


# Which are meant.


def test_a_selection_has_what_agrees_with_all_of_it() -> None:
    found = letter(timestamp_ms=5000)

    assert Selection().has(found)
    assert Selection(frozenset({"DecodeError"}), frozenset({"orders", "other"}), 5000).has(found)
    assert not Selection(types=frozenset({"Rejected"})).has(found)
    assert not Selection(topics=frozenset({"other"})).has(found)
    assert not Selection(since_ms=5001).has(found)
    assert not Selection(types=frozenset({"DecodeError"})).has(bare())


@pytest.mark.parametrize("wrong", [{"t": "x"}, {"t": [1]}, {"o": {}}, {"s": "1"}, {"t": None}])
def test_what_is_no_selection_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no selection"):
        Selection.from_dict(wrong)


# What is remembered.


def chance_selection(chance: random.Random) -> Selection:
    return Selection(
        frozenset(chance.sample("AB", chance.randint(0, 1))),
        frozenset(chance.sample("xy", chance.randint(0, 1))),
        chance.choice([0, 0, 10, 20]),
    )


@pytest.mark.parametrize("seed", range(200))
def test_runs_with_any_selections_repeat_nothing_and_forget_nothing(seed: int) -> None:
    chance = random.Random(seed)
    letters = [
        letter(each, kind=chance.choice("AB"), topic=chance.choice("xy"),
               timestamp_ms=chance.randint(1, 30))
        for each in range(30)
    ]  # fmt: skip
    sent: list[int] = []
    progress = Progress()
    for _ in range(6):
        selection, end = chance_selection(chance), chance.randint(0, 30)
        sent += [each.offset for each in letters[:end]
                 if selection.has(each) and not progress.has(each)]  # fmt: skip
        progress = progress.advanced(selection, end)
        progress = decoded(progress.offset, encoded(progress))

        done = {each.offset for each in letters if progress.has(each)}
        assert sorted(sent) == sorted(done)  # each once
        assert {each.offset for each in letters[:end] if selection.has(each)} <= done


def test_a_run_without_a_selection_makes_parts_before_it_needless() -> None:
    some = Selection(types=frozenset({"A"}))
    progress = Progress().advanced(some, 50).advanced(Selection(since_ms=7), 90)

    assert progress.advanced(Selection(), 60) == Progress(60, (Part(Selection(since_ms=7), 90),))
    assert encoded(progress.advanced(Selection(), 90)) == ""


def test_a_wider_selection_makes_a_narrower_one_needless() -> None:
    narrow = Selection(types=frozenset({"A"}), since_ms=20)
    wide = Selection(types=frozenset({"A", "B"}))

    assert Progress().advanced(narrow, 50).advanced(wide, 60).parts == (Part(wide, 60),)
    assert len(Progress().advanced(narrow, 70).advanced(wide, 60).parts) == 2


@pytest.mark.parametrize(
    "metadata",
    [
        "", "{", "[]", "null", '{"v":2,"c":5,"p":[]}', '{"v":1,"c":4,"p":[{"t":["A"],"u":9}]}',
        '{"v":1,"c":5,"p":[{"t":[1],"u":9}]}', '{"v":1,"c":5,"p":[{"u":9}]}',
        '{"v":1,"c":5,"p":[{"t":["A"],"u":null}]}', '{"v":1,"c":5,"p":7}', "[" * 10_000,
    ],
)  # fmt: skip
def test_metadata_of_others_is_ignored(metadata: str) -> None:
    assert decoded(5, metadata) == Progress(5)


def test_metadata_has_an_end() -> None:
    progress = Progress()
    for each in range(300):
        progress = progress.advanced(Selection(since_ms=1000 + each), 10 + each)

    assert len(encoded(progress)) > METADATA_BYTES_MAX  # so a run has to refuse


def test_letters_are_sorted_into_sent_done_and_impossible() -> None:
    order, result = Order(selection=Selection()), Sorted()
    large = letter(2, value=b"x" * (1 << 20))

    taken = [result.take(each, order, Progress(1))
             for each in (letter(0), letter(1), large, letter(3, value=None))]  # fmt: skip

    assert taken == [False, True, False, True]
    assert (result.total, result.before, result.left_out, result.foreign) == (2, 1, 1, 0)


def test_a_record_that_says_nothing_can_go_to_a_named_topic_only() -> None:
    stranger = Letter("shop.dlq", 0, 5, -1, None, b"v", ())

    nowhere, somewhere = Sorted(), Sorted()
    assert not nowhere.take(stranger, Order(selection=Selection()), Progress())
    assert somewhere.take(stranger, Order(selection=Selection(), to="there"), Progress())
    assert nowhere.foreign == 1 and nowhere.named == ["shop.dlq[0] 5"]


# What is counted.


def test_letters_are_counted_by_what_is_wrong() -> None:
    counts = Counts()
    counts.add([letter(timestamp_ms=3000), letter(timestamp_ms=1000), letter(kind="Rejected"),
                letter(headers=(("fg-redriven", b"1"),), timestamp_ms=2000)])  # fmt: skip

    (_, group), (_, other) = counts.largest(10)
    assert (group.letters, group.first_ms, group.last_ms, group.returned) == (3, 1000, 3000, 1)
    assert other.letters == 1 and counts.all.letters == 4


def test_reasons_that_are_all_different_do_not_fill_the_memory() -> None:
    counts = Counts(groups_max=10)
    counts.add(letter(reason=f"row {each}") for each in range(1000))

    assert len(counts.groups) == 11 and counts.all.letters == 1000
    (key, group), *_ = counts.largest(1)
    assert key[1] == OTHER and group.letters == 990


# What is shown.


def test_text_is_shown_as_text_and_the_rest_as_hex() -> None:
    assert excerpt(None, 10) == ["null"]
    assert excerpt(b"", 10) == [""]
    assert excerpt('{"ü": 1}'.encode(), 10) == ['{"ü": 1}']
    assert excerpt(b"a\nb", 10) == ["a", "b"]
    assert excerpt(b"\xff\x00", 10) == ["0xff00"]
    assert excerpt(b"a\x00", 10) == ["0x6100"]
    assert excerpt(b"x" * 2000, 3) == ["xxx… (2,000 bytes; --full shows all)"]
    assert readable(b"a") == {"bytes": 1, "text": "a"}
    assert readable(b"\xff") == {"bytes": 1, "hex": "ff"}
    assert readable(None) is None


def test_nothing_in_a_letter_reaches_the_terminal_as_a_command_or_a_letter_of_its_own() -> None:
    bad = HOSTILE.encode()
    found = Letter("shop.dlq", 0, 1, 5, bad, bad, [
        (HOSTILE, bad), ("fg-error-type", bad), ("fg-error-reason", bad), ("fg-orig-topic", bad),
    ])  # fmt: skip
    counts = Counts()
    counts.add([found])

    shown = lines_of(found, None)
    listed = as_text(Source(Access((), {}), ("shop.dlq",), True), counts, 10)

    for text in ("\n".join(shown), listed):
        assert all(each.isprintable() for line in text.splitlines() for each in line)
    at_the_edge = [line for each in shown for line in each.splitlines() if line[:1] != " "]
    assert at_the_edge == ["shop.dlq[0] 1"]
    assert "shop.dlq[0] 99" not in [line.strip() for line in listed.splitlines()]
    json.dumps(as_entry(found))


def test_a_value_that_was_left_out_is_shown_as_such() -> None:
    assert "left out" in lines_of(letter(value=b"x" * (1 << 20)), None)[-1]
    assert lines_of(letter(value=None), None)[-1].split() == ["value", "null"]


# Options.


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "-1:2", "1:2:3", "٣:1", "a:b"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="PARTITION:OFFSET"):
        place_of(text)


def test_times_are_ages_or_dates_in_utc() -> None:
    now_ms = SystemClock().epoch_ms()

    assert abs(moment_ms("2h", name="--since") - (now_ms - 2 * HOUR_MS)) < HOUR_MS
    assert moment_ms("2023-11-14T22:13:20", name="--since") == 1_700_000_000_000
    assert moment_ms("2023-11-14T23:13:20+01:00", name="--since") == 1_700_000_000_000
    assert moment_ms("2023-11-14T22:13:20Z", name="--since") == 1_700_000_000_000
    assert when(1_700_000_000_000) == "2023-11-14 22:13:20"
    assert (when(-1), when(None), when(2**62)) == ("–", "–", str(2**62))


@pytest.mark.parametrize("text", ["yesterday", "5", "1960-01-01", "-2h", "2023-13-01", ""])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is no time"):
        moment_ms(text, name="--since")


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("kafka://there:7", "there:7"), ("there", "there:9092"), ("there:7", "there:7"),
        ("aiokafka://there:7/", "there:7"), ("[::1]:7", "[::1]:7"), ("[::1]", "[::1]:9092"),
    ],
)  # fmt: skip
def test_brokers_are_written_as_elsewhere(text: str, server: str) -> None:
    assert server_of(text) == server


@pytest.mark.parametrize("text", ["", "kafka://", "there:seven", "http://there:7", ":7"])
def test_what_is_no_broker_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is no broker"):
        server_of(text)


def test_a_password_is_used_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWGUARD_BROKER_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("FLOWGUARD_BROKER_USERNAME", "user")
    monkeypatch.setenv("FLOWGUARD_BROKER_PASSWORD", "canary")

    access = access_to("one:1;two:2")

    assert access.servers == ("one:1", "two:2")
    assert access.auth["sasl_plain_password"] == "canary"
    assert "canary" not in repr(access)


def test_an_app_has_a_topic_of_dead_letters(good_app: str) -> None:
    assert letter_topics(find_app(good_app)) == ("shop.dlq",)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("ls",), "-A MODULE"),
        (("ls", "--topic", "t"), "--broker"),
        (("ls", "--broker", "x:y", "--topic", "t"), "is no broker"),
        (("ls", "--broker", "x", "--topic", "t", "--since", "never"), "is no time"),
        (("ls", "--broker", "x", "--topic", "t", "--limit", "0"), "0"),
        (("show", "--broker", "x", "--topic", "t", "--offset", "5"), "PARTITION:OFFSET"),
        (("show", "--broker", "x", "--topic", "t", "--topic", "u", "--offset", "0:5"), "one"),
        (("show", "--broker", "x", "--topic", "t", "--type", "A", "--offset", "0:5"), "--type"),
        (("redrive", "--broker", "x", "--topic", "t", "--to", "t"), "another topic"),
        (("redrive", "--broker", "x", "--topic", "t", "--rate", "0/s"), "sends nothing"),
        (("redrive", "--broker", "x", "--topic", "t", "--rate", "fast"), "is no rate"),
        (("purge", "--broker", "x", "--topic", "t"), "--all"),
        (("purge", "--broker", "x", "--topic", "t", "--all", "--redriven"), "one of"),
        (
            ("purge", "--broker", "x", "--topic", "t", "--before", "1h", "--before", "2h"),
            "one time",
        ),
        (("purge", "--broker", "x", "--topic", "t", "--before", "soon"), "is no time"),
        (("prune",), "did you mean purge"),
        (("ls", "--orig"), "--orig-topic"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    run: Run, args: tuple[str, ...], said: str
) -> None:
    result = run("dlq", *args)

    assert result.exit_code == USAGE
    assert said in result.stderr and result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("verb", ["ls", "show", "redrive", "purge"])
def test_a_broker_that_is_away_is_exit_code_3(
    run: Run, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowguard.cli.broker.REACH_WITHIN_S", 0.3)
    extra = ["--all"] if verb == "purge" else []

    result = run("dlq", verb, "--broker", "127.0.0.1:1", "--topic", "t", *extra)

    assert result.exit_code == NO_BROKER
    assert "cannot reach the broker at 127.0.0.1:1" in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_names_what_there_is(run: Run) -> None:
    result = run("dlq", "--help")

    assert result.exit_code == OK
    assert all(verb in result.stdout for verb in ("ls", "show", "redrive", "purge"))
