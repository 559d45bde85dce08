"""Encode random rows in random ways; the sanitizers look for a byte out of place.

python -m tests.native.fuzz_record_batches --runs 10000 --seed 1
"""

from __future__ import annotations

import argparse
import random
import zlib

import pyarrow as pa

from flowguard._native.record_batches import RecordBatch, Rows


def some_bytes(rng: random.Random) -> bytes | None:
    """Return bytes of any of the lengths at which a varint grows, or none."""
    size = rng.choice([0, 1, 2, 63, 64, 65, 300, rng.randrange(9000)])
    return None if rng.random() < 0.2 else rng.randbytes(size)


def some_rows(rng: random.Random) -> tuple[Rows, int]:
    """Return rows from slices of arrays, and how many."""
    count, cut = rng.randrange(20), rng.randrange(4)
    partitions = rng.randrange(1, 5)
    headers = pa.array([some_bytes(rng) or b"\0" for _ in range(count + cut)], pa.binary())
    rows = Rows(
        pa.array([some_bytes(rng) for _ in range(count + cut)], pa.binary())[cut:],
        pa.array([some_bytes(rng) for _ in range(count + cut)], pa.binary())[cut:],
        pa.array([rng.randrange(partitions) for _ in range(count + cut)], pa.int32())[cut:],
        pa.array([rng.randrange(-(2**63), 2**63) for _ in range(count + cut)], pa.int64())[cut:],
        headers[cut:] if rng.random() < 0.5 else some_bytes(rng) or b"\0",
        partitions,
    )
    return rows, count


def run(rng: random.Random) -> None:
    """Encode some rows, and some more into a batch that is open."""
    rows, count = some_rows(rng)
    limit = rng.choice([1, 61, 100, 1024, 5000, 1 << 20])
    batches = rows.encode(limit)
    assert sum(batch.count for _, batch in batches) == count
    for _, batch in batches:
        if rng.random() < 0.5:
            batch.compress(1, rng.choice([zlib.compress, bytes, lambda _: b""]))
        batch.seal(rng.randrange(2**63), rng.randrange(2**15), rng.randrange(2**31))
        assert len(bytes(memoryview(batch))) == len(batch)
    batch = RecordBatch(limit)
    for _ in range(3):
        more, count = some_rows(rng)
        assert 0 <= more.append_to(batch, 0, count) <= count


def main() -> None:
    """Run as often as asked, from a seed that is printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    print(f"python -m tests.native.fuzz_record_batches --runs {given.runs} --seed {given.seed}")
    rng = random.Random(given.seed)
    for _ in range(given.runs):
        run(rng)


if __name__ == "__main__":
    main()
