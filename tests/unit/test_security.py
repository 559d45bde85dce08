"""FLOWGUARD_BROKER_*: how a worker proves who it is."""

from __future__ import annotations

from pathlib import Path

import pytest

import flowguard as fg
from flowguard.errors import ConfigError
from flowguard.faust_conf import credentials
from flowguard.security import Secret, read_security, read_token, without_user
from tests.certificates import Authority

USER = {"FLOWGUARD_BROKER_USERNAME": "me", "FLOWGUARD_BROKER_PASSWORD": "canary"}


def test_nothing_set_means_nothing_said() -> None:
    assert read_security({"FLOWGUARD_BROKER": "kafka://h"}) is None


def test_a_user_alone_asks_for_an_encrypted_connection() -> None:
    security = read_security(USER)
    assert security is not None
    assert (security.protocol, security.mechanism) == ("SASL_SSL", "PLAIN")
    assert security.ssl_context() is not None


def test_kafkas_own_spelling_is_found() -> None:
    names = {"SECURITY_PROTOCOL": "sasl_plaintext", "SASL_MECHANISM": "scram-sha-512"}
    security = read_security({**USER, **{f"FLOWGUARD_BROKER_{k}": v for k, v in names.items()}})
    assert security is not None
    found = credentials(security)
    assert found is not None
    assert (found.protocol.value, found.mechanism.value) == ("SASL_PLAINTEXT", "SCRAM-SHA-512")
    assert found.password == "canary"


def test_a_password_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("canary\n")
    security = read_security({"FLOWGUARD_BROKER_USERNAME": "me",
                              "FLOWGUARD_BROKER_PASSWORD_FILE": str(tmp_path / "p")})  # fmt: skip
    assert security is not None and security.password is not None
    assert security.password.reveal() == "canary"


def test_a_secret_shows_itself_nowhere() -> None:
    security = read_security(USER)
    for text in (repr(security), str(Secret("canary")), f"{Secret('canary')}"):
        assert "canary" not in text


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SECURITY_PROTOCOL": "SASL_SLS"}, "did you mean SASL_SSL"),
        ({"USERNAME": "me"}, "needs FLOWGUARD_BROKER_PASSWORD"),
        ({"PASSWORD": "canary"}, "SASL_SSL needs FLOWGUARD_BROKER_USERNAME"),
        ({"USERNAME": "me", "PASSWORD": "canary", "SECURITY_PROTOCOL": "SSL"}, "use SASL_SSL"),
        ({"SASL_MECHANISM": "PLAIN"}, "SASL_MECHANISM is not used with"),
        ({"SSL_CAFILE": "/ca.pem", "SECURITY_PROTOCOL": "PLAINTEXT"}, "or use SSL"),
        (
            {
                "USERNAME": "me",
                "PASSWORD": "canary",
                "SSL_CAFILE": "/ca.pem",
                "SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            },
            "or use SASL_SSL",
        ),
        ({"PASSWORD": "canary", "SECURITY_PROTOCOL": "SASL_SSL"}, "FLOWGUARD_BROKER_USERNAME"),
    ],
)
def test_what_cannot_be_is_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read_security({f"FLOWGUARD_BROKER_{name}": value for name, value in variables.items()})
    assert "canary" not in str(error.value)


def test_a_certificate_that_is_not_there_is_named() -> None:
    security = read_security({"FLOWGUARD_BROKER_SSL_CAFILE": "/nowhere/ca.pem"})
    assert security is not None and security.protocol == "SSL"
    with pytest.raises(ConfigError, match=r"/nowhere/ca\.pem"):
        security.ssl_context()


def test_a_variable_that_is_nearly_one_of_ours_is_refused_and_others_are_left_alone() -> None:
    with pytest.raises(ConfigError, match="did you mean FLOWGUARD_BROKER_SSL_CAFILE"):
        read_security({"FLOWGUARD_BROKER_SSL_CAFLE": "/ca.pem"})
    kubernetes = {"FLOWGUARD_BROKER_PORT": "tcp://1:2", "FLOWGUARD_BROKER_SERVICE_HOST": "1"}
    assert read_security(kubernetes) is None


def of_client(directory: Path, **options: str) -> dict[str, str]:
    """Return variables for a certificate whose key may be encrypted."""
    authority = Authority("ca")
    (directory / "ca.pem").write_text(authority.certificate)
    certificate, key = authority.sign("client", **options).write(directory, "client")
    names = {"CAFILE": str(directory / "ca.pem"), "CERTFILE": certificate, "KEYFILE": key}
    return {f"FLOWGUARD_BROKER_SSL_{name}": value for name, value in names.items()}


def test_a_certificate_with_an_open_key_is_used(tmp_path: Path) -> None:
    security = read_security(of_client(tmp_path))
    assert security is not None and security.ssl_context() is not None


def test_an_encrypted_key_is_used_with_its_passphrase(tmp_path: Path) -> None:
    variables = of_client(tmp_path, passphrase="canary")
    security = read_security({**variables, "FLOWGUARD_BROKER_SSL_KEY_PASSWORD": "canary"})
    assert security is not None and security.ssl_context() is not None
    assert "canary" not in repr(security)


