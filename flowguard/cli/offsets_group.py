"""What the commands of `flowguard offsets` have in common: which group, and what it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, TypeVar

import click
from aiokafka import TopicPartition

from flowguard.cli.broker import Access, access_of, access_to
from flowguard.cli.exit_codes import USAGE, CommandError
from flowguard.cli.find_app import find_app
from flowguard.cli.groups import Commit, committed_offsets
from flowguard.cli.output import broker_option, config_option, optional_app_option
from flowguard.cli.spans import Span, spans_of
from flowguard.cli.worker import configure
from flowguard.suggest import nearest

__all__ = ["SCHEMA", "Group", "Position", "group_options", "positions"]

Command = TypeVar("Command", bound=Callable[..., Any])

SCHEMA: Final = "flowguard.offsets/v1"


@dataclass(frozen=True, slots=True)
class Group:
    """Whose offsets are meant.

    Args:
        access: The broker.
        name: The consumer group.
        topics: Only these; none means all that it has committed.
    """

    access: Access
    name: str
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a group is in a partition.

    Args:
        commit: What it has committed, None for nothing.
        span: What the partition holds, None if it does not exist any more.
    """

    partition: TopicPartition
    commit: Commit | None
    span: Span | None

    @property
    def place(self) -> str:
        """The partition, as it is written everywhere."""
        return f"{self.partition.topic}[{self.partition.partition}]"

    @property
    def lag(self) -> int | None:
        """How many offsets are before it; None if that is unknown."""
        if self.commit is None or self.span is None:
            return None
        return max(0, self.span.end - self.commit.offset)


def group_options(command: Command) -> Callable[..., Any]:
    """Add the options that say whose offsets are meant, as `group`."""

    @wraps(command)
    def with_group(
        *, app: str | None, broker: str | None, config: str | None, group: str | None,
        topics: tuple[str, ...], **options: Any,
    ) -> Any:  # fmt: skip
        return command(group=group_of(app, broker, config, group, topics), **options)

    add_topic = click.option("--topic", "topics", metavar="TOPIC", multiple=True,
                             help="Only of this topic; may be repeated.")  # fmt: skip
    add_group = click.option("--group", metavar="NAME",
                             help="The consumer group; without it the app's id.")  # fmt: skip
    add_app = optional_app_option("The app whose offsets are meant.")
    return add_app(broker_option(add_group(add_topic(config_option(with_group)))))


def group_of(
    app: str | None,
    broker: str | None,
    config: str | None,
    group: str | None,
    topics: tuple[str, ...],
) -> Group:
    """Return whose offsets are meant.

    Raises:
        CommandError: Neither an app, nor a broker and a group are given.
    """
    if app is not None:
        found = find_app(app)
        configure(found, config=config, broker=broker)
        return Group(access_of(found), group or found.conf.id, topics)
    if group is None:
        raise CommandError("say which app: -A MODULE[:APP], or which --broker and --group", USAGE)
    if broker is None:
        raise CommandError("say which broker: --broker kafka://HOST:PORT, or -A MODULE", USAGE)
    return Group(access_to(broker), group, topics)


async def positions(group: Group) -> list[Position]:
    """Return where a group is in each partition: of the topics that are meant.

    Raises:
        CommandError: A topic does not exist.
    """
    commits = await committed_offsets(group.access, group.name)
    async with group.access.admin() as admin:
        known = set(await admin.list_topics())
    missing = [each for each in group.topics if each not in known]
    if missing:
        like = nearest(missing[0], known)
        hint = f"did you mean {like}?" if like else "check --topic and --broker"
        raise CommandError(f"there is no topic {missing[0]!r}; {hint}", USAGE)
    topics = group.topics or tuple(sorted({each.topic for each in commits}))
    spans = await spans_of(group.access, [each for each in topics if each in known])
    found = {each.partition: each for each in spans}
    partitions = found.keys() | {each for each in commits if each.topic in topics}
    return [
        Position(each, commits.get(each), found.get(each))
        for each in sorted(partitions, key=lambda one: (topics.index(one.topic), one.partition))
    ]
