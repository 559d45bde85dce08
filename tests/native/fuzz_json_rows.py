"""Feed mutated JSON to the reader of objects; it must neither raise nor reach beyond a value.

Meant for a build with sanitizers, which test_sanitized.py makes and runs; fuzz_wire.py says
how to do that by hand. The same seed and run number mutate the same bytes in the same way.
"""

from __future__ import annotations

import argparse
from array import array
from collections.abc import Sequence
from random import Random
from typing import Any

import pyarrow as pa

from flowguard._native.json_rows import ObjectReader

REPORT_RUNS = 1000

TYPES = {
    "i": "int64", "u": "uint8", "v": "uint64", "f": "float64", "g": "float32", "b": "bool",
    "s": "string", "y": "binary", "d": "decimal128(12, 2)", "w": "decimal128(38, 9)",
    "t": "timestamp[us, UTC]", "n": "timestamp[s]", "m": "timestamp[ns]", "e": "date32",
    "p": "duration[ms]", "z": "null",
}  # fmt: skip
ARROW = pa.schema([
    ("i", pa.int64()), ("u", pa.uint8()), ("v", pa.uint64()), ("f", pa.float64()),
    ("g", pa.float32()), ("b", pa.bool_()), ("s", pa.string()), ("y", pa.binary()),
    ("d", pa.decimal128(12, 2)), ("w", pa.decimal128(38, 9)), ("t", pa.timestamp("us", "UTC")),
    ("n", pa.timestamp("s")), ("m", pa.timestamp("ns")), ("e", pa.date32()),
    ("p", pa.duration("ms")), ("z", pa.null()),
])  # fmt: skip

SEEDS = [
    b'{"i":-12,"u":255,"v":18446744073709551615,"f":-1.5e3,"g":0.1,"b":true,"s":"text"}',
    b'{"s":"a longer text, of more than sixteen bytes","y":"\\n\\"\\u00e9\\ud83d\\ude00","z":null}',
    '{"s":"é€😀 and some more text after it","x":{"a":[1,-2.5e3,"\\t",{}],"b":null}}'.encode(),
    b' { "d" : "-12.34" , "w" : 1234567890123.456 , "b" : false , "i" : null } ',
    b'{"t":"2020-02-29T23:59:59.123456+01:30","n":"1969-12-31 00:00:00Z","e":"2000-01-31"}',
    b'{"m":"2020-01-01T00:00:00.123456789Z","t":1577836800000000,"e":-719162,"p":-5}',
    b'{"y":"","d":0.5,"f":9007199254740993,"e":"0001-01-01","t":"9999-12-31"}',
]  # fmt: skip

# What changes the meaning of what is around it.
EDGES = [
    b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"\x00", b"\x1f", b"\x7f",
    b"\x80", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xff", b"-", b"+", b".",
    b"0", b"9", b"e", b"E5", b"e-5", b"null", b"true", b"NaN", b"\\u", b"\\ud83d", b"\\udc00",
    b"9223372036854775808", b"0.10000000000000000000001", b"1e400", b"17.999999999999999",
    b"0000-02-30", b"24:00", b"T", b"Z", b'"s":', b'"i":1,', b'"\\u0069":1,',
]  # fmt: skip


def mutate(random: Random, data: bytes) -> bytes:
    """Flip, replace, insert, cut out, repeat or truncate, one to three times."""
    out = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(out) + 1)
        edge = random.choice(EDGES)
        match random.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << random.randrange(8)
            case 1:
                out[at : at + len(edge)] = edge
            case 2:
                out[at:at] = edge
            case 3:
                del out[at : at + random.randint(1, 8)]
            case 4:
                start = random.randrange(len(out) + 1)
                out[at:at] = out[start : start + random.randint(1, 40)]
            case 5:
                digit = b"%d" % random.randrange(10 ** random.randint(1, 20))
                out[at:at] = digit
            case _:
                del out[max(at, 1) :]
    return bytes(out)


def binary_column(values: Sequence[bytes | None]) -> pa.Array[Any]:
    """Return a column whose bytes end with their allocation, so that over-reads are seen."""
    column = pa.array(values, pa.binary())
    bits, ends, _ = column.buffers()
    data = pa.py_buffer(array("B", b"".join(value or b"" for value in values)))
    return pa.Array.from_buffers(pa.binary(), len(values), [bits, ends, data])


def run_once(random: Random) -> None:
    values = [mutate(random, random.choice(SEEDS)) for _ in range(random.randint(1, 3))]
    closed = random.random() < 0.2
    columns, _ = ObjectReader(ARROW, closed=closed).read(binary_column([None, *values]).slice(1))
    for column in columns:
        column.validate(full=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--start", type=int, default=0, help="first run")
    options.add_argument("--runs", type=int, default=10_000)
    chosen = options.parse_args()
    for run in range(chosen.start, chosen.start + chosen.runs):
        if run % REPORT_RUNS == 0:
            print(f"replay with --seed {chosen.seed} --start {run}", flush=True)
        run_once(Random(f"{chosen.seed}.{run}"))


if __name__ == "__main__":
    main()
