"""`flowguard check`: look for mistakes in an app; nothing is started, no broker is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import click
from yarl import URL

from flowguard.agents.feed import Feed
from flowguard.app import App
from flowguard.cli.exit_codes import FAILED, OK
from flowguard.cli.find_app import find_app
from flowguard.cli.output import app_option, config_option, report, report_options
from flowguard.cli.worker import configure
from flowguard.errors import FlowguardError
from flowguard.lanes.fairness import FairBy, Key
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.overflow import Conflate, described
from flowguard.lanes.rules import Route
from flowguard.security import MASK
from flowguard.units import MIB, format_duration, format_size

__all__ = ["SCHEMA", "Finding", "check", "check_document", "find"]

SCHEMA: Final = "flowguard.check/v1"

#: A seat whose batch and its output have less than this waits for memory, and not for work.
SEAT_BYTES: Final = 4 * MIB

#: Names of settings, and of keys in them, that hold secrets.
SECRETS: Final = ("password", "passwd", "secret", "token", "credential", "private", "api_key")

#: What is shown of a lane.
LANE_HEAD: Final = (
    "lane", "target", "reserve", "weight", "rate", "fair by", "demote after", "max age",
    "overflow", "degrade",
)  # fmt: skip

Severity = Literal["error", "warning", "info"]
MARKS: Final[Mapping[str, str]] = {"error": "✗", "warning": "!", "info": "·"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know.

    Args:
        severity: `error` fails the check.
        what: What is wrong.
        where: The declaration it is about.
        hint: What to do.
    """

    severity: Severity
    what: str
    where: str
    hint: str


@click.command
@app_option
@config_option
@report_options
@click.pass_context
def check(
    ctx: click.Context, app: str, config: str | None, as_json: bool, output: Path | None
) -> None:
    """Look for mistakes in an app; start nothing.

    Prints each setting with its origin, the lanes and the feeds. Exits 1 if something cannot
    work as declared.
    """
    found = find_app(app)
    configure(found, config=config)
    document = check_document(found)
    report(document, lambda: as_text(document), as_json=as_json, output=output)
    ctx.exit(FAILED if document["result"] == "fail" else OK)


def check_document(app: App) -> dict[str, Any]:
    """Return all that is known of an app before it runs."""
    findings = list(find(app))
    failed = any(finding.severity == "error" for finding in findings)
    lanes = lanes_of(app)
    return {
        "schema": SCHEMA,
        "app": app.conf.id,
        "result": "fail" if failed else "pass",
        "settings": settings(app),
        "lanes": [lane_document(rank, lane) for rank, lane in enumerate(lanes)],
        "feeds": [feed_document(app, feed, lanes) for feed in declared_feeds(app)],
        "findings": [asdict(finding) for finding in findings],
    }


# What is declared.


def lanes_of(app: App) -> LaneSet:
    """Return the lanes with what environment and file change; as declared if that fails."""
    try:
        return app.feed_settings.lanes
    except FlowguardError:
        return app._declared_lanes


def declared_feeds(app: App) -> list[Feed]:
    """Return every feed of the app: those that agents read, and those they send to."""
    feeds: dict[tuple[str, ...], Feed] = {}
    for agent in app.agents.values():
        for channel in (agent.channel, *sinks_of(agent)):
            if isinstance(channel, Feed):
                feeds.setdefault(tuple(channel.topics), channel)
    for feed in app.declared_feeds:
        feeds.setdefault(tuple(feed.topics), feed)
    return list(feeds.values())


def sinks_of(agent: Any) -> Iterable[Any]:
    """Return where an agent's results go."""
    return agent._sinks  # type: ignore[no-any-return]


def readers(app: App, feed: Feed) -> list[str]:
    """Return the names of the agents that read a feed."""
    return [
        agent.name
        for agent in app.agents.values()
        if isinstance(agent.channel, Feed) and set(agent.channel.topics) & set(feed.topics)
    ]


def lane_document(rank: int, lane: Lane) -> dict[str, Any]:
    """Return one lane."""
    return {
        "name": lane.name,
        "rank": rank,
        "target": lane.target,
        "reserve": lane.reserve,
        "weight": lane.weight,
        "rate": lane.rate_per_s,
        "fair_by": None if lane.fair_by is None else fair_text(lane.fair_by),
        "demote_after": lane.demote_after,
        "max_age": lane.max_age,
        "overflow": described(lane.overflow),
        "degrade": lane.degrade,
    }


def fair_text(by: FairBy) -> str:
    """Return what fair shares are counted by."""
    return "key" if isinstance(by, Key) else f"{type(by).__name__.lower()} {by.name}"


