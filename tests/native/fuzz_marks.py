"""Mark random rows of chunks that moved again and again; the sanitizers look on.

python -m tests.native.fuzz_marks --runs 10000 --seed 1
"""

from __future__ import annotations

import argparse
import random

import pyarrow as pa

from flowguard._native.marks import Marks


def some_rows(rng: random.Random, marks: Marks) -> tuple[int, int]:
    """Return where a slice begins and how long it is."""
    start = rng.randrange(marks.rows + 1)
    return start, rng.randrange(marks.rows - start + 1)


def some_mask(rng: random.Random, count: int) -> pa.BooleanArray:
    """Return a mask that begins anywhere in its buffer."""
    cut = rng.randrange(10)
    return pa.array([rng.random() < 0.5 for _ in range(count + cut)], pa.bool_())[cut:]


def run(rng: random.Random) -> None:
    """Start, land, give up and move rows."""
    known = [Marks(rng.randrange(60), rng.randrange(1, 256))]
    for _ in range(rng.randrange(12)):
        marks = rng.choice(known)
        start, count = some_rows(rng, marks)
        assert 0 <= marks.start(start, count) <= count
        assert 0 <= marks.land(start, count) <= count
        keep = some_mask(rng, count)
        done, settled, mask = marks.finish(start, count, processed=rng.random() < 0.5, keep=keep)
        assert done - settled == (0 if mask is None else mask.true_count)
        assert marks.done(start, count).true_count <= count
        known.append(marks.moved(start, count, keep))
        assert known[-1].rows == keep.true_count
    unfinished, flying = rng.choice(known).let_go()
    assert flying == 0 <= unfinished


def main() -> None:
    """Run as often as asked, from a seed that is printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    given = parser.parse_args()
    print(f"python -m tests.native.fuzz_marks --runs {given.runs} --seed {given.seed}")
    rng = random.Random(given.seed)
    for _ in range(given.runs):
        run(rng)


if __name__ == "__main__":
    main()