def test_nobody_is_asked_for_a_passphrase_on_the_terminal(tmp_path: Path) -> None:
    security = read_security(of_client(tmp_path, passphrase="canary"))
    assert security is not None
    with pytest.raises(ConfigError, match="is encrypted; set FLOWGUARD_BROKER_SSL_KEY_PASSWORD"):
        security.ssl_context()


def test_a_wrong_passphrase_is_one_line_without_it(tmp_path: Path) -> None:
    variables = of_client(tmp_path, passphrase="right")
    security = read_security({**variables, "FLOWGUARD_BROKER_SSL_KEY_PASSWORD": "canary"})
    assert security is not None
    with pytest.raises(ConfigError, match="SSL_KEY_PASSWORD right") as error:
        security.ssl_context()
    assert "canary" not in str(error.value) and "\n" not in str(error.value)


def test_a_key_of_another_certificate_is_named(tmp_path: Path) -> None:
    variables = of_client(tmp_path)
    _, other = Authority("other").sign("client").write(tmp_path, "other")
    security = read_security({**variables, "FLOWGUARD_BROKER_SSL_KEYFILE": other})
    assert security is not None
    with pytest.raises(ConfigError, match=r"client\.pem, .*other\.key: it is no certificate"):
        security.ssl_context()


# What stands in the address of the broker.


@pytest.mark.parametrize(
    ("address", "bare"),
    [
        ("kafka://me:canary@host:9092", "kafka://host:9092"),
        ("kafka://me:ca@na/ry@host", "kafka://host"),
        ("me:canary@host:1", "host:1"),
        ("kafka://a:canary@h1:1;b:canary@h2,kafka://h3", "kafka://h1:1;h2,kafka://h3"),
        ("kafka://host:9092", "kafka://host:9092"),
        ("kafka://[::1]:9092;host", "kafka://[::1]:9092;host"),
        ("aiokafka://me@host", "aiokafka://host"),
    ],
)
def test_user_and_password_are_taken_out_of_an_address(address: str, bare: str) -> None:
    assert without_user(address) == bare


@pytest.mark.parametrize("name", ["broker", "broker_consumer", "broker_producer"])
@pytest.mark.parametrize("many", [False, True])
def test_a_setting_never_has_them(name: str, many: bool) -> None:
    address = "kafka://me:canary@host:9092"
    app = fg.App("shop", **{name: [address, "kafka://other"] if many else address})
    assert app.conf.had_user
    assert "canary" not in repr([getattr(app.conf, name), vars(app.conf)])
    assert getattr(app.conf, name)[0].host == "host"


def test_nor_after_a_change_or_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    app = fg.App("shop")
    app.conf.broker = "kafka://me:canary@host"
    assert app.conf.had_user and "canary" not in repr(app.conf.broker)
    monkeypatch.setenv("FLOWGUARD_BROKER", "kafka://me:canary@host")
    assert "canary" not in repr(fg.App("shop").conf.broker)
    monkeypatch.delenv("FLOWGUARD_BROKER")
    monkeypatch.setenv("BROKER_URL", "kafka://me:canary@host")
    app = fg.App("shop")
    assert app.conf.had_user and "canary" not in repr([app.conf.broker, app.conf.broker_producer])


def test_an_address_without_them_is_left_alone() -> None:
    app = fg.App("shop", broker="kafka://host:9092")
    assert not app.conf.had_user and str(app.conf.broker[0]) == "kafka://host:9092"


# The token of the pages.

TOKEN = "canary-0123456789"


def test_a_token_is_read_from_the_file_of_the_command_line_before_the_variables(
    tmp_path: Path,
) -> None:
    (tmp_path / "t").write_text(f"{TOKEN}\n")
    found = read_token({"FLOWGUARD_WEB_TOKEN": "another-0123456789"}, str(tmp_path / "t"))
    assert found is not None and found.reveal() == TOKEN
    found = read_token({"FLOWGUARD_WEB_TOKEN_FILE": str(tmp_path / "t")}, None)
    assert found is not None and found.reveal() == TOKEN
    assert read_token({}, None) is None


@pytest.mark.parametrize("text", ["", "canary", "canary canary canary", "canary-ä-0123456789"])
def test_a_token_that_is_none_is_refused_without_showing_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(ConfigError, match="--web-token-file: a token is 16 or more") as error:
        read_token({}, str(tmp_path / "t"))
    assert "canary" not in str(error.value)


def test_a_token_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read /nowhere/token"):
        read_token({}, "/nowhere/token")
    (tmp_path / "t").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="it is no text"):
        read_token({"FLOWGUARD_WEB_TOKEN_FILE": str(tmp_path / "t")}, None)


def test_an_address_that_is_none_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWGUARD_BROKER", "kafka://me:canary@host:no-port")
    with pytest.raises(ConfigError, match="FLOWGUARD_BROKER: this is no broker") as error:
        _ = fg.App("shop").conf
    assert "canary" not in str(error.value)