def feed_document(app: App, feed: Feed, lanes: LaneSet) -> dict[str, Any]:
    """Return one feed."""
    options = feed.options
    columns = options.columns
    return {
        "topics": list(feed.topics),
        "codec": options.codec if isinstance(options.codec, str) else type(options.codec).__name__,
        "registry": None if options.registry is None else shown("registry", options.registry),
        "columns": None if columns is None else {
            column.name: f"{'!' * (column.name in columns.required)}{column.type}"
            for column in columns.arrow
        },
        "key_by": options.key_by,
        "lanes": {topic: rule_text(route, lanes) for topic, route in feed.routes(lanes).items()},
        "order": options.order,
        "on_offset_loss": options.on_offset_loss,
        "agents": readers(app, feed),
    }  # fmt: skip


def rule_text(route: Route, lanes: LaneSet) -> str:
    """Return a rule in a line."""
    default = lanes[route.default].name
    if route.columns is not None:
        ranks = ", ".join(lanes[rank].name for rank in sorted(route.ranks))
        return f"column {', '.join(route.columns.names)}: {ranks}, else {default}"
    if not route.table:
        return default
    what = "key prefix" if route.header is None else f"header {route.header.decode()}"
    table = ", ".join(
        f"{value.decode(errors='replace')} → {lanes[rank].name}" for value, rank in route.table
    )
    return f"{what}: {table}, else {default}"


# Settings.


def settings(app: App) -> list[dict[str, Any]]:
    """Return each setting with its origin; secrets are masked."""
    conf = app.conf
    faust = [
        (name, getattr(conf, f"_{name}", None), origin)
        for name, origin in sorted({"broker": "default", **conf.origins}.items())
    ]
    try:
        ours = [(each.name, each.value, each.origin) for each in app.feed_settings.origins]
        if app.web_token is not None:
            ours.append(("web_token", MASK, "FLOWGUARD_WEB_TOKEN"))
    except FlowguardError:
        ours = []
    return [
        {"name": name, "value": shown(name, value), "origin": origin}
        for name, value, origin in (*ours, *faust)
    ]


