"""What fair shares inside a lane are counted by: the key, a header or a column.

Records of one lane are spread over `FLOWS` sub-queues, and each sub-queue gets its turn. A
record's sub-queue is the hash of its tenant (or its key), so it is the same on every worker.
Two tenants may fall into one sub-queue; then they share its turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from flowguard.errors import ConfigError

__all__ = ["FLOWS", "Column", "FairBy", "Header", "Key", "header", "key", "parse_fair_by"]

#: Sub-queues of a lane. Many enough that two of a dozen tenants seldom share one (1 in 2),
#: few enough that the records of one fetch are still slices worth a turn.
FLOWS: Final = 128


@dataclass(frozen=True, slots=True)
class Key:
    """Fair shares by the record's key."""


@dataclass(frozen=True, slots=True)
class Header:
    """Fair shares by the value of a header; if a record repeats it, the last one counts."""

    name: str


@dataclass(frozen=True, slots=True)
class Column:
    """Fair shares by the value of a declared column."""

    name: str


FairBy: TypeAlias = Key | Header | Column


def key() -> Key:
    """Give each record key of a lane its fair share: `Lane(fair_by=fg.key())`.

    Records without a key share one sub-queue.
    """
    return Key()


def header(name: str) -> Header:
    """Give each value of a header its fair share: `Lane(fair_by=fg.header("tenant"))`.

    Records without the header share one sub-queue.

    Args:
        name: Header; if a record repeats it, the last one counts.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"header({name!r}): the header needs a name")
    return Header(name)


def parse_fair_by(value: FairBy | str | None, *, owner: str) -> FairBy | None:
    """Return what `Lane(fair_by=…)` means: text is the name of a column.

    Raises:
        ConfigError: It is neither.
    """
    if value is None or isinstance(value, (Key, Header, Column)):
        return value
    if isinstance(value, str) and value:
        return Column(value)
    raise ConfigError(
        f"{owner}.fair_by={value!r} is nothing to share by; use fg.key(), "
        'fg.header("tenant") or the name of a column'
    )
