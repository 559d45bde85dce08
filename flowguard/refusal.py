"""Why a broker did not let us in, in a few words, and what changes that.

aiokafka and OpenSSL say what they met, such as `[SSL] unknown` or a connection that is closed;
what was meant is in the cause of the error, or in what it would have read next.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from aiokafka import errors as kafka_errors

__all__ = ["Refusal", "refusal_of", "words_of"]

#: The broker read what was sent, and does not know the user or the password.
NOT_AUTHENTICATED: Final = (
    kafka_errors.AuthenticationFailedError,
    kafka_errors.SaslAuthenticationFailed,
)
WRONG_METHOD: Final = (
    kafka_errors.AuthenticationMethodNotSupported,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)

#: X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL.
WRONG_NAME: Final = frozenset({62, 64})

#: The other side ended it, with or without a word.
CLOSED: Final = (EOFError, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)

#: How a TLS alert begins; read as the size of an answer it is some 350 MB.
TLS_ALERT: Final = b"\x15\x03"

VARIABLE: Final = "FLOWGUARD_BROKER_"
SASL_OR_TLS: Final = f"if it expects TLS or a user, set {VARIABLE}SECURITY_PROTOCOL"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection failed.

    Args:
        why: In a few words.
        advice: What to do, None if the usual will do.
        final: Waiting does not change it.
        vague: Another attempt may say more.
    """

    why: str
    advice: str | None = None
    final: bool = False
    vague: bool = False


def refusal_of(error: BaseException, *, protocol: str, user: str | None = None) -> Refusal:
    """Return what an error of a connection means.

    Args:
        protocol: Kafka's security protocol that was spoken.
        user: The name that was given, if one was.
    """
    causes = list(causes_of(error))
    for cause in causes:
        found = of_authentication(cause, user) or of_tls(cause, protocol)
        if found is not None:
            return found
    if any(is_alert(cause) for cause in causes):
        return Refusal("it speaks TLS", f"set {VARIABLE}SECURITY_PROTOCOL to SSL or SASL_SSL", True)
    if isinstance(error, TimeoutError):
        advice = (
            None if protocol == "PLAINTEXT" else f"is it running, and does it speak {protocol}?"
        )
        return Refusal("no answer", advice, vague=True)
    if any(isinstance(cause, CLOSED) for cause in causes):
        tls = protocol.endswith("SSL")
        return Refusal(
            "it closed the connection",
            f"if it asks for a certificate, set {VARIABLE}SSL_CERTFILE; if it does not speak TLS, "
            f"{VARIABLE}SECURITY_PROTOCOL, which is {protocol}" if tls else SASL_OR_TLS,
        )  # fmt: skip
    return Refusal(words_of(next((c for c in causes if isinstance(c, OSError)), error)))


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it, the nearest first."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def of_authentication(error: BaseException, user: str | None) -> Refusal | None:
    """Return what is wrong with user, password or the way they are proven."""
    if isinstance(error, NOT_AUTHENTICATED):
        return Refusal(
            f"it does not accept user {user!r} with this password",
            f"check {VARIABLE}USERNAME, {VARIABLE}PASSWORD and {VARIABLE}SASL_MECHANISM",
            final=True,
        )
    if isinstance(error, WRONG_METHOD):
        return Refusal(
            "it does not offer this way to authenticate",
            f"set {VARIABLE}SASL_MECHANISM and {VARIABLE}SECURITY_PROTOCOL to what it has",
            final=True,
        )
    return None


def of_tls(error: BaseException, protocol: str) -> Refusal | None:
    """Return what is wrong with a certificate, or that there is no TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in WRONG_NAME:
            return Refusal(
                f"its certificate is for another name: {error.verify_message}",
                "use a name that is in the certificate",
                final=True,
            )
        return Refusal(
            f"its certificate is not trusted: {error.verify_message}",
            f"name the authority that signed it with {VARIABLE}SSL_CAFILE",
            final=True,
        )
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError):
        return None
    reason = (error.reason or "").replace("_", " ").lower()
    if "alert" in reason:  # the broker ended it: it has seen ours, or missed it
        return Refusal(
            f"it refused TLS: {reason}",
            f"if it asks for a certificate, set {VARIABLE}SSL_CERTFILE and "
            f"{VARIABLE}SSL_KEYFILE to one that it trusts",
            final=True,
        )
    return Refusal(
        f"it does not speak TLS as we do: {reason or error}",
        f"if it expects none, set {VARIABLE}SECURITY_PROTOCOL; it is {protocol}",
        final=True,
    )


def is_alert(error: BaseException) -> bool:
    """Tell whether what was read as the size of an answer is the beginning of a TLS alert."""
    if not isinstance(error, asyncio.IncompleteReadError) or error.expected is None:
        return False
    return 0 <= error.expected < 1 << 32 and error.expected.to_bytes(4)[:2] == TLS_ALERT


def words_of(error: BaseException) -> str:
    """Return an error of the network in a few words."""
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        return os.strerror(error.errno or 0).lower()
    return str(error) or type(error).__name__
