"""Search and check random bytes in every way; the sanitizers look for one read too far.

python -m tests.native.fuzz_frame --runs 10000 --seed 1
"""

from __future__ import annotations

import argparse
import random
from array import array

from flowguard._native.frame import ALIGNMENT, HEADER_BYTES, crc32c, find_header, header_holds

MAGIC = b"FGFR"


def slow_crc32c(data: bytes) -> int:
    """Return the checksum bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def exact(data: bytes) -> array[int]:
    """Return the bytes in an allocation that ends with them, so that over-reads are seen."""
    return array("B", data)


def some_header(rng: random.Random, position: int, segment: int) -> bytes:
    """Return a header that holds, or one of which a bit is another one."""
    fixed = MAGIC + rng.randbytes(4) + position.to_bytes(8, "little")
    fixed += segment.to_bytes(8, "little")
    fixed += rng.randbytes(HEADER_BYTES - len(fixed) - 4)
    header = bytearray(fixed + crc32c([fixed]).to_bytes(4, "little"))
    if rng.random() < 0.5:
        header[rng.randrange(len(header))] ^= 1 << rng.randrange(8)
    return bytes(header)


def run(rng: random.Random) -> None:
    """Make a file of pieces, and look for headers everywhere in it."""
    position, segment = ALIGNMENT * rng.randrange(1 << 40), rng.randrange(1 << 64)
    data = b""
    for _ in range(rng.randrange(6)):
        match rng.randrange(4):
            case 0:
                data += bytes(ALIGNMENT * rng.randrange(9))
            case 1:
                data += some_header(rng, position + len(data), segment)
            case 2:
                data += some_header(rng, ALIGNMENT * rng.randrange(1 << 40), segment)
            case _:
                data += MAGIC + rng.randbytes(rng.randrange(200))
    data = data[: rng.randrange(len(data) + 1)] if rng.random() < 0.5 else data
    held = exact(data)
    start = ALIGNMENT * rng.choice([0, 0, 1, 5, 1000])
    while (at := find_header(held, start, position=position, segment=segment)) >= 0:
        assert header_holds(held[at : at + HEADER_BYTES], position=position + at, segment=segment)
        start = at + ALIGNMENT
    header_holds(held, position=position, segment=segment)
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    parts = [
        exact(data[low:high]) for low, high in zip([0, *cuts], [*cuts, len(data)], strict=True)
    ]
    assert crc32c(parts) == crc32c([data])
    if len(data) < 100:
        assert crc32c(parts) == slow_crc32c(data)


def main() -> None:
    """Run as often as asked, from a seed that is printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    print(f"python -m tests.native.fuzz_frame --runs {given.runs} --seed {given.seed}")
    rng = random.Random(given.seed)
    for _ in range(given.runs):
        run(rng)


if __name__ == "__main__":
    main()
