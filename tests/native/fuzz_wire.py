"""Feed mutated bytes to the wire parser; only a WireError may come back.

Meant for a build with sanitizers, which test_sanitized.py makes and runs; by hand:

    FLOWGUARD_SANITIZE=1 python setup.py build_ext --build-lib build/sanitized \\
        --build-temp build/sanitized-tmp
    cp -rn flowguard build/sanitized/
    PYTHONPATH=build/sanitized:. PYTHONMALLOC=malloc ARROW_DEFAULT_MEMORY_POOL=system \\
        ASAN_OPTIONS=detect_leaks=0 \\
        LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \\
        python -m tests.native.fuzz_wire --runs 100000

The same seed and run number mutate the same bytes in the same way.
"""

from __future__ import annotations

import argparse
from array import array
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any

import pyarrow as pa

from flowguard._native import wire
from flowguard.errors import WireError
from flowguard.intake.compression import decompress
from tests.native.batches import (
    ABORT,
    TRANSACTIONAL,
    Row,
    frame_of,
    marker,
    section_of,
    wire_batch,
)

REPORT_RUNS = 1000
BYTES_MAX = 1 << 20

# Where lengths, counts and numbers change their meaning.
EDGES = [
    b"\x00", b"\x01", b"\x02", b"\x7f", b"\x80", b"\xff",
    b"\xff\xff\xff\xff", b"\x80\x00\x00\x00", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff\x0f", b"\xfe\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
]  # fmt: skip

RULES = [
    wire.LaneRule.constant(0),
    wire.LaneRule.by_header(b"lane", {b"fast": 1, b"": 2}, 0),
    wire.LaneRule.by_key_prefix({b"k": 1, b"key-1": 2, b"": 0}, 0),
]

Seeds = list[tuple[bytes, list[tuple[int, int]]]]


def make_seeds() -> Seeds:
    """Return well-formed wire batches, with the transactions that were aborted."""
    rows = [
        Row(key=b"key-1", headers=[("lane", b"fast"), ("x", None)]),
        Row(key=None, value=None),
        Row(key=b"", value=b"x" * 300, headers=[("lane", b"")]),
    ]
    aborted = wire_batch(rows, flags=TRANSACTIONAL, producer_id=7)
    after = wire_batch(rows, base_offset=4, flags=TRANSACTIONAL, producer_id=7)
    plain: Seeds = [(wire_batch(rows * 3, codec=codec), []) for codec in range(5)]
    return [
        *plain,
        (aborted + marker(ABORT, base_offset=3, producer_id=7) + after, [(7, 0)]),
        (wire_batch([], last_delta=4) + wire_batch(rows, base_offset=5), []),
    ]


def mutate(random: Random, data: bytes) -> bytes:
    """Flip, replace, cut out, repeat or truncate, one to four times."""
    out = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(out) + 1)
        match random.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << random.randrange(8)
            case 1:
                edge = random.choice(EDGES)
                out[at : at + len(edge)] = edge
            case 2:
                out[at:at] = random.choice(EDGES)
            case 3:
                del out[at : at + random.randint(1, 8)]
            case 4:
                start = random.randrange(len(out) + 1)
                out[at:at] = out[start : start + random.randint(1, 40)]
            case _:
                del out[max(at, 1) :]
    return bytes(out)


def exact(data: bytes) -> array[int]:
    """Return the bytes in an allocation that ends with them, so that over-reads are seen."""
    return array("B", data)


def binary_column(values: Sequence[bytes]) -> pa.Array[Any]:
    """Return a column whose bytes end with their allocation."""
    column = pa.array(values, pa.binary())
    _, ends, _ = column.buffers()
    data = pa.py_buffer(exact(b"".join(values)))
    return pa.Array.from_buffers(pa.binary(), len(values), [None, ends, data])


def run_parser(random: Random, seeds: Seeds) -> None:
    data, aborted = random.choice(seeds)
    data = mutate(random, data)
    wire.skim(exact(data), 0, len(data))
    parsed = wire.parse_records(
        exact(data),
        section_of(data, aborted),
        asked_offset=random.choice([0, 0, 2, 5]),
        rule=random.choice(RULES),
        lane_count=3,
        max_bytes=random.choice([BYTES_MAX, 700]),
        batch_bytes_max=random.choice([BYTES_MAX, 200]),
        decompress=decompress,
        check_crc=False,
    )
    for lane in parsed.lanes:
        lane.columns.validate(full=True)
        wire.decode_headers(lane.columns["headers"]).validate(full=True)
        wire.join_lines([lane.columns["value"]])


def run_response(random: Random, seeds: Seeds) -> None:
    data, aborted = random.choice(seeds)
    frame = mutate(random, frame_of(data, aborted))
    _, _, sections = wire.read_fetch_response(exact(frame))
    for section in sections:
        wire.skim(exact(frame), section.start, section.size)


def run_headers(random: Random) -> None:
    headers = wire.encode_headers([(b"lane", b"fast"), (b"x", None), (b"\xff", b"")])
    column = binary_column([mutate(random, headers) for _ in range(random.randint(1, 3))])
    with suppress(WireError):
        wire.decode_headers(column).validate(full=True)
    wire.header_values(column, random.choice([b"lane", b"", b"x"])).validate(full=True)


def run_once(random: Random, seeds: Seeds) -> None:
    with suppress(WireError):
        run_parser(random, seeds)
    with suppress(WireError):
        run_response(random, seeds)
    with suppress(WireError):
        run_headers(random)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--start", type=int, default=0, help="first run")
    options.add_argument("--runs", type=int, default=10_000)
    chosen = options.parse_args()
    seeds = make_seeds()
    for run in range(chosen.start, chosen.start + chosen.runs):
        if run % REPORT_RUNS == 0:
            print(f"replay with --seed {chosen.seed} --start {run}", flush=True)
        run_once(Random(f"{chosen.seed}.{run}"), seeds)


if __name__ == "__main__":
    main()
