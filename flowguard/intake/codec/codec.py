"""What every codec is, and how one is chosen by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import polars as pl
import pyarrow as pa

from flowguard.errors import ConfigError
from flowguard.intake.schema import Schema
from flowguard.suggest import nearest

__all__ = ["Codec", "Decoded", "Rejection", "make_codec"]


class Rejection(NamedTuple):
    """One value that could not become a row; it goes to dead letters with this reason."""

    row: int
    reason: str


@dataclass(frozen=True)
class Decoded:
    """What became of the values of one batch.

    Args:
        frame: The good rows, in order; every value's row when nothing was rejected.
        rejected: Ascending by row; their rows are not in `frame`.
    """

    frame: pl.DataFrame
    rejected: list[Rejection] = field(default_factory=list)


@runtime_checkable
class Codec(Protocol):
    """Bytes of Kafka values ⇄ columns.

    Thread-safety: `decode` and `encode` may run in several threads at once.
    """

    name: str
    notices: list[str]  # what the codec has to say to the operator; the caller drains it

    def decode(self, values: Sequence[pa.BinaryArray]) -> Decoded:
        """Return the rows; row i is value i of the concatenated arrays.

        Arrays may be slices and may hold nulls (tombstones). Never raises for bad values.
        """
        ...

    def encode(self, frame: pl.DataFrame | pa.Table) -> pa.BinaryArray:
        """Return one value per row.

        Raises:
            ValueError: A column cannot be written in this format.
        """
        ...


#: Named in the contract, built later.
LATER: Final = ("avro", "protobuf")


def make_codec(codec: str | object, columns: Schema | None = None) -> Codec:
    """Return the codec of that name, or the user's object wrapped.

    Raises:
        ConfigError: No such codec (the message names the nearest one), one of a later
            version, or an object without `decode` and `encode`.
    """
    known = _factories()
    if isinstance(codec, str):
        if codec in known:
            return known[codec](columns)
        if codec in LATER:
            raise ConfigError(f"codec={codec!r} arrives in a later version of flowguard")
        like = nearest(codec, known)
        hint = f"did you mean {like!r}?" if like else f"known are {', '.join(known)}"
        raise ConfigError(f"there is no codec {codec!r}; {hint}")
    if callable(getattr(codec, "decode", None)) and callable(getattr(codec, "encode", None)):
        from flowguard.intake.codec.arrow import ForeignCodec

        return ForeignCodec(codec, columns)
    raise ConfigError(f"codec={codec!r} is no codec: it needs decode(values) and encode(frame)")


def _factories() -> dict[str, Callable[[Schema | None], Codec]]:
    # Imported here because each of these modules needs the types above.
    from flowguard.intake.codec.arrow import ArrowCodec
    from flowguard.intake.codec.json import JsonCodec
    from flowguard.intake.codec.msgpack import MsgpackCodec
    from flowguard.intake.codec.raw import RawCodec

    def raw(columns: Schema | None) -> Any:
        if columns is not None:
            raise ConfigError('codec="raw" has one column, "value"; leave columns out')
        return RawCodec()

    return {"json": JsonCodec, "msgpack": MsgpackCodec, "arrow": ArrowCodec, "raw": raw}
