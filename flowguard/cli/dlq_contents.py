"""Keys, values and headers of dead letters, so that people and programs can read them."""

from __future__ import annotations

from typing import Any, Final

from flowguard.cli.dlq_letters import NOTE, Letter
from flowguard.cli.terminal import printable

__all__ = ["as_entry", "excerpt", "readable"]

HEX_PREFIX: Final = "0x"


def readable(content: bytes | None) -> dict[str, Any] | None:
    """Return bytes for programs: as `text` if they are text, otherwise as `hex`."""
    if content is None:
        return None
    text = text_of(content)
    if text is None:
        return {"bytes": len(content), "hex": content.hex()}
    return {"bytes": len(content), "text": text}


def text_of(content: bytes) -> str | None:
    """Return bytes as text, None if they are none; binary data is none, whatever UTF-8 says."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def excerpt(content: bytes | None, most: int | None) -> list[str]:
    """Return bytes as lines for people: text in which nothing is obeyed, or hex.

    JSON stays as it was written: what is wrong with it may be how.

    Args:
        most: As many letters are shown; None for all of them.
    """
    if content is None:
        return ["null"]
    text = text_of(content)
    if text is None:
        return [cut(HEX_PREFIX + content[:most].hex(), most, len(content))]
    return list(map(printable, cut(text, most, len(content)).split("\n")))


def cut(text: str, most: int | None, num_bytes: int) -> str:
    """Return the beginning of a text, and say so."""
    if most is None or len(text) <= most:
        return text
    return f"{text[:most]}… ({num_bytes:,} bytes; --full shows all)"


def as_entry(letter: Letter) -> dict[str, Any]:
    """Return a letter for programs; times are seconds of the epoch."""
    original_ms = letter.original_timestamp_ms
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp": letter.timestamp_ms / 1000 if letter.timestamp_ms >= 0 else None,
        "type": letter.error_type,
        "reason": letter.reason,
        "attempt": letter.attempt,
        "redriven": letter.redriven,
        "original": {
            "topic": letter.original_topic,
            "partition": letter.original_partition,
            "offset": letter.original_offset,
            "timestamp": None if original_ms is None else original_ms / 1000,
        },
        "key": readable(letter.key),
        "value": readable(letter.value),
        "value_left_out": letter.value_left_out,
        "headers": [
            {"name": name, "value": readable(value)}
            for name, value in letter.headers
            if not NOTE.fullmatch(name)
        ],
    }
