"""Codecs: the bytes of Kafka values become columns, and columns become bytes.

    values (Arrow binary, null = tombstone)
        │
        ├─ columns at C speed ──▶ every guard passed ──────────┐
        │        │ a guard is in doubt                         ├─▶ Decoded(frame, rejected)
        └────────▶ value by value (`rows.py`, the law) ────────┘

Invariants:

- Row i is value i. A row is wholly good or rejected with a reason; a bad value never
  costs its neighbours, and never raises.
- `rows.py` says what a value means. A faster path may only return what `rows.py` would
  have returned; where it cannot be sure it hands the row back. A property test compares.
- Decimals are read from text and never pass through a float.
- Nothing here does I/O, reads a clock or imports Faust.
"""

from flowguard.intake.codec.codec import (
    REGISTERED,
    Codec,
    Decoded,
    RegisteredSchema,
    Registry,
    Rejection,
    make_codec,
)

__all__ = [
    "REGISTERED",
    "Codec",
    "Decoded",
    "RegisteredSchema",
    "Registry",
    "Rejection",
    "make_codec",
]
