"""Text of others on a terminal: names in files and messages are never obeyed, only shown."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from flowguard.printable import printable

__all__ = ["encoded", "printable"]

#: What JSON leaves as it is. Some terminals take U+009B for the beginning of a command.
NOT_ASCII: Final = re.compile("[^\x00-\x7e]")


def encoded(document: dict[str, Any]) -> str:
    """Return a document as JSON in which whatever cannot be printed is an escape."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return NOT_ASCII.sub(_in_json, text)


def _in_json(match: re.Match[str]) -> str:
    letter = match[0]
    if letter.isprintable():
        return letter
    return "\\u007f" if letter == "\x7f" else json.dumps(letter)[1:-1]
