"""Is a batch to blame, or is something not there?"""

from __future__ import annotations

import pytest
from aiokafka import errors as kafka_errors

import flowguard as fg
from flowguard.agents.failures import failure_of
from flowguard.errors import RegistryError
from flowguard.units import SECOND


@pytest.mark.parametrize(
    ("error", "unavailable", "common"),
    [
        (ValueError("bad row"), False, False),
        (fg.Unavailable(), True, False),
        (fg.SettleError("too large"), False, False),
        (fg.SettleError("no leader", unavailable=True), True, True),
        (kafka_errors.MessageSizeTooLargeError(), False, False),
        (kafka_errors.KafkaTimeoutError(), True, True),
        (kafka_errors.KafkaConnectionError(), True, True),
        (RegistryError("no answer"), True, True),
        (TimeoutError(), False, False),
    ],
)
def test_what_counts_as_unavailable(error: Exception, unavailable: bool, common: bool) -> None:
    failed = failure_of(error, batch_id=7, at_ns=1)
    assert (failed.unavailable, failed.common) == (unavailable, common)


def test_how_long_to_wait_and_what_it_comes_from_are_told() -> None:
    try:
        try:
            raise ConnectionError("refused")
        except ConnectionError as cause:
            raise fg.Unavailable("2s") from cause
    except fg.Unavailable as error:
        failed = failure_of(error, batch_id=7, at_ns=1)
    assert failed.retry_after_ns == 2 * SECOND
    assert failed.why == "Unavailable (ConnectionError: refused)"


def test_an_error_without_text_is_named() -> None:
    assert failure_of(ValueError(), batch_id=1, at_ns=1).why == "ValueError"
    assert failure_of(fg.Unavailable(why="503"), batch_id=1, at_ns=1).why == "Unavailable: 503"
