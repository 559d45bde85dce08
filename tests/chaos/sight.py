"""What an outside client sees of a run: the topics, and the log of the group's commits."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from confluent_kafka import Message

from tests.chaos.history import Commit, History, Letter, Output, Produced
from tests.kafka.outside import Outside, headers_of, json_of

__all__ = ["commits_of", "history_of", "is_bad"]

#: Where Kafka keeps the commits of all groups.
COMMITS: Final = "__consumer_offsets"

#: Version of the key of a commit; 2 is the group itself.
OF_COMMITS: Final = (0, 1)


def is_bad(number: int, *, poison_every: int, garbage_every: int) -> bool:
    """Tell whether a record makes the agent raise, or cannot be decoded."""
    return number % poison_every == poison_every - 1 or number % garbage_every == garbage_every - 1


def commits_of(outside: Outside, group: str, topic: str) -> list[Commit]:
    """Return every commit of a group, from Kafka's own log of them.

    A commit is stamped when the broker takes it in: after all that it stands for was written.
    """
    found = []
    for message in outside.read(COMMITS):
        key, value = message.key(), message.value()
        if value is None or struct.unpack_from(">h", key)[0] not in OF_COMMITS:
            continue
        of_group, at = text_at(key, 2)
        of_topic, at = text_at(key, at)
        if (of_group, of_topic) == (group, topic):
            (partition,) = struct.unpack_from(">i", key, at)
            (offset,) = struct.unpack_from(">q", value, 2)
            found.append(Commit(partition, offset, message.timestamp()[1]))
    return found


def text_at(read: bytes, at: int) -> tuple[str, int]:
    """Return a text of Kafka's protocol, and where it ends."""
    (length,) = struct.unpack_from(">h", read, at)
    return read[at + 2 : at + 2 + length].decode(), at + 2 + length


def history_of(
    outside: Outside, *, group: str, events: str, done: str, letters: str,
    poison_every: int, garbage_every: int, lanes: int,
) -> History:  # fmt: skip
    """Read all of a run that is over."""
    return History(
        produced={
            (each.partition(), each.offset()): produced(
                each, poison_every=poison_every, garbage_every=garbage_every, lanes=lanes
            )
            for each in outside.read(events)
        },
        outputs=list(outputs_in(outside.read(done))),
        letters=list(letters_in(outside.read(letters))),
        commits=commits_of(outside, group, events),
    )


def produced(message: Message, *, poison_every: int, garbage_every: int, lanes: int) -> Produced:
    """Return what was produced; the number of a record is in a header, too."""
    headers = headers_of(message)
    number = int(headers["n"] or 0)
    lane = (headers.get("lane") or b"bulk").decode() if lanes > 1 else "bulk"
    bad = is_bad(number, poison_every=poison_every, garbage_every=garbage_every)
    return Produced(number, message.key(), lane, bad)


def outputs_in(messages: list[Message]) -> Iterator[Output]:
    """Return outputs in the order of their partition's log."""
    for message in messages:
        row = json_of(message)
        yield Output(row["p"], row["o"], row["id"], row["turn"], message.timestamp()[1])


def letters_in(messages: list[Message]) -> Iterator[Letter]:
    """Return dead letters."""
    for message in messages:
        headers = headers_of(message)
        yield Letter(
            int(headers["fg-orig-partition"] or -1), int(headers["fg-orig-offset"] or -1),
            message.timestamp()[1],
        )  # fmt: skip
