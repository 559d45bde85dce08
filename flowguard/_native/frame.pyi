from collections.abc import Iterable

from typing_extensions import Buffer

HEADER_BYTES: int
ALIGNMENT: int

def crc32c(parts: Iterable[Buffer]) -> int: ...
def find_header(data: Buffer, start: int, *, position: int, segment: int) -> int: ...
def header_holds(data: Buffer, *, position: int, segment: int) -> bool: ...
