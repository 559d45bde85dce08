"""`flowguard dlq show`: single dead letters, with all that they hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

import click
from aiokafka import TopicPartition

from flowguard.cli.broker import over_kafka
from flowguard.cli.dlq_contents import as_entry, excerpt
from flowguard.cli.dlq_letters import NOTE, Letter, Selection
from flowguard.cli.dlq_reading import found_spans, pieces
from flowguard.cli.dlq_source import SCHEMA, Source, selection_options, source_options
from flowguard.cli.exit_codes import OK, USAGE, CommandError
from flowguard.cli.moments import place_of, when
from flowguard.cli.output import report, report_options
from flowguard.cli.spans import Span
from flowguard.cli.terminal import printable

__all__ = ["show"]

NEWEST: Final = 10

#: All that are shown are in memory, up to 1 MiB each.
NEWEST_MAX: Final = 100

#: More of a value, a key or a header is for --full, or for programs.
LETTERS_SHOWN: Final = 1000

#: Where too few letters of a partition's end are meant, so many times as many are read.
WIDENING: Final = 8


@click.command
@source_options
@selection_options
@click.option(
    "--offset",
    "places",
    metavar="PARTITION:OFFSET",
    multiple=True,
    help="The letter at this position, as ls and logs name it; may be repeated.",
)
@click.option("-n", "--limit", metavar="N", type=click.IntRange(1, NEWEST_MAX), default=NEWEST,
              show_default=True, help="Without --offset: the newest N.")  # fmt: skip
@click.option("--full", is_flag=True, help="Show long values whole.")
@report_options
def show(
    source: Source,
    selection: Selection,
    places: tuple[str, ...],
    limit: int,
    full: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Show dead letters with reason, position, headers, key and value.

    The newest are the last of each partition, by their time. What is no text is shown as hex;
    control characters are escapes.
    """
    wanted = [place_of(each) for each in places]
    if wanted and (len(source.topics) > 1 or not selection.is_all):
        raise CommandError(
            "--offset names one letter: give one --topic, and no --type, --orig-topic or --since",
            USAGE,
        )
    if wanted:
        letters = over_kafka(source.access, letters_at(source, wanted))
    else:
        letters = over_kafka(source.access, newest(source, selection, limit))
    report(
        {
            "schema": SCHEMA,
            "verb": "show",
            "topics": list(source.topics),
            "letters": list(map(as_entry, letters)),
        },
        lambda: as_text(source, letters, None if full else LETTERS_SHOWN),
        as_json=as_json,
        output=output,
    )
    return OK


async def letters_at(source: Source, places: Sequence[tuple[int, int]]) -> list[Letter]:
    """Return the letters at some positions, in the order they were asked for.

    Raises:
        CommandError: There is none at one of them.
    """
    spans = {each.partition: each for each in await found_spans(source)}
    found = []
    for number, offset in places:
        partition = TopicPartition(source.topics[0], number)
        whole = spans.get(partition)
        letters: list[Letter] = []
        if whole is not None and whole.begin <= offset < whole.end:
            span = Span(partition, offset, offset + 1)
            letters = await all_of(source, span, Selection())
        if not letters:
            there = "" if whole is None else f"; it holds {whole.begin} to {whole.end - 1}"
            raise CommandError(
                f"there is no letter at {number}:{offset} of {partition.topic}{there}"
            )
        found += letters
    return found


async def all_of(source: Source, span: Span, selection: Selection) -> list[Letter]:
    """Return the letters of a short span."""
    async with aclosing(pieces(source.access, [span], selection)) as found:
        return [each async for piece in found for each in piece.letters if selection.has(each)]


async def newest(source: Source, selection: Selection, limit: int) -> list[Letter]:
    """Return the last letters of all partitions, the newest last."""
    found: list[Letter] = []
    for span in await found_spans(source):
        found += await last_of(source, span, selection, limit)
    found.sort(key=lambda each: (each.timestamp_ms, each.topic, each.partition, each.offset))
    return found[-limit:]


async def last_of(source: Source, span: Span, selection: Selection, limit: int) -> list[Letter]:
    """Return the last letters of one partition; no more of it is read than is needed."""
    width = limit
    while True:
        begin = max(span.begin, span.end - width)
        kept: deque[Letter] = deque(maxlen=limit)
        async with aclosing(pieces(source.access, [span.from_(begin)], selection)) as found:
            async for piece in found:
                kept.extend(filter(selection.has, piece.letters))
        if len(kept) == limit or begin == span.begin:
            return list(kept)
        width *= WIDENING


# For people.


def as_text(source: Source, letters: Sequence[Letter], most: int | None) -> str:
    """Return letters for people, the newest last."""
    if not letters:
        return f"no dead letters in {printable(', '.join(source.topics))}"
    return "\n\n".join("\n".join(lines_of(each, most)) for each in letters)


def lines_of(letter: Letter, most: int | None) -> list[str]:
    """Return a letter as lines; only the first of them begins at the edge."""
    lines = [printable(letter.place)]
    entries = [("error", letter.error_type), ("reason", letter.reason)]
    for name, text in entries:
        if text is not None:
            lines.append(entry(name, [printable(text)]))
    if letter.attempt is not None:
        lines.append(entry("attempt", [str(letter.attempt)]))
    lines.append(entry("from", [origin_of(letter)]))
    if letter.redriven:
        lines.append(entry("redriven", [f"{letter.redriven:,} times, and came back"]))
    for name, value in letter.headers:
        if not NOTE.fullmatch(name):
            content = r"\n".join(excerpt(value, most))
            lines.append(entry("header", [f"{printable(name)}: {content}"]))
    lines.append(entry("key", excerpt(letter.key, most)))
    lines.append(entry("value", ["left out, too large"] if letter.value_left_out
                       else excerpt(letter.value, most)))  # fmt: skip
    return lines


def origin_of(letter: Letter) -> str:
    """Return where the record was before it became a letter."""
    if letter.original_topic is None:
        return "unknown: it was not written by flowguard"
    partition, offset = letter.original_partition, letter.original_offset
    numbers = f"[{'?' if partition is None else partition}] {'?' if offset is None else offset}"
    return f"{printable(letter.original_topic)}{numbers}, {when(letter.original_timestamp_ms)}"


def entry(name: str, lines: Sequence[str]) -> str:
    """Return a named entry; further lines of it stand below its first."""
    return "\n".join(f"  {name if not number else '':<9} {line}"
                     for number, line in enumerate(lines))  # fmt: skip