def shown(name: str, value: Any) -> Any:
    """Return a value as it may be seen: without passwords, and as JSON has it."""
    if value is not None and any(secret in name.lower() for secret in SECRETS):
        return MASK
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): shown(str(key), each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [shown(name, each) for each in value]
    return masked_url(value if isinstance(value, str) else str(value))


def masked_url(text: str) -> str:
    """Return text, and if it is a URL with a password, that without it and its user.

    The user of a schema registry is a key of its API.
    """
    if "://" not in text or "@" not in text:
        return text
    try:
        url = URL(text)
        return str(url if url.password is None else url.with_user(MASK).with_password(MASK))
    except ValueError:
        return MASK


# Findings.


def find(app: App) -> Iterable[Finding]:
    """Return what is wrong with an app, or worth knowing."""
    try:
        app.check()
        _ = app.feed_settings
    except FlowguardError as error:
        yield Finding("error", str(error), f"app {app.conf.id}", "change the declaration it names")
        return
    if not app.has_feeds:
        yield Finding("info", "no agent reads a feed", f"app {app.conf.id}",
                      "it runs as a plain Faust app; declare app.feed(…) and an agent")  # fmt: skip
    if app.conf.had_user:
        yield Finding(
            "warning",
            "the user in the address of the broker is not used",
            "broker",
            "set FLOWGUARD_BROKER_USERNAME and FLOWGUARD_BROKER_PASSWORD, or their _FILE, and take "
            "it out of the address",
        )
    yield from blocked_lanes(app)
    yield from keyless_conflation(app)
    yield from unread_feeds(app)
    yield from sinks_without_key(app)
    yield from little_memory(app)


def blocked_lanes(app: App) -> Iterable[Finding]:
    """Find lanes whose target a lower lane of the same partitions can hold up.

    A partition is read in order: while a lane that blocks is full, nothing behind its
    records is read, of whatever lane.
    """
    lanes = app.feed_settings.lanes
    for feed in read_feeds(app):
        for topic, route in feed.routes(lanes).items():
            urgent = [rank for rank in route.ranks if lanes[rank].target_ns is not None]
            if not urgent:
                continue
            blocking = sorted(
                rank for rank in route.ranks if rank > min(urgent) and not lanes[rank].policies
            )
            for rank in blocking:
                yield blocked(lanes[min(urgent)], lanes[rank], topic)


def blocked(high: Lane, low: Lane, topic: str) -> Finding:
    """Return that a lane can hold up another."""
    target = format_duration(high.target or 0)
    return Finding(
        "error",
        f"lane {low.name} blocks when it is full, and shares partitions with lane {high.name}, "
        f"whose target of {target} cannot hold then",
        f"feed {topic}",
        f"give the lanes topics of their own (fg.by_topic), lane {low.name} another overflow "
        f"(fg.Spill(…), fg.Shed(), fg.Conflate(), fg.Divert(…)), or lane {high.name} no target",
    )


def keyless_conflation(app: App) -> Iterable[Finding]:
    """Find lanes that are conflated by the key of records that this app sends without one."""
    lanes = app.feed_settings.lanes
    keyless = {
        topic
        for agent in app.agents.values()
        for sink in sinks_of(agent)
        if isinstance(sink, Feed) and sink.options.key_by is None
        for topic in sink.topics
    }
    for feed in read_feeds(app):
        for topic, route in feed.routes(lanes).items():
            for rank in sorted(route.ranks) if topic in keyless else ():
                if Conflate() in lanes[rank].overflow:
                    yield Finding(
                        "warning",
                        f"lane {lanes[rank].name} keeps the newest record of each key, and the "
                        "app sends to this feed without keys, of which nothing is left out",
                        f"feed {topic}",
                        "declare the feed with key_by, or conflate by a column: "
                        'fg.Conflate(by="…")',
                    )


def read_feeds(app: App) -> list[Feed]:
    """Return the feeds that an agent reads."""
    return [feed for feed in declared_feeds(app) if readers(app, feed)]


def unread_feeds(app: App) -> Iterable[Finding]:
    """Find feeds that no agent reads and nothing is sent to."""
    sinks = {id(sink) for agent in app.agents.values() for sink in sinks_of(agent)}
    for feed in declared_feeds(app):
        if not readers(app, feed) and id(feed) not in sinks:
            yield Finding("warning", "no agent reads it", f"feed {feed}",
                          "declare @app.agent(…) on it, unless you only send to it")  # fmt: skip


def sinks_without_key(app: App) -> Iterable[Finding]:
    """Find sinks whose records get no key unless the frame has one."""
    seen: set[int] = set()
    for agent in app.agents.values():
        for sink in sinks_of(agent):
            if isinstance(sink, Feed) and sink.options.key_by is None and id(sink) not in seen:
                seen.add(id(sink))
                yield Finding(
                    "info",
                    f"agent {agent.name} sends records without a key, in no order",
                    f"feed {sink}",
                    "declare it with key_by, or yield a column _key",
                )


def little_memory(app: App) -> Iterable[Finding]:
    """Find an app whose agents can hold more at once than there is memory for."""
    seats = sum(agent.concurrency for agent in app.agents.values()
                if isinstance(agent.channel, Feed))  # fmt: skip
    memory_bytes = app.feed_settings.memory_bytes
    if seats * SEAT_BYTES > memory_bytes:
        yield Finding(
            "warning",
            f"{format_size(memory_bytes)} is little for {seats} batches at once",
            "memory",
            f"set memory to {format_size(seats * SEAT_BYTES)} or more, or lower concurrency",
        )


# For people.


def as_text(document: Mapping[str, Any]) -> str:
    """Return the report as tables."""
    sections = [
        section("Settings", ("setting", "value", "origin"), (
            (each["name"], text(each["value"]), each["origin"]) for each in document["settings"]
        )),
        section("Lanes, highest first", LANE_HEAD, (
            (lane["name"], duration_text(lane["target"]), text(lane["reserve"]),
             text(lane["weight"]), "–" if lane["rate"] is None else f"{lane['rate']:g}/s",
             text(lane["fair_by"]), duration_text(lane["demote_after"]),
             duration_text(lane["max_age"]), lane["overflow"], "yes" if lane["degrade"] else "no")
            for lane in document["lanes"]
        )),
        section("Feeds", ("topics", "codec", "columns", "lanes", "order", "agents"), (
            (", ".join(feed["topics"]), feed["codec"], text(feed["columns"] or "inferred"),
             "; ".join(dict.fromkeys(feed["lanes"].values())), feed["order"],
             ", ".join(feed["agents"]) or "–")
            for feed in document["feeds"]
        )),
        *(f"{MARKS[each['severity']]} {each['severity']}: {each['where']}: {each['what']}\n"
          f"  {each['hint']}" for each in document["findings"]),
        f"{document['app']}: {document['result']}",
    ]  # fmt: skip
    return "\n\n".join(part for part in sections if part)


def duration_text(seconds: float | None) -> str:
    """Return a duration for a cell."""
    return "–" if seconds is None else format_duration(seconds)


def text(value: Any) -> str:
    """Return a value for a cell."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {text(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(text(each) for each in value)
    return "–" if value is None else str(value)


def section(title: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a table with its title; nothing for no rows."""
    lines = [head, *rows]
    if len(lines) == 1:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
    return "\n".join([title, *(f"  {line.rstrip()}" for line in padded)])
