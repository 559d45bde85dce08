"""What an error of a connection means to whoever has to change something."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import pytest
from aiokafka import errors as kafka_errors

from flowguard.refusal import refusal_of


def closed(cause: BaseException | None) -> kafka_errors.KafkaConnectionError:
    error = kafka_errors.KafkaConnectionError("Connection at h:1 closed")
    error.__cause__ = cause
    return error


def not_verified(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] (_ssl.c:1000)")
    error.verify_code, error.verify_message = code, message
    return error


def ssl_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1000)")
    error.reason = reason
    return error


def incomplete(size: bytes) -> asyncio.IncompleteReadError:
    return asyncio.IncompleteReadError(b"\x02(P", int.from_bytes(size))


@pytest.mark.parametrize(
    ("error", "protocol", "why", "advice", "final"),
    [
        (kafka_errors.SaslAuthenticationFailed("no"), "SASL_SSL",
         "does not accept user 'me'", "FLOWGUARD_BROKER_PASSWORD", True),
        (kafka_errors.UnsupportedSaslMechanismError("no"), "SASL_SSL",
         "does not offer", "SASL_MECHANISM", True),
        (not_verified(62, "Hostname mismatch"), "SSL", "for another name", "a name that", True),
        (not_verified(19, "self-signed certificate"), "SSL",
         "not trusted: self-signed certificate", "SSL_CAFILE", True),
        (closed(ssl_error("TLSV13_ALERT_CERTIFICATE_REQUIRED")), "SSL",
         "refused TLS: tlsv13 alert certificate required", "SSL_CERTFILE", True),
        (ssl_error("WRONG_VERSION_NUMBER"), "SSL", "does not speak TLS", "it is SSL", True),
        (closed(incomplete(b"\x15\x03\x03\x00")), "PLAINTEXT", "it speaks TLS", "to SSL", True),
        (closed(incomplete(b"\x00\x00\x00\x04")), "PLAINTEXT",
         "it closed the connection", "expects TLS or a user", False),
        (closed(ConnectionResetError()), "SSL", "it closed the connection", "speak TLS", False),
        (TimeoutError(), "SASL_SSL", "no answer", "SASL_SSL", False),
    ],
)  # fmt: skip
def test_the_cause_is_named_and_what_to_do(
    error: BaseException, protocol: str, why: str, advice: str, final: bool
) -> None:
    refusal = refusal_of(error, protocol=protocol, user="me")
    assert why in refusal.why and advice in str(refusal.advice) and refusal.final is final


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused"),
        (socket.gaierror(-2, "x"), "its name is not known"),
        (OSError(errno.EMFILE, "x"), "too many open files"),
        (closed(OSError(errno.ENETUNREACH, "x")), "network is unreachable"),
        (kafka_errors.KafkaConnectionError("lost"), "KafkaConnectionError: lost"),
        (TimeoutError(), "no answer"),
    ],
)
def test_what_passes_is_waited_for_with_the_usual_advice(error: BaseException, why: str) -> None:
    refusal = refusal_of(error, protocol="PLAINTEXT")
    assert (refusal.why, refusal.advice, refusal.final) == (why, None, False)


def test_a_chain_of_causes_that_is_a_circle_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert refusal_of(one, protocol="SSL").why == "one"
