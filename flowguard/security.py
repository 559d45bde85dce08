"""How a worker proves to the broker who it is, from `FLOWGUARD_BROKER_*`.

The variables are read by every command, and are stronger than what code says. Each may
end in `_FILE` and then names a file that holds the value, as secrets are mounted.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flowguard.config import read_variable
from flowguard.errors import ConfigError
from flowguard.suggest import is_typo, nearest

__all__ = ["MASK", "BrokerSecurity", "Secret", "read_security", "read_token", "without_user"]

#: What is shown in the place of a secret.
MASK: Final = "***"

PREFIX: Final = "FLOWGUARD_BROKER_"
PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

OPTIONS: Final = (
    "SECURITY_PROTOCOL", "SASL_MECHANISM", "USERNAME", "PASSWORD",
    "SSL_CAFILE", "SSL_CERTFILE", "SSL_KEYFILE", "SSL_KEY_PASSWORD",
)  # fmt: skip

WEB_TOKEN: Final = "FLOWGUARD_WEB_TOKEN"

#: Less than 16 random characters could be guessed by whoever may ask often enough.
TOKEN_CHARACTERS_MIN: Final = 16

#: What may stand behind `Authorization: Bearer` (RFC 6750, 2.1).
TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")

#: In a list of addresses, with a scheme or without: all before the last `@` of each.
USER: Final = re.compile(r"((?:^|[;,])\s*(?:[A-Za-z][A-Za-z0-9+.-]*://)?)[^;,]*@")


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
        key_password: What the key is encrypted with.
    """

    protocol: str
    mechanism: str = "PLAIN"
    username: str | None = None
    password: Secret | None = None
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    key_password: Secret | None = None

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
        except (OSError, ssl.SSLError) as error:
            raise unusable("SSL_CAFILE", self.cafile, error) from error
        if self.certfile is not None:
            self._load_certificate(context, self.certfile)
        return context

    def _load_certificate(self, context: ssl.SSLContext, certfile: str) -> None:
        keyfile = self.keyfile or certfile

        def passphrase() -> str:
            # Without an answer of ours OpenSSL would ask for it on the terminal, and wait.
            if self.key_password is None:
                raise ConfigError(
                    f"the key in {keyfile} is encrypted; set {PREFIX}SSL_KEY_PASSWORD, or "
                    f"{PREFIX}SSL_KEY_PASSWORD_FILE"
                )
            return self.key_password.reveal()

        try:
            context.load_cert_chain(certfile, self.keyfile, passphrase)
        except (OSError, ssl.SSLError) as error:
            if self.key_password is not None and isinstance(error, ssl.SSLError):
                raise ConfigError(
                    f"{PREFIX}SSL_CERTFILE: cannot use {certfile} with the key in {keyfile}; is "
                    f"{PREFIX}SSL_KEY_PASSWORD right, and do they belong together?"
                ) from error
            option = "SSL_CERTFILE" if self.keyfile is None else "SSL_CERTFILE, SSL_KEYFILE"
            files = certfile if self.keyfile is None else f"{certfile}, {self.keyfile}"
            raise unusable(option, files, error) from error


