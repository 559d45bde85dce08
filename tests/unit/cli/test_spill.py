"""`flowguard spill`: what it prints, what it deletes, how it fails."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from click.testing import CliRunner

from flowguard.chunk import TopicPartition
from flowguard.cli import cli, spill_verify
from flowguard.cli.exit_codes import CORRUPT, FAILED, INTERRUPTED, OK, USAGE
from flowguard.cli.spill_directory import age_of, describe_slot
from flowguard.cli.spill_ls import slot_entry
from flowguard.cli.terminal import encoded, printable
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.findings import SlotReport
from flowguard.spill.layout import segment_name
from tests.spill.builders import APP, spill
from tests.unit.cli.conftest import Run
from tests.unit.cli.spilled import SEGMENT, Spilled, document
from tests.unit.spill.test_inspection import ENCRYPTED, later_format

HOSTILE = TopicPartition("x\x1b]0;owned\x07[bold red][/]\u009b2J\u202e", 0)


@pytest.fixture
def spilled(tmp_path: Path) -> Iterator[Spilled]:
    made = Spilled(tmp_path / "spill")
    spill(made.store, 0, 10)
    spill(made.store, 10, 20)
    spill(made.store, 0, 5, lane="slow")
    yield made
    made.slot.release()


@pytest.fixture(autouse=True)
def nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill_verify, "pause", lambda _: None)


# ls.


def test_ls_shows_slots_lanes_segments_and_offsets(run: Run, spilled: Spilled) -> None:
    result = run("spill", "ls", spilled.root)

    assert result.exit_code == OK and result.stderr == ""
    assert f"{APP}/0: the worker with process {os.getpid()} has it; 2 segments of" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["bulk", "1"] in [line[:2] for line in lines]
    (segment,) = [line for line in lines if line[:1] == [SEGMENT]]
    assert segment[1] == "open" and segment[-2:] == ["orders[0]", "0–19"]


def test_ls_tells_programs_the_same(run: Run, spilled: Spilled, tmp_path: Path) -> None:
    file = tmp_path / "report.json"

    found = document(run("spill", "ls", spilled.root, "--json", "--output", str(file)))

    assert found == json.loads(file.read_text())
    assert (found["schema"], found["directory"]) == ("flowguard.spill/v1", spilled.root)
    (slot,) = found["slots"]
    assert (slot["slot"], slot["held"], slot["process"]) == (f"{APP}/0", True, os.getpid())
    assert slot["lanes"]["bulk"]["records"] == 20
    assert slot["lanes"]["bulk"]["live_bytes"] == slot["segments"][0]["payload_bytes"]
    assert slot["segments"][0]["partitions"] == [
        {"topic": "orders", "partition": 0, "frames": 2, "records": 20,
         "first_offset": 0, "last_offset": 19}
    ]  # fmt: skip


@pytest.mark.parametrize("below", ["", APP, f"{APP}/0"])
def test_ls_takes_the_directory_of_an_app_or_a_slot(run: Run, spilled: Spilled, below: str) -> None:
    (slot,) = document(run("spill", "ls", os.path.join(spilled.root, below), "--json"))["slots"]

    assert slot["slot"] == f"{APP}/0" and len(slot["segments"]) == 2


def test_the_directory_may_come_from_the_environment(
    run: Run, spilled: Spilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOWGUARD_SPILL_DIR", spilled.root)

    assert len(document(run("spill", "ls", "--json"))["slots"]) == 1


def test_ls_of_an_empty_directory_says_that_nothing_is_there(run: Run, tmp_path: Path) -> None:
    result = run("spill", "ls", str(tmp_path))

    assert result.exit_code == OK and "nothing is spilled in" in result.stdout
    assert document(run("spill", "ls", str(tmp_path), "--json"))["slots"] == []


def test_ls_shows_rubbish_for_what_it_is(run: Run, spilled: Spilled) -> None:
    (spilled.inside / segment_name("bulk", 7)).write_bytes(b"")
    (spilled.inside / segment_name("bulk", 8)).write_bytes(later_format())
    (spilled.inside / "notes.txt").touch()
    (spilled.inside / "quarantine").mkdir()
    (spilled.inside / "quarantine" / segment_name("bulk", 3)).write_bytes(bytes(2048))

    result = run("spill", "ls", spilled.root)

    assert result.exit_code == OK
    entries = document(run("spill", "ls", spilled.root, "--json"))["slots"][0]["segments"]
    assert [(each["state"], each["damaged"]) for each in entries] == [
        ("open", False), ("damaged", True), ("newer", None), ("open", False),
    ]  # fmt: skip
    for text in (
        "the file has 0 bytes, less than a header", "of a later format",
        "not flowguard's: notes.txt", "1 file of 2.0 KiB in quarantine",
    ):  # fmt: skip
        assert text in result.stdout


def test_no_name_reaches_the_terminal_as_a_command(run: Run, spilled: Spilled) -> None:
    frame = spill(spilled.store, 20, 30, partition=HOSTILE)
    (spilled.inside / os.fsdecode(b"bad\x1b[31m\xff.txt")).touch()
    spilled.damage(frame)

    for args in (("ls",), ("verify",), ("purge", "--dry-run")):
        for more in ((), ("--json",)):
            result = run("spill", *args, spilled.root, *more)
            assert result.exit_code in (OK, CORRUPT), result.output
            for text in (result.stdout, result.stderr):
                assert all(each.isprintable() or each == "\n" for each in text)
    assert "x\\x1b]0;owned\\x07[bold red][/]\\x9b2J\\u202e[0] 20–29" in run(
        "spill", "ls", spilled.root
    ).stdout  # fmt: skip
    held = document(run("spill", "ls", spilled.root, "--json"))["slots"][0]["segments"][0]
    assert held["partitions"][1]["topic"] == HOSTILE.topic


# verify.


def test_verify_of_whole_files_exits_with_0(run: Run, spilled: Spilled) -> None:
    for depth in ((), ("--deep",)):
        result = run("spill", "verify", spilled.root, *depth)
        assert result.exit_code == OK and result.stderr == ""
        assert "of 3 frames in 2 segments: nothing is damaged" in result.stdout


def test_verify_names_what_is_damaged_and_exits_with_4(run: Run, tmp_path: Path) -> None:
    spilled = Spilled(tmp_path)
    spill(spilled.store, 0, 10)
    frame = spill(spilled.store, 10, 20)
    spilled.leave()
    spilled.damage(frame)

    result, as_json = (run("spill", "verify", spilled.root, *more) for more in ((), ("--json",)))

    assert result.exit_code == as_json.exit_code == CORRUPT
    assert "orders[0], offsets 10 to 19: its checksum does not agree" in result.stdout
    assert result.stderr == as_json.stderr and result.stderr.count("\n") == 1
    assert f"corrupt data in 1 segment, such as {APP}/0/{SEGMENT};" in result.stderr
    (problem,) = document(as_json)["problems"]
    assert document(as_json)["result"] == "corrupt"
    assert (problem["segment"], problem["start"], problem["lane"]) == (
        SEGMENT, frame.position, "bulk",
    )  # fmt: skip
    assert (problem["topic"], problem["partition"]) == ("orders", 0)
    assert (problem["first_offset"], problem["last_offset"]) == (10, 19)


def test_verify_says_what_it_cannot_check_without_a_key(run: Run, tmp_path: Path) -> None:
    spilled = Spilled(tmp_path, lanes=ENCRYPTED)
    frame = spill(spilled.store, 0, 10)
    spilled.leave()

    result = run("spill", "verify", spilled.root, "--deep")
    spilled.damage(frame)
    damaged = run("spill", "verify", spilled.root)

    assert result.exit_code == OK
    assert "1 segment encrypted: their checksums cover all bytes and were checked" in result.stdout
    assert document(run("spill", "verify", spilled.root, "--json"))["encrypted_segments"] == 1
    assert damaged.exit_code == CORRUPT and "?[0], offsets 0 to 9: its checksum" in damaged.stdout


def test_verify_leaves_a_later_format_to_later_versions(run: Run, spilled: Spilled) -> None:
    (spilled.inside / segment_name("bulk", 8)).write_bytes(later_format())

    result = run("spill", "verify", spilled.root)

    assert result.exit_code == OK and "1 segment of a later format: not checked" in result.stdout


def test_what_cannot_be_read_is_a_failure_and_not_corruption(
    run: Run, spilled: Spilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: object, path: str, *, writable: bool = False) -> None:
        raise OSError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(RealFileSystem, "open", denied)

    result = run("spill", "verify", spilled.root, "--json")

    assert result.exit_code == FAILED and document(result)["result"] == "unreadable"
    assert "cannot be read: Permission denied; run as the worker's user" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["ls", "verify", "purge"])
def test_directories_that_cannot_be_listed_are_a_failure(
    run: Run, spilled: Spilled, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    closed = spilled.root
    listing = RealFileSystem.list_directory

    def denied(self: RealFileSystem, path: str) -> object:
        if path == closed:
            raise OSError(errno.EACCES, "Permission denied", path)
        return listing(self, path)

    monkeypatch.setattr(RealFileSystem, "list_directory", denied)
    all_of_it = run("spill", command, spilled.root)
    closed = f"{spilled.root}/{APP}"
    a_part = run("spill", command, spilled.root, "--json")

    assert all_of_it.exit_code == a_part.exit_code == FAILED
    for result in (all_of_it, a_part):
        assert "cannot be read" in result.stderr and result.stderr.count("\n") == 1
    assert document(a_part)["unread"] == [{"path": closed, "why": "Permission denied"}]


def test_a_directory_that_vanishes_is_no_failure(
    run: Run, spilled: Spilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(self: RealFileSystem, path: str) -> object:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    monkeypatch.setattr(RealFileSystem, "list_directory", gone)

    for command in ("ls", "verify", "purge"):
        assert run("spill", command, spilled.root).exit_code == OK


def test_an_interruption_exits_with_130(
    run: Run, spilled: Spilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(spill_verify, "verify_slot", interrupted)

    assert run("spill", "verify", spilled.root).exit_code == INTERRUPTED


# purge.


def test_purge_says_what_it_deletes(run: Run, spilled: Spilled) -> None:
    result = run("spill", "purge", spilled.root, "--lane", "slow", "--yes")

    assert result.exit_code == OK and result.stderr == ""
    assert "slow  orders[0] 0–4" in result.stdout and "deleted 1 file of" in result.stdout
    assert spilled.files() == [SEGMENT]


def test_purge_tells_programs_what_it_deleted(run: Run, spilled: Spilled) -> None:
    found = document(run("spill", "purge", spilled.root, "--yes", "--json"))

    assert (found["schema"], found["deleted_files"]) == ("flowguard.spill-purge/v1", 2)
    assert found["deleted_bytes"] == sum(each["bytes"] for each in found["chosen"]) > 0
    assert [each["lane"] for each in found["chosen"]] == ["bulk", "slow"]
    assert spilled.files() == []


def test_a_dry_run_deletes_nothing_and_asks_nothing(run: Run, spilled: Spilled) -> None:
    result = run("spill", "purge", spilled.root, "--dry-run")

    assert result.exit_code == OK and "would delete 2 files" in result.stdout
    assert len(spilled.files()) == 2
    assert document(run("spill", "purge", spilled.root, "--dry-run", "--json"))["dry_run"]


@pytest.mark.parametrize(
    ("answer", "code", "left", "says"),
    [
        ("y\n", OK, 0, "deleted 2 files"),
        ("n\n", FAILED, 2, "nothing is deleted, as you said"),
        ("\n", FAILED, 2, "nothing is deleted, as you said"),
        ("", USAGE, 2, "nobody answers; say --yes"),
    ],
)
def test_purge_asks_before_it_deletes(
    spilled: Spilled, answer: str, code: int, left: int, says: str
) -> None:
    result = CliRunner().invoke(cli, ["spill", "purge", spilled.root], input=answer)

    assert result.exit_code == code and says in result.output
    assert "delete 2 files of" in result.stderr and "is read from Kafka again" in result.stderr
    assert len(spilled.files()) == left


def test_an_interruption_at_the_question_deletes_nothing(spilled: Spilled) -> None:
    code = "import sys; from flowguard.cli import main; sys.argv[0] = 'flowguard'; main()"
    command = [sys.executable, "-c", code, "spill", "purge", spilled.root]
    with Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        assert process.stderr is not None
        asked = b""
        while not asked.endswith(b"[y/N]"):
            letter = process.stderr.read(1)
            assert letter, asked
            asked += letter
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()

    assert process.returncode == INTERRUPTED and b"flowguard: interrupted" in said
    assert len(spilled.files()) == 2


def test_purge_of_what_is_old_goes_by_the_last_write(run: Run, spilled: Spilled) -> None:
    os.utime(spilled.inside / SEGMENT, (1, 1))

    run("spill", "purge", spilled.root, "--older-than", "1h", "--yes")

    assert spilled.files() == [segment_name("slow", 1)]


def test_purge_without_anything_to_delete_does_not_ask(run: Run, spilled: Spilled) -> None:
    result = run("spill", "purge", spilled.root, "--lane", "blk")

    assert result.exit_code == OK
    assert result.stdout == (
        "nothing to delete: there is nothing of lane blk; did you mean bulk?\n"
    )


def test_purge_says_what_it_leaves_alone(run: Run, spilled: Spilled) -> None:
    (spilled.inside / segment_name("bulk", 7)).write_bytes(b"garbage")
    (spilled.inside / segment_name("bulk", 8)).write_bytes(later_format())

    result = run("spill", "purge", spilled.root, "--topic", "orders:0", "--yes")

    assert "left alone, 1 file: its topics cannot be read" in result.stdout
    assert "left alone, 1 file: it is of a later format" in result.stdout
    assert spilled.files() == [segment_name("bulk", 7), segment_name("bulk", 8)]


def test_what_could_not_be_deleted_is_a_failure(
    run: Run, spilled: Spilled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: object, path: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", path)

    monkeypatch.setattr(RealFileSystem, "unlink", refused)

    result = run("spill", "purge", spilled.root, "--yes", "--json")

    assert result.exit_code == FAILED and len(document(result)["failed"]) == 2
    assert "2 files could not be deleted, such as" in result.stderr
    assert result.stderr.count("\n") == 1 and "Read-only file system" in result.stderr


# Mistakes.


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("ls",), "say which directory: flowguard spill ls DIR, or set FLOWGUARD_SPILL_DIR"),
        (("ls", "/no/such\x1b/place"), "/no/such\\x1b/place is no directory; name what the"),
        (("verify", "/dev/null"), "/dev/null is no directory"),
        (("vrify", "."), "did you mean verify?"),
        (("verify", ".", "--dep"), "did you mean --deep"),
        (("purge", ".", "--topic", "orders:x"), "'orders:x' is no topic; write orders, or"),
        (("purge", ".", "--topic", ":1"), "is no topic"),
        (("purge", ".", "--older-than", "soon"), "--older-than='soon'"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_a_hint(
    run: Run, args: tuple[str, ...], message: str
) -> None:
    result = run("spill", *args)

    assert result.exit_code == USAGE
    assert result.stderr.count("\n") == 1 and message in result.stderr


# Words.


def test_a_worker_in_another_container_has_no_number_here() -> None:
    assert "a worker has it that cannot be seen from here" in describe_slot(SlotReport("a/b", 0))
    assert slot_entry(SlotReport("a/b", 0), 0)["process"] is None
    assert slot_entry(SlotReport("a/b", 0), 0)["held"] is True
    assert "no worker has it" in describe_slot(SlotReport("a/b"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0.2, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"),
     (7200, "2 h"), (172_799, "48 h"), (864_000, "10 d")],
)  # fmt: skip
def test_ages_are_as_coarse_as_it_matters(seconds: float, text: str) -> None:
    assert age_of(seconds) == text


def test_text_of_others_is_shown_and_not_obeyed() -> None:
    text = "a\x1b[2J\x7f\u009b\u202e\udcffé日\U000e0001"

    shown = printable(text)

    assert shown == "a\\x1b[2J\\x7f\\x9b\\u202e\\udcffé日\\U000e0001"
    written = encoded({"name": text})
    assert json.loads(written) == {"name": text}
    assert all(each.isprintable() or each == "\n" for each in written) and "é日" in written
