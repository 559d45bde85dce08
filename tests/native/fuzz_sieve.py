"""Sift random rows of slices of arrays; the sanitizers look for a byte out of place.

python -m tests.native.fuzz_sieve --runs 10000 --seed 1
"""

from __future__ import annotations

import argparse
import random

import pyarrow as pa

from flowguard._native.sieve import left_out, merged, newest, outside_cohort, range_lines, span


def some_key(rng: random.Random) -> bytes | None:
    """Return a key that is often the same as another one."""
    size = rng.choice([0, 1, 7, 8, 9, 16, 40])
    return None if rng.random() < 0.2 else bytes([rng.randrange(3)]) * size


def some_columns(rng: random.Random) -> tuple[pa.Int64Array, pa.BinaryArray]:
    """Return offsets and keys that begin anywhere in their buffers."""
    count, cut = rng.randrange(40), rng.randrange(10)
    start = rng.randrange(2**62)
    offsets = [start + 2 * row for row in range(count + cut)]
    keys = [some_key(rng) for _ in range(count + cut)]
    return pa.array(offsets, pa.int64())[cut:], pa.array(keys, pa.binary())[cut:]


def run(rng: random.Random) -> None:
    """Sift some columns, and tell what leaves."""
    columns = [some_columns(rng) for _ in range(rng.randrange(4))]
    masks = newest([offsets for offsets, _ in columns], [keys for _, keys in columns])
    for (offsets, keys), keep in zip(columns, masks, strict=True):
        outside = outside_cohort(keys, offsets, offsets, rng.random())
        for mask in (keep, outside):
            if mask is None:
                continue
            first, end, count = span(mask)
            assert end - first >= count == mask.true_count
            ranges = left_out(offsets, mask, rng.random() < 0.5)
            ranges += left_out(offsets, None if rng.random() < 0.5 else mask[:])
            found = merged(ranges)
            assert len(found) <= len(ranges)
            range_lines(found, rng.randrange(60))


def main() -> None:
    """Run as often as asked, from a seed that is printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    print(f"python -m tests.native.fuzz_sieve --runs {given.runs} --seed {given.seed}")
    rng = random.Random(given.seed)
    for _ in range(given.runs):
        run(rng)


if __name__ == "__main__":
    main()