def unusable(options: str, files: str | None, error: Exception) -> ConfigError:
    """Return that a file of certificates cannot be used."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, ssl.SSLError):
        why = "it is no certificate in PEM, or not the key that belongs to it"
    return ConfigError(f"{PREFIX}{options}: cannot use {files or 'the system certificates'}: {why}")


def read_security(environment: Mapping[str, str]) -> BrokerSecurity | None:
    """Return what the variables say, None if none of them is set.

    Without a protocol, a user name asks for SASL over TLS and a certificate for TLS: a
    password goes over an open connection only if that is said.

    Raises:
        ConfigError: A value is unknown, something is missing, or a file cannot be read.
    """
    reject_typos(environment)
    found = {
        option: value
        for option in OPTIONS
        if (value := read_variable(environment, PREFIX + option)) is not None
    }
    if not found:
        return None
    implied = "SASL_SSL" if {"USERNAME", "PASSWORD"} & found.keys() else "SSL"
    security = BrokerSecurity(
        protocol=choose("SECURITY_PROTOCOL", found.get("SECURITY_PROTOCOL", implied), PROTOCOLS),
        mechanism=choose("SASL_MECHANISM", found.get("SASL_MECHANISM", "PLAIN"), MECHANISMS),
        username=found.get("USERNAME"),
        password=Secret(found["PASSWORD"]) if "PASSWORD" in found else None,
        cafile=found.get("SSL_CAFILE"),
        certfile=found.get("SSL_CERTFILE"),
        keyfile=found.get("SSL_KEYFILE"),
        key_password=Secret(found["SSL_KEY_PASSWORD"]) if "SSL_KEY_PASSWORD" in found else None,
    )
    if security.uses_sasl and (security.username is None or security.password is None):
        missing = "USERNAME" if security.username is None else "PASSWORD"
        raise ConfigError(f"{security.protocol} needs {PREFIX}{missing}, or {PREFIX}{missing}_FILE")
    reject_unused(found, security.protocol)
    return security


def reject_unused(found: Mapping[str, str], protocol: str) -> None:
    """Raise for what would not be used: whoever gave it thinks that the connection is safer.

    Raises:
        ConfigError: It names the variable, and the protocol that uses it.
    """
    for option in OPTIONS:
        if option in ("USERNAME", "PASSWORD", "SASL_MECHANISM"):
            unused, other = not protocol.startswith("SASL_"), f"SASL_{protocol}"
        else:
            unused = option.startswith("SSL_") and not protocol.endswith("SSL")
            other = protocol.replace("PLAINTEXT", "SSL")
        if unused and option in found:
            raise ConfigError(
                f"{PREFIX}{option} is not used with {PREFIX}SECURITY_PROTOCOL={protocol}; leave "
                f"one of them out, or use {other}"
            )


def reject_typos(environment: Mapping[str, str]) -> None:
    """Raise for a variable that is nearly one of ours: a misspelt one would go unheeded.

    Others with our prefix may be there: Kubernetes sets `FLOWGUARD_BROKER_PORT` for a service
    of that name.

    Raises:
        ConfigError: It names the variable that was meant.
    """
    known = {f"{PREFIX}{option}{end}" for option in OPTIONS for end in ("", "_FILE")}
    for name in environment:
        if name.startswith(PREFIX) and name not in known and is_typo(name, known):
            raise ConfigError(f"there is no {name}; did you mean {nearest(name, known)}?")


def choose(option: str, value: str, choices: tuple[str, ...]) -> str:
    """Return the value in Kafka's own spelling, or raise ConfigError."""
    if value.upper() in choices:
        return value.upper()
    like = nearest(value.upper(), choices)
    hint = f"did you mean {like}?" if like else f"use {', '.join(choices)}"
    raise ConfigError(f"{PREFIX}{option}={value!r} is not available; {hint}")


def without_user(address: str) -> str:
    """Return the address of a broker without `user:password@`, which Kafka has no use for there."""
    return USER.sub(r"\1", address)


def read_token(environment: Mapping[str, str], file: str | None) -> Secret | None:
    """Return what whoever changes a worker through its pages must have; None if there is none.

    Args:
        file: Of `--web-token-file`, which is stronger than the variables.

    Raises:
        ConfigError: It cannot be read, or could be guessed, or is not fit for a header.
    """
    origin, text = WEB_TOKEN, read_variable(environment, WEB_TOKEN)
    if file is not None:
        origin = "--web-token-file"
        try:
            text = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"--web-token-file: cannot read {file}: {why}") from error
    if text is None:
        return None
    if len(text) < TOKEN_CHARACTERS_MIN or not TOKEN.fullmatch(text):
        raise ConfigError(
            f"{origin}: a token is {TOKEN_CHARACTERS_MIN} or more letters and digits, without "
            f"spaces; make one with: openssl rand -hex 32"
        )
    return Secret(text)
