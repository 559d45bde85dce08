"""Unpack the records of a wire batch, into no more memory than allowed.

12 kB of zstd can become 270 MB. So nothing here unpacks at once: libraries stream, and
what exceeds the limit is counted, not kept.

Source: Kafka protocol guide (compression), KIP-57 (lz4 frames), xerial/snappy-java
    SnappyOutputStream.java (snappy framing).
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

import cramjam
import pyarrow as pa

from flowguard.errors import WireError

__all__ = ["TooLarge", "decompress"]

GZIP: Final = 1
SNAPPY: Final = 2
LZ4: Final = 3
ZSTD: Final = 4

StreamName = Literal["gzip", "lz4", "zstd"]
STREAMED: Final[dict[int, StreamName]] = {GZIP: "gzip", LZ4: "lz4", ZSTD: "zstd"}

# One read of a stream. Below what malloc would map anew for each chunk (128 KiB), which
# made lz4 five times slower.
CHUNK_BYTES: Final = 64 * 1024
# Counting further would only waste time: no sane memory setting covers it.
COUNTED_BYTES_MAX: Final = 4 * 1024**3

#   xerial = magic 8 | version i32 | compatible i32 | blocks of: size i32 | raw snappy
#   raw    = uncompressed size, unsigned varint | the rest
XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
XERIAL_HEADER_BYTES: Final = len(XERIAL_MAGIC) + 4 + 4
XERIAL_SIZE_BYTES: Final = 4


class TooLarge(WireError):
    """Records unpack to more than the limit.

    Args:
        size: What they unpack to, in bytes.
        exact: False if counting stopped at `size`.
    """

    def __init__(self, size: int, *, exact: bool = True) -> None:
        super().__init__(f"{size}" if exact else f"at least {size}", needed_bytes=size)
        self.size = size


class Stream(Protocol):
    """What gives unpacked bytes piece by piece, and nothing at its end."""

    def read(self, nbytes: int) -> bytes: ...


def decompress(codec: int, data: memoryview, limit: int) -> bytes | bytearray:
    """Unpack the records of one wire batch.

    Args:
        codec: Number of the codec in the attributes of the batch.
        data: The packed records.
        limit: Most bytes to unpack.

    Raises:
        TooLarge: They are more than `limit` bytes.
        WireError: They cannot be unpacked, or the codec is unknown.
    """
    if codec == SNAPPY:
        return unpack_snappy(data, limit)
    if codec in STREAMED:
        return unpack_stream(STREAMED[codec], data, limit)
    raise WireError(f"unknown compression codec {codec}")


def unpack_stream(name: StreamName, data: memoryview, limit: int) -> bytearray:
    """Unpack gzip, lz4 or zstd, of one frame or several."""
    unpacked = bytearray()
    try:
        # Arrow opens the next frame by itself and complains about a cut one.
        stream = pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(data)), name)
        while chunk := stream.read(CHUNK_BYTES):
            if len(unpacked) + len(chunk) > limit:
                raise count_rest(stream, len(unpacked) + len(chunk))
            unpacked += chunk
    except OSError as error:
        raise WireError(f"{name}: {error}") from error
    return unpacked


def count_rest(stream: Stream, size: int) -> TooLarge:
    """Return by how much the limit is exceeded; `size` bytes are read already."""
    while chunk := stream.read(CHUNK_BYTES):
        size += len(chunk)
        if size > COUNTED_BYTES_MAX:
            return TooLarge(size, exact=False)
    return TooLarge(size)


def unpack_snappy(data: memoryview, limit: int) -> bytearray:
    """Unpack snappy, whose blocks say beforehand how large they are."""
    try:
        blocks = xerial_blocks(data) if is_xerial(data) else [data]
        sizes = [snappy_size(block) for block in blocks]
        if sum(sizes) > limit:
            raise TooLarge(sum(sizes))
        return unpack_blocks(blocks, sizes)
    except cramjam.DecompressionError as error:
        raise WireError(f"snappy: {error}") from error


def is_xerial(data: memoryview) -> bool:
    return bytes(data[: len(XERIAL_MAGIC)]) == XERIAL_MAGIC


def xerial_blocks(data: memoryview) -> list[memoryview]:
    """Return the raw blocks of xerial's framing, which Java and most others write."""
    blocks = []
    at = XERIAL_HEADER_BYTES
    while at < len(data):
        start = at + XERIAL_SIZE_BYTES
        size = int.from_bytes(data[at:start], "big", signed=True)
        at = start + size
        if size < 0 or at > len(data):
            raise WireError("snappy: a block runs past the end")
        blocks.append(data[start:at])
    return blocks


def snappy_size(block: memoryview) -> int:
    """Return what a raw block says that it unpacks to, if it can be true."""
    size: int = cramjam.snappy.decompress_raw_len(block)
    # The densest element copies 64 bytes and takes 3. A larger claim is a lie, and
    # believing it would allocate that much.
    if size > len(block) * 64 // 3:
        raise WireError(f"snappy: {len(block)} bytes cannot unpack to {size}")
    return size


def unpack_blocks(blocks: list[memoryview], sizes: list[int]) -> bytearray:
    unpacked = bytearray(sum(sizes))
    at = 0
    for block, size in zip(blocks, sizes, strict=True):
        cramjam.snappy.decompress_raw_into(block, memoryview(unpacked)[at : at + size])
        at += size
    return unpacked
