"""What peers need and flowguard does not install, fetched once into `.cache/`.

Packages of Python go into a directory of their own each, so that no peer's version of a package
is another's; jars come from Maven Central, and our programs in Java are compiled against them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from tests.kafka_broker import DEPENDENCIES, PROJECT, VERSION, NoKafka, fetch_jars

__all__ = ["CLASSES", "NotHad", "fetch", "jars_of", "packages_of", "versions_of"]

CACHE: Final = Path(os.environ.get("FLOWGUARD_CACHE") or PROJECT / ".cache")
SOURCES: Final = Path(__file__).parent / "java"

INSTALL_WITHIN_S: Final = 600

#: Peer → what pip installs for it.
PACKAGES: Final = {
    "faststream": "faststream[confluent]==0.7.8",
    "bytewax": "bytewax[kafka]==0.21.1",
    "arroyo": "sentry-arroyo==2.48.0",
}

#: Peer → its jars; Maven finds what they need.
JARS: Final = {
    "consumer-performance": DEPENDENCIES,
    "kafka-streams": (("org.apache.kafka", "kafka-streams", VERSION),),
    "parallel-consumer": (("io.confluent.parallelconsumer", "parallel-consumer-core", "0.5.3.3"),),
}

#: Peer → where its compiled program is.
CLASSES: Final = {
    name: CACHE / "bench-classes" / name for name in ("kafka-streams", "parallel-consumer")
}

PROGRAMS: Final = {"kafka-streams": "StreamsPeer.java", "parallel-consumer": "ParallelPeer.java"}


class NotHad(Exception):
    """A peer cannot be had here; the message says why."""


def fetch(name: str) -> None:
    """Have everything that a peer needs, from the cache or the network.

    Raises:
        NotHad: Something is missing.
    """
    if name in PACKAGES:
        fetch_packages(name)
    if name in JARS:
        for program in ("java", "javac"):
            if shutil.which(program) is None:
                raise NotHad(f"{program} is not installed (a JDK, 17 or newer)")
        if not jars_of(name).exists():
            try:
                fetch_jars(jars_of(name), JARS[name])
            except NoKafka as error:
                raise NotHad(str(error)) from None
    if name in PROGRAMS:
        compile_program(name)


def packages_of(name: str) -> Path:
    """Return the directory of a peer's packages; its name says the version."""
    return CACHE / f"bench-{PACKAGES[name]}-py{sys.version_info[0]}.{sys.version_info[1]}"


def jars_of(name: str) -> Path:
    """Return the directory of a peer's jars; its name says the version."""
    _, artifact, version = JARS[name][0]
    return CACHE / f"{artifact.removesuffix('_2.13')}-{version}" / "libs"


def fetch_packages(name: str) -> None:
    """Install a peer's packages, all or none."""
    directory = packages_of(name)
    if directory.exists():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as work:
        command = [*(sys.executable, "-m", "pip", "install", "--quiet"), "--only-binary", ":all:"]
        command += ["--disable-pip-version-check", "--target", f"{work}/all", PACKAGES[name]]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_WITHIN_S, check=False
        )
        if done.returncode:  # pip says even then that other environments disagree, first
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise NotHad(f"pip could not install {PACKAGES[name]}: {said}")
        Path(work, "all").rename(directory)


def compile_program(name: str) -> None:
    """Compile a peer's program in Java."""
    CLASSES[name].mkdir(parents=True, exist_ok=True)
    command = ["javac", "-d", str(CLASSES[name]), "-cp", f"{jars_of(name)}/*"]
    sources = [str(SOURCES / "Meter.java"), str(SOURCES / PROGRAMS[name])]
    done = subprocess.run([*command, *sources], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHad(f"javac refused {PROGRAMS[name]}: {done.stderr or done.stdout}")


def versions_of(name: str) -> dict[str, str]:
    """Return what a peer runs on: package or jar → version."""
    if name in PACKAGES:
        found = distributions(path=[str(packages_of(name))])
        return {each.name: each.version for each in found}
    if name in JARS:
        done = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
        jars = {artifact: version for _, artifact, version in JARS[name]}
        return {"java": done.stderr.partition("\n")[0], **jars}
    return {}
