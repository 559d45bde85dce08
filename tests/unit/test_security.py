"""FLOWGUARD_BROKER_*: how a worker proves who it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowguard.errors import ConfigError
from flowguard.faust_conf import credentials
from flowguard.security import Secret, read_security

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
