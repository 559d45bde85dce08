"""What the tests of the store are worth: each way to break it breaks the test that is named.

pytest tests/spill/test_mutations.py -m slow       # on a copy of the package, three minutes
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

SEEDS = "tests/spill/test_seeds.py -k 500"
KILL = "tests/spill/test_kill.py"
MODEL = "tests/spill/test_model.py"
FLIPS = "tests/spill/test_flips.py"
CRASHES = "tests/spill/test_crashes.py"
BYTES = "tests/spill/test_bad_bytes.py"
FULL = "tests/spill/test_full_disks.py"
DISKS = "tests/spill/test_bad_disks.py"
KEYS = "tests/spill/test_keys.py"
RESTARTS = "tests/spill/test_restarts.py"
STORE = "tests/unit/spill/test_store.py"
RECOVERY = "tests/unit/spill/test_recovery.py"
MANIFEST = "tests/unit/spill/test_manifest.py"

#: What is broken, file, what it says, what it says then, tests of which one has to fail.
MUTATIONS = [
    ("the checksum of a payload is not checked", "reading.py",
     "!= header.payload_crc:\n        raise", "is None:\n        raise", FLIPS),
    ("the checksum of a payload is not checked", "reading.py",
     "!= header.payload_crc:\n        raise", "is None:\n        raise", SEEDS),
    ("a header counts in any place", "layout.py",
     "    if not frame.header_holds(data, position=position, segment=segment):",
     "    place = FRAME.unpack_from(data)[4:6] if len(data) >= FRAME.size else (0, 0)\n"
     "    if not frame.header_holds(data, position=place[0], segment=place[1]):", BYTES),
    ("memory is freed before all of a frame is written", "stream.py",
     "        while rest and count >= len(rest[0]):\n            count -= len(rest.pop(0))\n"
     "        if count:\n            rest[0] = rest[0][count:]\n", "        return\n", SEEDS),
    ("memory is freed before all of a frame is written", "stream.py",
     "        write_all(file, [encoded, *parts, ZEROS[:padding]], header.position)\n",
     "        write_all(file, [encoded], header.position)\n", KILL),
    ("memory is freed although a write failed", "store.py",
     "            raise SpillRefused(f\"{self._refusal(lane)}: {self._disk.why}\") from error\n"
     "        except NoKey",
     "            return frame_of(draft.header, lane, partition.topic, 0)\n"
     "        except NoKey", FULL),
    ("a segment is deleted that has frames somebody wants", "segments.py",
     "if not segment.live_frames and not segment.active:",
     "if segment.live_frames <= 1 and not segment.active:", SEEDS),
    ("a segment is deleted that has frames somebody wants", "segments.py",
     "if not segment.live_frames and not segment.active:",
     "if segment.live_frames <= 1 and not segment.active:", KILL),
    ("a segment is deleted that has frames somebody wants", "opening.py",
     "for each in opened.segments.values() if not each.live_frames]",
     "for each in opened.segments.values() if each.live_frames <= 1]", CRASHES),
    ("a frame is finished when it is read", "store.py",
     "        return self._reader.read(frame)\n",
     "        found = self._reader.read(frame)\n        self.finish(frame)\n        return found\n",
     SEEDS),
    ("a frame is finished when the next one is appended", "store.py",
     "        self._segments.add(segment)\n        return frame_of(",
     "        self._segments.add(segment)\n"
     "        if header.number:\n"
     "            segment.finish(header.number - 1, 0)\n"
     "        return frame_of(", KILL),
    ("coverage goes on over a hole", "manifest.py",
     "found.beyond or (found.kept and found.kept[-1].scan_hi < frame.scan_lo)", "False", SEEDS),
    ("coverage goes on over a hole", "manifest.py",
     "found.beyond or (found.kept and found.kept[-1].scan_hi < frame.scan_lo)", "False", KILL),
    ("what is finished in part is given up", "manifest.py",
     "if frame.scan_hi <= watermark:", "if frame.scan_lo < watermark:", MANIFEST),
    ("coverage is more than was scanned", "recovery.py",
     "scan_hi=header.scan_hi,", "scan_hi=header.scan_hi + 3,", SEEDS),
    ("what was given up comes back", "recovery.py",
     "newest = max(group, key=lambda each: each.written).run",
     "newest = min(group, key=lambda each: each.written).run", STORE),
    ("of frames over one another the earlier one counts", "recovery.py",
     "if kept[-1].written > each.written:", "if kept[-1].written < each.written:", RECOVERY),
    ("behind a bad frame there is nothing", "recovery.py",
     "            if further is None:\n", "            if True:\n", FLIPS),
    ("a torn tail stays", "opening.py",
     "torn = any(each.kind != \"gap\" for each in contents.damage)", "torn = False", FLIPS),
    ("after an error its segment goes on", "store.py",
     "            stream.give_up(cut=error.errno in FULL)\n", "", FULL),
    ("numbers of segments begin anew", "opening.py",
     "max(opened.next_number, number + 1)", "max(opened.next_number, number)", CRASHES),
    ("a quota is not kept", "quota.py",
     "self.used_bytes + num_bytes > self.max_bytes", "False", FULL),
    ("what may be the only copy makes room", "parking.py",
     "if not run.pinned and fits(run)]", "if fits(run)]", RESTARTS),
    ("a broken disk is not left alone", "store.py",
     "if self._disk.state >= SpillState.HARD:", "if False:", FULL),
    ("what is parked goes by the wall clock", "store.py",
     "return self._clock.now_ns() // MILLISECOND", "return self._clock.epoch_ms()", RESTARTS),
    ("a frame number is encrypted with twice", "store.py",
     "            stream.give_up(cut=False)\n            raise\n", "            raise\n", DISKS),
    ("not all of a header is bound to what is encrypted", "layout.py",
     "        and not hidden[hidden_bytes:].strip(b\"\\0\")", "        and True", KEYS),
    ("another app's segments are used", "opening.py",
     "raise Unusable(\"it was written for another app, group or cluster\")", "pass", STORE),
]  # fmt: skip


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the package and its tests."""
    root = tmp_path_factory.mktemp("copy")
    for name in ("flowguard", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "before", "after", "tests"),
    [
        pytest.param(*each[1:], id=f"{each[0]}, {each[4].split('_')[-1].split('.')[0]}")
        for each in MUTATIONS
    ],
)
def test_breaking_the_store_breaks_a_test(
    copied: Path, file: str, before: str, after: str, tests: str
) -> None:
    broken = copied / "flowguard/spill" / file
    text = broken.read_text()
    assert text.count(before) == 1, f"{file} has changed; adapt the mutation"
    broken.write_text(text.replace(before, after))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "--show-capture=no",
               "-p", "no:cacheprovider", *tests.split()]  # fmt: skip
    try:
        run = subprocess.run(
            command,
            cwd=copied,
            env={**os.environ, "PYTHONPATH": str(copied), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        broken.write_text(text)

    assert run.returncode == 1, f"nothing failed:\n{run.stdout[-2000:]}"
    assert "1 failed" in run.stdout


def test_what_a_mutation_changes_is_there() -> None:
    for what, file, before, _, tests in MUTATIONS:
        assert (ROOT / "flowguard/spill" / file).read_text().count(before) == 1, what
        assert (ROOT / tests.split()[0]).exists(), what
