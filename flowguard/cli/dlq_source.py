"""What the commands of `flowguard dlq` have in common: which topics, which letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, TypeVar

import click

from flowguard.agents.agent import FeedAgent
from flowguard.app import App
from flowguard.cli.broker import Access, access_of, access_to
from flowguard.cli.dlq_letters import Selection
from flowguard.cli.exit_codes import USAGE, CommandError
from flowguard.cli.find_app import find_app
from flowguard.cli.moments import moment_ms
from flowguard.cli.output import broker_option, config_option, optional_app_option
from flowguard.cli.worker import configure
from flowguard.settle.letter_limit import DeadLetters
from flowguard.suggest import nearest

__all__ = [
    "SCHEMA",
    "Source",
    "group_of",
    "selection_options",
    "source_options",
]

Command = TypeVar("Command", bound=Callable[..., Any])

SCHEMA: Final = "flowguard.dlq/v1"


@dataclass(frozen=True, slots=True)
class Source:
    """Where dead letters are.

    Args:
        access: The broker.
        topics: Their topics.
        named: Somebody named them, so they have to exist; an app's are made by its first letter.
    """

    access: Access
    topics: tuple[str, ...]
    named: bool

    def existing(self, known: Iterable[str]) -> list[str]:
        """Return those topics that exist.

        Raises:
            CommandError: One that was named does not.
        """
        known = set(known)
        missing = [each for each in self.topics if each not in known]
        if missing and self.named:
            like = nearest(missing[0], known)
            hint = f"did you mean {like}?" if like else "check --topic and --broker"
            raise CommandError(f"there is no topic {missing[0]!r}; {hint}", USAGE)
        return [each for each in self.topics if each in known]


def group_of(topic: str) -> str:
    """Return the consumer group that remembers how far a topic was redriven."""
    return f"{topic}.redrive"


def source_options(command: Command) -> Callable[..., Any]:
    """Add the options that say where letters are, as `source`."""

    @wraps(command)
    def with_source(
        *, app: str | None, broker: str | None, topics: tuple[str, ...], config: str | None,
        **options: Any,
    ) -> Any:  # fmt: skip
        return command(source=source_of(app, broker, topics, config), **options)

    add_topic = click.option(
        "--topic",
        "topics",
        metavar="TOPIC",
        multiple=True,
        help="Only this dead-letter topic; without it all of the app.",
    )
    add_app = optional_app_option("The app whose dead letters are meant.")
    return add_app(broker_option(add_topic(config_option(with_source))))


def source_of(
    app: str | None, broker: str | None, topics: tuple[str, ...], config: str | None
) -> Source:
    """Return where letters are.

    Raises:
        CommandError: Neither an app, nor a broker and a topic are given.
    """
    if app is not None:
        found = find_app(app)
        configure(found, config=config, broker=broker)
        return Source(access_of(found), topics or letter_topics(found), named=bool(topics))
    if not topics:
        raise CommandError("say which app: -A MODULE[:APP], or which --broker and --topic", USAGE)
    if broker is None:
        raise CommandError("say which broker: --broker kafka://HOST:PORT, or -A MODULE", USAGE)
    return Source(access_to(broker), tuple(dict.fromkeys(topics)), named=True)


def letter_topics(app: App) -> tuple[str, ...]:
    """Return the dead-letter topics of an app: its own, and those of single agents."""
    app_id = app.conf.id
    agents = [each for each in app.agents.values() if isinstance(each, FeedAgent)]
    named = [each.dead_letters.topic_in(app_id) for each in agents]
    return tuple(dict.fromkeys([DeadLetters().topic_in(app_id), *named]))


def selection_options(command: Command) -> Callable[..., Any]:
    """Add the options that say which letters are meant, as `selection`."""

    @wraps(command)
    def with_selection(
        *, types: tuple[str, ...], orig_topics: tuple[str, ...], since: str | None, **options: Any
    ) -> Any:
        since_ms = 0 if since is None else moment_ms(since, name="--since")
        selection = Selection(frozenset(types), frozenset(orig_topics), since_ms)
        return command(selection=selection, **options)

    add_since = click.option(
        "--since", metavar="TIME", help="Only from so long ago, such as 2h, or from a time on."
    )
    add_topic = click.option("--orig-topic", "orig_topics", metavar="TOPIC", multiple=True,
                             help="Only of records of this topic.")  # fmt: skip
    add_type = click.option("--type", "types", metavar="TYPE", multiple=True,
                            help="Only with this kind of error.")  # fmt: skip
    return add_type(add_topic(add_since(with_selection)))
