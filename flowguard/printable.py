r"""Text of others, written so that it is only ever shown: never a line, a command or a page.

Topics, header values, keys and the errors of brokers and agents come from elsewhere. A
newline in them would look like a line of ours in a log, `\x1b[` is a command to a terminal.
"""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Return text in which control characters are written as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
