"""Kafka's primitive types on the wire, for requests that are written by hand.

Source: Kafka protocol guide, protocol primitive types.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["I16", "I32", "text"]

I16: Final = struct.Struct(">h")
I32: Final = struct.Struct(">i")


def text(value: str) -> bytes:
    """Return a string as Kafka writes it: its size in 16 bits, and UTF-8."""
    encoded = value.encode()
    return I16.pack(len(encoded)) + encoded
