"""How a worker proves to the broker who it is, from `FLOWGUARD_BROKER_*`.

The variables are read by every command, and are stronger than what code says. Each may
end in `_FILE` and then names a file that holds the value, as secrets are mounted.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from flowguard.config import read_variable
from flowguard.errors import ConfigError
from flowguard.suggest import nearest

__all__ = ["MASK", "BrokerSecurity", "Secret", "read_security"]

#: What is shown in the place of a secret.
MASK: Final = "***"

PREFIX: Final = "FLOWGUARD_BROKER_"
PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

OPTIONS: Final = (
    "SECURITY_PROTOCOL", "SASL_MECHANISM", "USERNAME", "PASSWORD",
    "SSL_CAFILE", "SSL_CERTFILE", "SSL_KEYFILE",
)  # fmt: skip


class Secret:
    """Text that no log, error or report shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for whoever must send it."""
        return self._text

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSecurity:
    """What the variables say, checked.

    Args:
        protocol: One of Kafka's security protocols.
        mechanism: The SASL mechanism; used with SASL only.
        username: Who we are; used with SASL only.
        password: The proof.
        cafile: Certificates to trust; None trusts what the system trusts.
        certfile: Our own certificate, for mutual TLS.
        keyfile: Its key; None if it is in the same file.
    """

    protocol: str
    mechanism: str = "PLAIN"
    username: str | None = None
    password: Secret | None = None
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @property
    def uses_sasl(self) -> bool:
        """Tell whether a user and a password are sent."""
        return self.protocol.startswith("SASL_")

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return how to speak TLS, None without it.

        Raises:
            ConfigError: A file cannot be read or is no certificate.
        """
        if not self.protocol.endswith("SSL"):
            return None
        try:
            context = ssl.create_default_context(cafile=self.cafile)
            if self.certfile is not None:
                context.load_cert_chain(self.certfile, self.keyfile)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(file for file in (self.cafile, self.certfile, self.keyfile) if file)
            raise ConfigError(f"{PREFIX}SSL_*: cannot use {files}: {error}") from error
        return context


def read_security(environment: Mapping[str, str]) -> BrokerSecurity | None:
    """Return what the variables say, None if none of them is set.

    Without a protocol, a user name asks for SASL over TLS and a certificate for TLS: a
    password goes over an open connection only if that is said.

    Raises:
        ConfigError: A value is unknown, something is missing, or a file cannot be read.
    """
    found = {
        option: value
        for option in OPTIONS
        if (value := read_variable(environment, PREFIX + option)) is not None
    }
    if not found:
        return None
    implied = "SASL_SSL" if "USERNAME" in found else "SSL"
    security = BrokerSecurity(
        protocol=choose("SECURITY_PROTOCOL", found.get("SECURITY_PROTOCOL", implied), PROTOCOLS),
        mechanism=choose("SASL_MECHANISM", found.get("SASL_MECHANISM", "PLAIN"), MECHANISMS),
        username=found.get("USERNAME"),
        password=Secret(found["PASSWORD"]) if "PASSWORD" in found else None,
        cafile=found.get("SSL_CAFILE"),
        certfile=found.get("SSL_CERTFILE"),
        keyfile=found.get("SSL_KEYFILE"),
    )
    if security.uses_sasl and (security.username is None or security.password is None):
        missing = "USERNAME" if security.username is None else "PASSWORD"
        raise ConfigError(f"{security.protocol} needs {PREFIX}{missing}, or {PREFIX}{missing}_FILE")
    return security


def choose(option: str, value: str, choices: tuple[str, ...]) -> str:
    """Return the value in Kafka's own spelling, or raise ConfigError."""
    if value.upper() in choices:
        return value.upper()
    like = nearest(value.upper(), choices)
    hint = f"did you mean {like}?" if like else f"use {', '.join(choices)}"
    raise ConfigError(f"{PREFIX}{option}={value!r} is not available; {hint}")
