"""Run fuzz_*.py against their modules, compiled with address and undefined sanitizers."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "sanitized"
# What else of the package a fuzz runner imports. The rest is left out: it would need every
# compiled module, and each edit of it a new build.
MODULES: dict[str, list[str]] = {
    "frame": [],
    "json_rows": [],
    "marks": [],
    "record_batches": [],
    "sieve": [],
    "wire": ["flowguard/errors.py", "flowguard/intake/compression.py"],
}
RUNS = 10_000

BUILT = "built"
# Far more than either takes where nothing else runs.
BUILD_S_MAX = 600
FUZZ_S_MAX = 600


def sanitizer_libraries() -> list[str]:
    """Return the libraries that must be loaded before Python, which knows nothing of them."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no gcc")
    paths = []
    for name in ("libasan.so", "libubsan.so"):
        command = [compiler, f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if not os.path.isabs(path):
            pytest.skip(f"gcc has no {name}")
        paths.append(os.path.realpath(path))
    return paths


def sources_of(module: str) -> list[Path]:
    """Return what a build of one module needs, and what its fuzz runner imports."""
    includes = sorted((ROOT / "ext" / "includes").iterdir())
    return [
        ROOT / "setup.py",
        ROOT / "flowguard" / "_native" / "__init__.py",
        ROOT / "ext" / f"{module}.pyx",
        *includes,
        *(ROOT / name for name in MODULES[module]),
    ]


def digest_of(files: list[Path]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in files:
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def run(command: list[str], *, where: Path, limit_s: int, **environment: str) -> None:
    """Run a command, and fail with all it printed if it fails."""
    result = subprocess.run(
        command,
        cwd=where,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
        check=False,
    )
    if result.returncode != 0:
        pytest.fail(f"{' '.join(command)} in {where}:\n{result.stdout}", pytrace=False)


def build_sanitized(module: str) -> Path:
    """Build one module in a copy of the sources, unless these were built before."""
    files = sources_of(module)
    copy = CACHE / f"{module}-{digest_of(files)}"
    if (copy / BUILT).exists():
        return copy
    for old in CACHE.glob(f"{module}-*"):
        shutil.rmtree(old)
    for path in files:
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for package in {path.parent for path in copy.glob("flowguard/**/*.py")}:
        (package / "__init__.py").touch()
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    run(command, where=copy, limit_s=BUILD_S_MAX, FLOWGUARD_SANITIZE="1")
    (copy / BUILT).touch()
    return copy


@pytest.mark.parametrize("module", list(MODULES))
def test_mutated_bytes_never_reach_beyond_a_buffer(module: str) -> None:
    libraries = sanitizer_libraries()
    copy = build_sanitized(module)
    run(
        [sys.executable, "-m", f"tests.native.fuzz_{module}", "--runs", str(RUNS)],
        where=copy,
        limit_s=FUZZ_S_MAX,
        PYTHONPATH=os.pathsep.join([str(copy), str(ROOT)]),
        LD_PRELOAD=" ".join(libraries),
        # Let the sanitizer see each allocation with its true size.
        PYTHONMALLOC="malloc",
        ARROW_DEFAULT_MEMORY_POOL="system",
        ASAN_OPTIONS="detect_leaks=0",
    )
