"""Planted canaries: what is secret is shown nowhere, whatever is asked for and whatever fails."""

from __future__ import annotations

import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kafka.outside import Outside, Record
from tests.kafka.worker import FLOWGUARD, Worker, Workers
from tests.secure_kafka import Credentials, SecureKafka

#: Each has a name of its own, so that a failure says which one was shown.
KEY_PASSWORD = "canary-key-password"
TOKEN = "canary-web-token-0123"
REGISTRY_USER, REGISTRY_PASSWORD = "canary-registry-user", "canary-registry-password"
ADDRESS_PASSWORD = "canary-address-password"
CANARY = re.compile(rb"canary|Y2FuYXJ5|alices-password|YWxpY2VzLXBhc3N3b3Jk")  # and in base64

APP = """
app = fg.App(APP, broker=BROKER.replace("://", "://somebody:canary-address-password@"), debug=True)
orders = app.feed(ORDERS, columns={"id": "int64"})
rows = app.feed(ROWS, codec="avro",
                registry="http://canary-registry-user:canary-registry-password@127.0.0.1:1")
sums = app.Table("sums", default=int)

@app.agent(orders)
async def read(batches):
    async for batch in batches:
        if (HERE / "crash").exists():
            raise ValueError(f"it fails with {app.conf.broker} and {app.conf.broker_credentials}")

@app.agent(rows)
async def read_rows(batches):
    async for batch in batches:
        pass
"""

PAGES = ("/", "/api/state", "/api/events", "/metrics", "/healthz", "/readyz", "/graph/", "/table/",
         "/router/", "/stats/", "/nowhere")  # fmt: skip


def pages_of(worker: Worker) -> bytes:
    """Return what all pages say, with and without the token, headers too."""
    found = []
    for path in PAGES:
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": "Bearer x"}):
            for method in ("GET", "POST"):
                address = f"http://127.0.0.1:{worker.port}{path}"
                request = urllib.request.Request(address, method=method, headers=headers)
                try:
                    with urllib.request.urlopen(request, timeout=20) as page:
                        found.append(str(page.headers).encode() + page.read())
                except urllib.error.HTTPError as error:
                    found.append(str(error.headers).encode() + error.read())
    return b"\n".join(found)


def assert_without_canary(what: str, text: bytes) -> None:
    shown = CANARY.search(text)
    around = b"" if shown is None else text[max(0, shown.start() - 200) : shown.end() + 20]
    assert shown is None, f"{what} shows a secret: {around!r}"


def test_no_secret_is_shown(
    secure: SecureKafka,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    topic_name: Callable[[str], str],
) -> None:
    credentials = Credentials(secure, tmp_path)
    signed = secure.authority.sign("client", passphrase=KEY_PASSWORD)
    certificate, key = signed.write(tmp_path, "client")
    (tmp_path / "token").write_text(TOKEN)
    variables = {
        # PLAIN sends the password itself; SCRAM is tried by those that fail.
        **credentials.user("SASL_SSL", "PLAIN"),
        "SSL_CERTFILE": certificate, "SSL_KEYFILE": key, "SSL_KEY_PASSWORD": KEY_PASSWORD,
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(f"FLOWGUARD_BROKER_{name}", value)
    monkeypatch.setenv("FLOWGUARD_WEB_TOKEN_FILE", str(tmp_path / "token"))
    outside, workers = Outside(secure.bootstrap), Workers(tmp_path, secure.bootstrap, topic_name)
    orders, rows = (secure.create_topic(topic_name(name)) for name in ("orders", "rows"))
    outside.produce(orders, [Record({"id": 1}), Record(b"no JSON")])
    outside.produce(rows, [Record(b"\0\0\0\0\1xy")])
    debugged = (*FLOWGUARD, "-A", "app", "worker", "-l", "debug")
    try:
        worker = workers.start(
            APP, command=FLOWGUARD, bootstrap=secure.address("SASLTLS"), level="debug",
            ORDERS=orders, ROWS=rows,
        )  # fmt: skip
        worker.until(lambda: outside.is_done(worker.group, orders))
        worker.until(lambda: "schema registry" in worker.said, what="it asks no registry")
        (worker.directory / "crash").touch()
        outside.produce(orders, [Record({"id": 2})])
        worker.until(lambda: "it fails with" in worker.said, what="its agent does not fail")

        assert_without_canary("a page", pages_of(worker))
        command_line = Path(f"/proc/{worker.process.pid}/cmdline").read_bytes()
        assert_without_canary("the title of the process", command_line)
        checked = subprocess.run(
            [*FLOWGUARD, "check", "--output", "check.json", "-A", "app"], cwd=worker.directory,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert b"***" in checked.stdout, checked.stderr
        as_json = (worker.directory / "check.json").read_bytes()
        assert_without_canary("check", checked.stdout + checked.stderr + as_json)
        assert worker.stop() == 0
        log = worker.log.read_bytes()
        assert b"SaslAuthenticateRequest_v1(***)" in log, "aiokafka does not debug here"
        assert b"the user in the address of the broker is not used" not in log  # there is another
        assert_without_canary("the log", log)

        # What cannot start says no more.
        for name, value in (
            ("FLOWGUARD_BROKER_SASL_MECHANISM", "SCRAM-SHA-256"),
            ("FLOWGUARD_BROKER_SSL_KEY_PASSWORD", "canary-wrong"),
            ("FLOWGUARD_BROKER", "kafka://a:canary-address-password@host:no-port"),
            ("FLOWGUARD_WEB_TOKEN", "canary"),
        ):
            with monkeypatch.context() as patch:
                patch.setenv("FLOWGUARD_BROKER_PASSWORD", "canary-wrong")
                patch.setenv(name, value)
                failed = subprocess.run(
                    [*debugged, "--web-port", str(worker.port)], cwd=worker.directory,
                    capture_output=True, timeout=60, check=False,
                )  # fmt: skip
            assert failed.returncode in (1, 2, 3) and failed.stderr
            assert_without_canary(f"a failure ({name})", failed.stdout + failed.stderr)
    finally:
        workers.end()
