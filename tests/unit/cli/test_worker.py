"""`flowguard worker`, up to the point where it starts."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import flowguard.worker
from flowguard.app import App
from flowguard.cli.exit_codes import FAILED, NO_BROKER, USAGE
from flowguard.cli.find_app import find_app
from flowguard.cli.worker import set_address
from flowguard.security import Secret
from flowguard.worker import (
    CHATTY,
    TELLING,
    Worker,
    broker_servers,
    use_broker,
    warnings_of,
)
from tests.unit.cli.conftest import Run


@pytest.fixture(autouse=True)
def own_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the command a loop that is closed after it, and little patience."""
    monkeypatch.setattr(flowguard.worker.reach_broker, "__kwdefaults__", {"timeout_s": 0.3})
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def levels() -> Iterator[None]:
    """Put the levels of loggers back that a worker sets."""
    loggers = [logging.getLogger(name) for name in (*CHATTY, *TELLING)]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


def test_a_broker_that_is_not_there_exits_3_with_one_line(
    run: Run, good_app: str, free_port: int
) -> None:
    result = run("worker", "-A", good_app, "--web-port", str(free_port))
    assert result.exit_code == NO_BROKER
    assert result.stderr == (
        "flowguard: cannot reach the broker at 127.0.0.1:1 (connection refused); is it running? "
        "Give another with --broker\n"
    )


def test_the_broker_of_the_command_line_is_asked(run: Run, good_app: str, free_port: int) -> None:
    args = ("--web-port", str(free_port), "--broker", "kafka://127.0.0.1:2")
    assert "127.0.0.1:2 " in run("-A", good_app, "worker", *args).stderr


def test_a_taken_port_is_one_line(run: Run, good_app: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("worker", "-A", good_app, "--web-port", str(port))
    assert result.exit_code == FAILED
    assert f"127.0.0.1:{port} (address already in use)" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [("--memory", "3x"), ("--drain-timeout", "soon")])
def test_a_value_that_cannot_be_read_is_usage(
    run: Run, good_app: str, args: tuple[str, ...]
) -> None:
    result = run("worker", "-A", good_app, *args)
    assert (result.exit_code, result.stderr.count("\n")) == (USAGE, 1)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("flowguard.worker", True),
        ("flowguard.unprocessed", True),
        ("flowguard.spill", True),
        ("flowguard.spill.store", True),
        ("flowguard.intake.fetcher", False),
        ("faust", False),
    ],
)
def test_what_is_said_about_records_and_disk_is_shown_and_what_services_say_of_themselves_is_not(
    good_app: str, levels: None, name: str, shown: bool
) -> None:
    app = find_app(good_app)
    assert isinstance(app, App)

    Worker(app, loglevel="info").on_setup_root_logger(logging.getLogger(), logging.INFO)

    assert logging.getLogger(name).isEnabledFor(logging.INFO) is shown


def test_a_user_in_the_address_is_not_shown_and_said_not_to_be_used(
    run: Run, good_app: str, free_port: int
) -> None:
    address = ("--broker", "kafka://me:canary@127.0.0.1:1")
    result = run("worker", "-A", good_app, "--web-port", str(free_port), *address)
    assert result.exit_code == NO_BROKER
    assert "the user in the address of the broker is not used" in result.stderr
    assert "canary" not in result.output + result.stderr


def test_a_worker_says_who_cannot_see_its_pages(
    good_app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = find_app(good_app)
    assert isinstance(app, App)
    assert list(warnings_of(app)) == []
    set_address(app, "0.0.0.0", None)
    (line,) = warnings_of(app)
    assert line.startswith("0.0.0.0 can be reached from elsewhere, so only /metrics")
    monkeypatch.setitem(vars(app), "web_token", Secret("canary-0123456789"))
    assert list(warnings_of(app)) == []


def test_a_token_that_could_be_guessed_is_usage(run: Run, good_app: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("canary")
    result = run("worker", "-A", good_app, "--web-token-file", str(tmp_path / "token"))
    assert (result.exit_code, result.stderr.count("\n")) == (USAGE, 1)
    assert "16 or more" in result.stderr and "canary" not in result.stderr


def test_another_broker_reaches_what_was_made_at_import(good_app: str) -> None:
    app = find_app(good_app)
    assert isinstance(app, App)
    use_broker(app, "kafka://there:7", origin="command line")
    assert broker_servers(app) == ["there:7"]
    assert str(app.producer_transport.url[0]) == "kafka://there:7"
    assert app.conf.origins["broker"] == "command line"


def test_a_loop_is_closed_as_soon_as_what_was_cancelled_has_ended_not_a_second_later(
    good_app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = find_app(good_app)
    assert isinstance(app, App)
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def linger() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    worker = Worker(app, loop=loop)
    task = loop.create_task(linger())
    loop.run_until_complete(asyncio.sleep(0))
    monkeypatch.setattr(worker, "_gather_all", task.cancel)  # it gives up waiting
    began_s = loop.time()

    worker._shutdown_loop()

    assert loop.is_closed() and ended.is_set()
    assert loop.time() - began_s < flowguard.worker.CANCELLED_WITHIN_S
