"""A worker and a broker that proves who it is and wants to know who asks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import flowguard as fg
from flowguard.worker import BrokerNotReached, reach_broker
from tests.certificates import Authority
from tests.kafka.outside import Outside, Record
from tests.kafka.worker import FLOWGUARD, Workers
from tests.secure_kafka import PASSWORD, Credentials, SecureKafka


@pytest.fixture
def credentials(secure: SecureKafka, tmp_path: Path) -> Credentials:
    return Credentials(secure, tmp_path)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """Set the variables of credentials."""

    def give(names: Mapping[str, str]) -> None:
        for name, value in names.items():
            monkeypatch.setenv(f"FLOWGUARD_BROKER_{name}", value)

    return give


APP = """
from flowguard.chunk import TopicPartition

app = fg.App(APP, broker=BROKER, lanes=[fg.Lane("later", overflow=fg.Spill("1GiB"))])
orders = app.feed(ORDERS, columns={"id": "int64"})
copies = app.feed(COPIES)

@app.agent(orders, sink=[copies])
async def copy(batches):
    async for batch in batches:
        yield batch.to_polars()

@app.page("/again/")
async def read_again(self, request):
    found = await app.runtime.record_at(TopicPartition(ORDERS, 0), 7)
    return self.json({"offset": found["offset"]})
"""

WAYS = {
    "SASL_PLAINTEXT with PLAIN": ("SASL", lambda it: it.user("SASL_PLAINTEXT", "PLAIN")),
    "SASL_SSL with SCRAM-SHA-512": ("SASLTLS", lambda it: it.user("SASL_SSL", "SCRAM-SHA-512")),
    "mutual TLS": ("MUTUAL", lambda it: it.certificate()),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_worker_reads_sends_writes_dead_letters_and_commits(
    way: str,
    secure: SecureKafka,
    credentials: Credentials,
    given: Callable[[Mapping[str, str]], None],
    tmp_path: Path,
    topic_name: Callable[[str], str],
) -> None:
    listener, variables = WAYS[way]
    given(variables(credentials))
    outside, workers = Outside(secure.bootstrap), Workers(tmp_path, secure.bootstrap, topic_name)
    orders, copies = (secure.create_topic(topic_name(name)) for name in ("orders", "copies"))
    outside.produce(orders, [Record({"id": number}) for number in range(500)])
    outside.produce(orders, [Record(b"no JSON")])
    try:
        worker = workers.start(
            APP, bootstrap=secure.address(listener), ORDERS=orders, COPIES=copies
        )
        worker.until(lambda: outside.is_done(worker.group, orders), what="it does not commit")
        assert sorted(row["id"] for row in outside.values(copies)) == list(range(500))
        assert outside.count(f"{worker.group}.dlq") == 1
        assert worker.page("/again/") == {"offset": 7}, "what is read beside the fetcher"
        assert worker.stop() == 0
        assert PASSWORD not in worker.said and "key-password" not in worker.said
    finally:
        workers.end()


async def reached(address: str) -> None:
    await reach_broker(fg.App("shop", broker=f"kafka://{address}"), timeout_s=5.0)


@pytest.mark.parametrize(
    ("listener", "variables"),
    [
        ("PLAINTEXT", lambda it: {}),
        ("TLS", lambda it: it.trust()),
        ("MUTUAL", lambda it: it.certificate()),
        ("SASL", lambda it: it.user("SASL_PLAINTEXT", "PLAIN")),
        ("SASL", lambda it: it.user("SASL_PLAINTEXT", "SCRAM-SHA-256")),
        ("SASLTLS", lambda it: it.user("SASL_SSL", "PLAIN")),
        ("SASLTLS", lambda it: it.user("SASL_SSL", "SCRAM-SHA-256")),
        ("SASLTLS", lambda it: it.user("SASL_SSL", "SCRAM-SHA-512")),
    ],
)
async def test_every_way_to_be_let_in(
    listener: str,
    variables: Callable[[Credentials], dict[str, str]],
    secure: SecureKafka,
    credentials: Credentials,
    given: Callable[[Mapping[str, str]], None],
) -> None:
    given(variables(credentials))
    plain = listener == "PLAINTEXT"
    await reached(secure.bootstrap if plain else secure.address(listener))


@pytest.mark.parametrize(
    ("listener", "variables", "said"),
    [
        ("SASL", lambda it: it.user("SASL_PLAINTEXT", "PLAIN", "wrong"),
         "it does not accept user 'alice' with this password"),
        ("SASLTLS", lambda it: it.user("SASL_SSL", "SCRAM-SHA-512", "wrong"),
         "it does not accept user 'alice' with this password"),
        ("TLS", lambda it: it.trust(Authority("another")), "its certificate is not trusted"),
        ("TLS", lambda it: {}, "it speaks TLS"),
        ("MUTUAL", lambda it: it.trust(), "FLOWGUARD_BROKER_SSL_CERTFILE"),
        ("MUTUAL", lambda it: it.certificate(Authority("another")), "SSL_CERTFILE"),
        ("SASL", lambda it: {}, "if it expects TLS or a user, set FLOWGUARD_BROKER_SECURITY"),
        ("SASL", lambda it: it.trust(), "speak TLS"),
        ("PLAINTEXT", lambda it: it.trust(), "speak TLS"),
        ("PLAINTEXT", lambda it: it.user("SASL_PLAINTEXT", "PLAIN"), "SECURITY_PROTOCOL"),
    ],
)  # fmt: skip
async def test_whoever_is_not_let_in_is_told_why_in_one_line(
    listener: str,
    variables: Callable[[Credentials], dict[str, str]],
    said: str,
    secure: SecureKafka,
    credentials: Credentials,
    given: Callable[[Mapping[str, str]], None],
) -> None:
    given(variables(credentials))
    plain = listener == "PLAINTEXT"
    address = secure.bootstrap if plain else secure.address(listener)
    with pytest.raises(BrokerNotReached) as error:
        await reached(address)
    line = str(error.value)
    assert said in line and address in line and line.isprintable()
    assert "wrong" not in line.replace("wrong name", "") and PASSWORD not in line


async def test_a_broker_of_another_name_is_not_trusted(
    secure: SecureKafka, credentials: Credentials, given: Callable[[Mapping[str, str]], None]
) -> None:
    given(credentials.trust())
    with pytest.raises(BrokerNotReached, match="its certificate is for another name"):
        await reached(secure.address("TLS", host="127.0.0.1"))


def test_a_wrong_password_ends_the_command_with_one_line_and_its_own_exit_code(
    secure: SecureKafka,
    credentials: Credentials,
    given: Callable[[Mapping[str, str]], None],
    tmp_path: Path,
) -> None:
    given(credentials.user("SASL_SSL", "SCRAM-SHA-512", "not-the-password"))
    source = 'import flowguard as fg\napp = fg.App("shop")\norders = app.feed("orders")\n'
    source += "@app.agent(orders)\nasync def read(batches): ...\n"
    (tmp_path / "app.py").write_text(source)
    broker = f"kafka://{secure.address('SASLTLS')}"
    done = subprocess.run(
        [*FLOWGUARD, "worker", "-A", "app", "--broker", broker, "-l", "debug"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1 and "does not accept user 'alice'" in done.stderr
    assert "not-the-password" not in done.stdout + done.stderr
