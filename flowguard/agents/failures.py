"""What an exception means for its batch: is it to blame, or is something not there?"""

from __future__ import annotations

from typing import Final

from aiokafka import errors as kafka_errors

from flowguard.errors import (
    HookError,
    LettersNotWritten,
    Nacked,
    RegistryError,
    Rejected,
    SettleError,
    Unavailable,
)
from flowguard.facts import Failed, Found

__all__ = ["concerns_records", "failure_of"]

#: What Kafka refuses because of the records, and not because of its own state.
TO_BLAME: Final = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
    kafka_errors.InvalidTimestampError,
)


#: What clients of all kinds raise when the other side is not there.
TRANSIENT: Final = (OSError, TimeoutError)


def concerns_records(error: BaseException) -> bool:
    """Tell whether it may be for its records that an agent raised.

    And not for something that is missing, or that flowguard does not permit.
    """
    if not isinstance(error, Exception) or isinstance(error, TRANSIENT):
        return False
    return not (isinstance(error, Unavailable | SettleError | HookError) or is_missing(error))


def failure_of(
    error: BaseException,
    *,
    batch_id: int,
    at_ns: int,
    found: Found | None = None,
    epoch_ms: int = 0,
) -> Failed:
    """Return what the engine must know of an exception."""
    alone = isinstance(error, LettersNotWritten)
    common = is_missing(error) and not alone
    retry_after_ns = error.retry_after_ns if isinstance(error, Unavailable | Nacked) else None
    return Failed(
        batch_id=batch_id,
        why=why_of(error),
        at_ns=at_ns,
        unavailable=alone or common or isinstance(error, Unavailable),
        retry_after_ns=retry_after_ns,
        common=common,
        alone=alone,
        kind=type(error).__name__,
        rejected=isinstance(error, Rejected),
        transient=isinstance(error, TRANSIENT),
        stops=error.stops if isinstance(error, LettersNotWritten) else {},
        found=found,
        epoch_ms=epoch_ms,
    )


def why_of(error: BaseException) -> str:
    """Return an exception in a line; of one that says that something is missing, its cause too."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, Unavailable) and error.__cause__ is not None:
        return f"{text} ({why_of(error.__cause__)})"
    return text


def is_missing(error: BaseException) -> bool:
    """Tell whether a topic, a broker or a schema registry is not there, whatever is sent."""
    if isinstance(error, SettleError):
        return error.unavailable
    if isinstance(error, kafka_errors.KafkaError):
        return not isinstance(error, TO_BLAME)
    return isinstance(error, RegistryError)
