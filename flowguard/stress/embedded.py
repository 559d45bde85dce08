"""The embedded broker: a Kafka of one process, for the demo and for tests.

It is the Kafka of noida-db, one binary from `pip install "flowguard[demo]"`: no
Java, no Docker, ready in milliseconds, gone afterwards. It keeps everything in
memory on one node, so it proves behaviour, never durability or throughput; for
those flowguard is tested against Apache Kafka.

Thread-safety: one thread starts and stops a broker. That thread has to outlive
it: Linux ends the broker when the thread that started it ends.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from flowguard.errors import ConfigError, FlowguardError
from flowguard.units import SECOND, Duration, duration_ns

__all__ = ["EmbeddedBroker", "answers", "end", "free_port", "spawn"]

HOST: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_000)
"""Below the range Linux gives to outgoing connections (from 32,768): a client that keeps
trying a port of that range while its broker is down can end up connected to itself."""

API_VERSIONS_V0: Final = struct.pack(">ihhih", 10, 18, 0, 1, -1)
"""Size, API key, version, correlation id, no client id: the question every broker answers."""

PR_SET_PDEATHSIG: Final = 1
LIBC: Final = ctypes.CDLL(None)
LOADER_WARNING: Final = "weak version `GLIBC_"


class EmbeddedBroker:
    """A Kafka broker that lives as long as its `with` block.

    Args:
        port: Port on the loopback interface; 0 takes a free one.
        timeout: How long the broker may take until it answers.

    Raises:
        ConfigError: noida-db is not installed.
        FlowguardError: The broker did not answer in time; the message has its output.
    """

    def __init__(self, *, port: int = 0, timeout: Duration = "10s") -> None:
        self.port = port or free_port()
        self.timeout_ns = duration_ns(timeout, name="timeout")
        self._binary = find_binary()
        self._child: subprocess.Popen[bytes] | None = None
        self._directory: Path | None = None

    @property
    def bootstrap(self) -> str:
        """The address as Kafka clients take it; Faust wants `kafka://` before it."""
        return f"{HOST}:{self.port}"

    @property
    def description(self) -> str:
        """What this broker is, for reports."""
        return "noida-db (embedded, in memory)"

    def start(self) -> None:
        """Start the broker with an empty log and return when it answers."""
        self._directory = Path(tempfile.mkdtemp(prefix="flowguard-embedded-"))
        command = [
            *(str(self._binary), "start", "--only", "kafka", "--host", HOST),
            *("--kafka-port", str(self.port), "--data-dir", str(self._directory / "data")),
        ]
        log = self._directory / "log"
        self._child = spawn(command, log)
        atexit.register(self.stop)
        deadline_ns = time.monotonic_ns() + self.timeout_ns
        while not answers(HOST, self.port):
            if self._child.poll() is not None or time.monotonic_ns() > deadline_ns:
                said = log_tail(log) or "nothing"
                self.stop()
                raise FlowguardError(
                    f"the embedded broker did not answer on {self.bootstrap} within"
                    f" {self.timeout_ns / SECOND:.0f} s and was stopped; it said: {said}"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """End the broker and delete its log; stopping twice is harmless."""
        atexit.unregister(self.stop)
        if self._child is not None:
            end(self._child, grace="0s")  # nothing of it is kept, so nothing is worth waiting for
            self._child = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def find_binary() -> Path:
    """Return the broker's binary inside the installed package.

    Raises:
        ConfigError: noida-db is not installed.
    """
    spec = find_spec("noida_db")
    binary = Path(spec.origin).with_name("noida-db") if spec and spec.origin else None
    if binary is None or not binary.is_file():
        raise ConfigError(
            "the embedded broker is not installed and nothing was started;"
            ' install it with: pip install "flowguard[demo]"'
        )
    if not os.access(binary, os.X_OK):  # some installers lose the mode
        binary.chmod(0o755)
    return binary


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise FlowguardError(f"no port is free between {PORTS.start} and {PORTS.stop} on {HOST}")


def answers(host: str, port: int) -> bool:
    """Ask a Kafka broker for its API versions; return whether it answered in a second."""
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            connection.sendall(API_VERSIONS_V0)
            return len(connection.recv(8)) == 8  # its size and our correlation id
    except OSError:
        return False


def spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own, its output in `log`.

    A terminal's Ctrl-C reaches only us, so we decide the order of stopping; a
    SIGKILL to us takes the server along.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def die_with_parent() -> None:
    """Have Linux kill this process when the thread that started it ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end(child: subprocess.Popen[bytes], *, grace: Duration) -> None:
    """End a server: SIGTERM, and after `grace` SIGKILL to its whole session."""
    seconds = duration_ns(grace, name="grace") / SECOND
    if seconds and child.poll() is None:
        child.terminate()
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def log_tail(log: Path, lines: int = 5) -> str:
    """Return the last lines of a server's output.

    The loader of an older C library warns about every weak symbol it lacks; the
    binary runs without them.
    """
    said = log.read_text(errors="replace").splitlines()
    return "\n".join([line for line in said if LOADER_WARNING not in line][-lines:])
