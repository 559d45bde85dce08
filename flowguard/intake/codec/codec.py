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

__all__ = [
    "REGISTERED",
    "Codec",
    "Decoded",
    "RegisteredSchema",
    "Registry",
    "Rejection",
    "make_codec",
]

#: Codecs whose values name their schema in a registry.
REGISTERED: Final = ("avro", "protobuf")


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


class RegisteredSchema(NamedTuple):
    """A schema as a registry has it.

    Args:
        text: Avro: its JSON. Protobuf: its `FileDescriptorProto`, in base64.
        references: (name, text) of every schema that it needs, those without needs first.
    """

    text: str
    references: tuple[tuple[str, str], ...] = ()


class Registry(Protocol):
    """Where writers' schemas are.

    Thread-safety: may be asked by several threads at once, and may block.
    """

    def schema(self, id: int) -> RegisteredSchema | str:
        """Return the schema with this number; asked once, because a number never changes.

        Raises:
            LookupError: The registry has no such schema: the value is rejected.
            Exception: Anything else is no answer: the batch fails and is tried again.
        """
        ...


@runtime_checkable
class Codec(Protocol):
    """Bytes of Kafka values ⇄ columns.

    Thread-safety: `decode` and `encode` may run in several threads at once.
    """

    name: str
    notices: list[str]  # what the codec has to say to the operator; the caller drains it
    waits: bool  # a call may wait for another computer; then not on an event loop

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

    def project(self, names: Sequence[str]) -> Codec:
        """Return the same codec for these columns only, which must be declared ones."""
        ...


def make_codec(
    codec: str | object,
    columns: Schema | None = None,
    *,
    registry: Registry | None = None,
    subject: str = "",
) -> Codec:
    """Return the codec of that name, or the user's object wrapped.

    Args:
        codec: A name, or an object with `decode` and `encode`.
        columns: The declared columns; None to infer them.
        registry: Where writers' schemas are; `avro` and `protobuf` need one.
        subject: Under which the registry has the schema of what is sent.

    Raises:
        ConfigError: No such codec (the message names the nearest one), an object without
            `decode` and `encode`, a registry where none is read, or none where one is needed.
    """
    known = _factories()
    if isinstance(codec, str) and codec in REGISTERED:
        return _registered(codec, columns, registry, subject)
    if registry is not None:
        raise ConfigError(
            f"codec={codec!r} reads no schema registry; leave registry out, or use "
            f"{' or '.join(map(repr, REGISTERED))}"
        )
    if isinstance(codec, str):
        if codec in known:
            return known[codec](columns)
        known = dict.fromkeys([*known, *REGISTERED], known["json"])
        like = nearest(codec, known)
        hint = f"did you mean {like!r}?" if like else f"known are {', '.join(known)}"
        raise ConfigError(f"there is no codec {codec!r}; {hint}")
    if callable(getattr(codec, "decode", None)) and callable(getattr(codec, "encode", None)):
        from flowguard.intake.codec.arrow import ForeignCodec

        return ForeignCodec(codec, columns)
    raise ConfigError(f"codec={codec!r} is no codec: it needs decode(values) and encode(frame)")


def _registered(
    codec: str, columns: Schema | None, registry: Registry | None, subject: str
) -> Codec:
    if registry is None:
        raise ConfigError(
            f"codec={codec!r} needs registry=, the address of a schema registry "
            "(https://user:password@host) or an object with schema(id)"
        )
    try:
        if codec == "avro":
            from flowguard.intake.codec.avro import AvroCodec

            return AvroCodec(columns, registry, subject)
        from flowguard.intake.codec.protobuf import ProtobufCodec

        return ProtobufCodec(columns, registry, subject)
    except ImportError as error:
        raise ConfigError(
            f"codec={codec!r} needs a package that is not installed ({error.name}); "
            f"run: pip install 'flowguard[{codec}]'"
        ) from error


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
