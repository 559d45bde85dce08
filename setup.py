"""Build the compiled core; everything else is in pyproject.toml.

Environment:
    FLOWGUARD_DEBUG=1: bounds checks and assertions in the compiled code.
    FLOWGUARD_SANITIZE=1: address and undefined-behaviour sanitizers.
    FLOWGUARD_TRACE=1: line tracing, for coverage.
    FLOWGUARD_ANNOTATE=1: write ext/*.html, which shows where Python is called.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup


def flag(name: str) -> bool:
    return os.environ.get(f"FLOWGUARD_{name}", "") not in ("", "0")


debug, sanitize, trace = flag("DEBUG"), flag("SANITIZE"), flag("TRACE")
sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"]
warnings = ["-Wall", "-Wno-unused-function", "-Wno-unreachable-code"]
optimise = sanitizers if sanitize else ["-O3"]

extensions = [
    Extension(
        f"flowguard._native.{source.stem}",
        [str(source)],
        depends=[str(header) for header in Path("ext/includes").iterdir()],
        extra_compile_args=[*warnings, *optimise],
        extra_link_args=sanitizers if sanitize else [],
        define_macros=[("CYTHON_TRACE", "1")] if trace else [],
    )
    for source in sorted(Path("ext").glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["ext"],
        annotate=flag("ANNOTATE"),
        compiler_directives={
            "language_level": 3,
            "boundscheck": debug,
            "wraparound": False,
            "initializedcheck": debug,
            "cdivision": True,
            "linetrace": trace,
            "embedsignature": True,
        },
    ),
)
