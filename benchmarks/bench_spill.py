"""Write to a spill directory and read it back, beside the same directory without flowguard.

    python benchmarks/bench_spill.py [DIR] [--bytes 1GiB] [--turns 5] [--json] [--output FILE]

`raw` is what the directory gives a program that only writes: buffers of 4 MiB, one behind the
other, into files of 128 MiB, nothing synced; and read the same way. `reserved` is the same into
files whose blocks were reserved before, as the store does. The store writes frames of records
of 200 bytes, and reads them with their checksums into Arrow columns; once more encrypted, and
packed by lz4 and zstd. persist-queue (its file queue, and the one on SQLite) and a plain SQLite
table in batches of 1,000 take the same records as bytes.

Everything is measured in turns, in one run, and the medians count; bytes stay in the system's
cache as far as it lets them. Exits 1 if a target is missed:

- writing at least 0.8 of `raw`, or 1.2 GB/s;
- reading at least 1,500,000 records/s of 200 bytes;
- writing and reading at least 50 times as many records/s as persist-queue's file queue.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from flowguard._native import wire
from flowguard.chunk import TopicPartition
from flowguard.spill.cipher import EphemeralKey
from flowguard.spill.filesystem import RealFileSystem
from flowguard.spill.inspection import verify_slot
from flowguard.spill.manifest import Frame
from flowguard.spill.options import FRAME_BYTES_TARGET, Identity, LaneSpill, StoreLimits
from flowguard.spill.slot import take_slot
from flowguard.spill.store import SpillStore
from flowguard.units import MIB, size_bytes

SCHEMA = "flowguard.bench-spill/v1"
RECORD_BYTES = 200
SEGMENT_BYTES = 128 * MIB
LANE = "bulk"
PLACE = TopicPartition("orders", 0)
QUEUED_RECORDS = 5_000

WRITE_RATIO_MIN, WRITE_GB_PER_S_MIN = 0.8, 1.2
READ_RECORDS_PER_S_MIN = 1_500_000
QUEUE_RATIO_MIN = 50

Seconds = float


def make_columns(records: int, seed: int) -> pa.RecordBatch:
    """Return records of 200 bytes: key 12, value 155 of which a third packs, headers 1, times."""
    random = np.random.default_rng(seed)
    letters = random.integers(97, 123, size=(records, 155), dtype=np.uint8)
    letters[:, ::3] = ord(" ")
    keys = [b"account-%04d" % (number % 10_000) for number in range(records)]
    values = [row.tobytes() for row in letters]
    start = 1_700_000_000_000
    return pa.RecordBatch.from_arrays(
        [
            pa.array(range(records), pa.int64()),
            pa.array(range(start, start + records), pa.int64()),
            pa.array(keys, pa.binary()),
            pa.array(values, pa.binary()),
            pa.array([wire.encode_headers([])] * records, pa.binary()),
        ],
        names=["offset", "timestamp", "key", "value", "headers"],
    )


class Bench:
    """Measures in one directory.

    Args:
        num_bytes: How much is written in a turn.
    """

    def __init__(self, directory: Path, num_bytes: int) -> None:
        self.directory = directory
        self.frames = max(1, num_bytes // FRAME_BYTES_TARGET)
        self.records = FRAME_BYTES_TARGET // RECORD_BYTES
        self.columns = [make_columns(self.records, seed) for seed in range(4)]
        self.frame_bytes = self.columns[0].nbytes
        self.block = os.urandom(self.frame_bytes)
        self.figures: dict[str, list[float]] = {}

    def note(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)

    @property
    def gigabytes(self) -> float:
        return self.frames * self.frame_bytes / 1e9

    @contextmanager
    def place(self) -> Iterator[str]:
        """Lend an empty directory; what is in it afterwards never has to reach the disk."""
        path = tempfile.mkdtemp(dir=self.directory)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    # The directory by itself.

    def raw(self, name: str, *, reserve: bool) -> None:
        filesystem = RealFileSystem()
        a_file = SEGMENT_BYTES // self.frame_bytes
        with self.place() as path:
            began = time.perf_counter()
            for first in range(0, self.frames, a_file):
                file = filesystem.create(f"{path}/{first}")
                if reserve:
                    file.reserve(SEGMENT_BYTES)
                for number in range(min(a_file, self.frames - first)):
                    file.write_at([self.block], number * self.frame_bytes)
                file.close()
            self.note(f"{name} write, GB/s", self.gigabytes / (time.perf_counter() - began))
            if reserve:
                return
            buffer = pa.allocate_buffer(self.frame_bytes)
            began = time.perf_counter()
            for first in range(0, self.frames, a_file):
                file = filesystem.open(f"{path}/{first}")
                for number in range(min(a_file, self.frames - first)):
                    file.read_into(buffer, number * self.frame_bytes)
                file.close()
            self.note(f"{name} read, GB/s", self.gigabytes / (time.perf_counter() - began))

    # The store.

    def store(self, name: str, lane: LaneSpill, *, verify: bool = False) -> None:
        with self.place() as path:
            slot = take_slot(RealFileSystem(), path, "bench")
            identity = Identity(app="bench", group="bench", cluster="")
            limits = StoreLimits(segment_bytes=SEGMENT_BYTES, min_free_bytes=0)
            store = SpillStore(slot, identity, {LANE: lane}, limits=limits)
            frames: list[Frame] = []
            cpu, began = time.thread_time(), time.perf_counter()
            for number in range(self.frames):
                columns = self.columns[number % len(self.columns)]
                frames.append(store.append(LANE, PLACE, [columns], scan_lo=0, scan_hi=self.records))
            took, cpu = time.perf_counter() - began, time.thread_time() - cpu
            self.note(f"{name} write, GB/s", self.gigabytes / took)
            self.note(f"{name} write, CPU s/GB", cpu / self.gigabytes)
            stored = store.usage(LANE).stored_bytes / 1e9
            self.note(f"{name} size on disk", stored / self.gigabytes)
            if verify:
                store.close()
                began = time.perf_counter()
                report = verify_slot(RealFileSystem(), slot.directory, time.sleep)
                self.note(f"{name} verify, GB/s", stored / (time.perf_counter() - began))
                assert not any(segment.problems for segment in report.segments)
            cpu, began = time.thread_time(), time.perf_counter()
            for frame in frames:
                assert sum(batch.num_rows for batch in store.read(frame)) == self.records
            took, cpu = time.perf_counter() - began, time.thread_time() - cpu
            self.note(f"{name} read, GB/s", self.gigabytes / took)
            self.note(f"{name} read, records/s", self.frames * self.records / took)
            self.note(f"{name} read, CPU s/GB", cpu / self.gigabytes)
            began = time.perf_counter()
            store.finish(*frames)
            self.note(f"{name} delete, ms/GB", (time.perf_counter() - began) * 1e3 / self.gigabytes)
            slot.release()

    # Others.

    def queued(self, name: str, run: Callable[[str, list[bytes]], Seconds]) -> None:
        records = [os.urandom(RECORD_BYTES) for _ in range(QUEUED_RECORDS)]
        with self.place() as path:
            self.note(f"{name}, records/s", QUEUED_RECORDS / run(path, records))

    def whole(self) -> None:
        """Note how many records a second the store writes and reads back, both together."""
        written = self.figures["store write, GB/s"][-1] * 1e9 / self.frame_bytes * self.records
        read = self.figures["store read, records/s"][-1]
        self.note("store, records/s", 1 / (1 / written + 1 / read))


def persist_queue(path: str, records: list[bytes]) -> Seconds:
    from persistqueue import Queue

    queue = Queue(path)
    began = time.perf_counter()
    for record in records:
        queue.put(record)
    for record in records:
        assert queue.get() == record
        queue.task_done()
    return time.perf_counter() - began


def persist_sqlite(path: str, records: list[bytes]) -> Seconds:
    from persistqueue import SQLiteQueue

    queue = SQLiteQueue(path, auto_commit=False)
    began = time.perf_counter()
    for record in records:
        queue.put(record)
    queue.task_done()
    for record in records:
        assert queue.get() == record
    queue.task_done()
    took = time.perf_counter() - began
    queue.close()
    return took


def plain_sqlite(path: str, records: list[bytes]) -> Seconds:
    """Write and read in transactions of 1,000; with a write-ahead log, and never synced."""
    base = sqlite3.connect(f"{path}/queue.db", isolation_level=None)
    base.execute("pragma journal_mode = wal")
    base.execute("pragma synchronous = off")
    base.execute("create table queue (id integer primary key, record blob)")
    began = time.perf_counter()
    for first in range(0, len(records), 1_000):
        base.execute("begin")
        part = [(record,) for record in records[first : first + 1_000]]
        base.executemany("insert into queue (record) values (?)", part)
        base.execute("commit")
    for _ in range(0, len(records), 1_000):
        rows = base.execute("select id, record from queue order by id limit 1000").fetchall()
        base.execute("delete from queue where id <= ?", (rows[-1][0],))
    took = time.perf_counter() - began
    base.close()
    return took


def measure(bench: Bench, turns: int) -> dict[str, float]:
    """Return the median of each figure."""
    most = 1 << 50
    keys = EphemeralKey(os.urandom)
    for _ in range(turns):
        bench.raw("raw", reserve=False)
        bench.store("store", LaneSpill(max_bytes=most), verify=True)
        bench.raw("reserved", reserve=True)
        bench.store("encrypted", LaneSpill(max_bytes=most, keys=keys))
        bench.store("lz4", LaneSpill(max_bytes=most, compression="lz4"))
        bench.store("zstd", LaneSpill(max_bytes=most, compression="zstd"))
        bench.whole()
        bench.queued("persist-queue", persist_queue)
        bench.queued("persist-queue SQLite", persist_sqlite)
        bench.queued("SQLite", plain_sqlite)
    return {name: statistics.median(values) for name, values in bench.figures.items()}


def targets(found: dict[str, float]) -> list[tuple[str, float, bool]]:
    """Return each target with what was reached."""
    ratio = found["store write, GB/s"] / found["raw write, GB/s"]
    fast = found["store write, GB/s"] >= WRITE_GB_PER_S_MIN
    read = found["store read, records/s"]
    queue = found["store, records/s"] / found["persist-queue, records/s"]
    return [
        ("store ÷ raw write (0.8, or 1.2 GB/s)", ratio, ratio >= WRITE_RATIO_MIN or fast),
        ("store read, records/s (1,500,000)", read, read >= READ_RECORDS_PER_S_MIN),
        ("store ÷ persist-queue (50)", queue, queue >= QUEUE_RATIO_MIN),
    ]


def main() -> int:
    """Measure, print, and say whether the targets are met."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("directory", nargs="?", default=".", type=Path, metavar="DIR")
    options.add_argument("--bytes", default="1GiB", help="written in a turn")
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--json", action="store_true")
    options.add_argument("--output", type=Path, metavar="FILE")
    chosen = options.parse_args()
    bench = Bench(chosen.directory, size_bytes(chosen.bytes))
    found = measure(bench, chosen.turns)
    reached = targets(found)
    document = {
        "schema": SCHEMA,
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "bytes": bench.frames * bench.frame_bytes,
        "figures": found,
        "targets": [{"name": name, "value": value, "passed": ok} for name, value, ok in reached],
    }
    encoded = json.dumps(document, indent=2, ensure_ascii=False)
    if chosen.output:
        chosen.output.write_text(encoded + "\n")
    if chosen.json:
        print(encoded)
    else:
        print(f"{bench.gigabytes:.2f} GB a turn, median of {chosen.turns}")
        for name, value in found.items():
            print(f"{name:36} {value:14,.2f}")
        for name, value, ok in reached:
            print(f"{'ok' if ok else 'MISSED':8}{name:40} {value:14,.2f}")
    return 0 if all(ok for *_, ok in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
