"""Apache Kafka for tests: found, or started, and stopped again.

The first of these that can be had is used:

1. the cluster that FLOWGUARD_TEST_KAFKA names (`host:port,...`); it is left as it is,
   and cannot be stopped by a test;
2. a container, where a Docker engine runs;
3. Apache Kafka in KRaft mode from its jars, where Java 17 and, for the first time only,
   Maven are installed. The jars are kept in `.cache/` (or FLOWGUARD_CACHE).

`python -m tests.kafka_broker` (or `make kafka`) runs one for a person.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from flowguard.stress.embedded import answers, end, free_port, spawn

__all__ = [
    "HOST",
    "SHORT_LIVED",
    "VERSION",
    "JarsCluster",
    "KafkaBroker",
    "NoKafka",
    "find_jars",
    "stop_on_signal",
    "wait_until",
]

VERSION: Final = "4.3.1"
IMAGE: Final = f"apache/kafka:{VERSION}"
CLUSTER_ID: Final = "Zmxvd2d1YXJkLXRlc3RzMQ"  # "flowguard-tests1": 16 bytes in base64
HOST: Final = "127.0.0.1"
ANSWER_WITHIN_S: Final = 60
DOWNLOAD_WITHIN_S: Final = 900

PROJECT: Final = Path(__file__).resolve().parent.parent

SETTINGS: Final[Mapping[str, str]] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    # One node is every replica.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Few internal partitions, no waiting for more members: tests start sooner.
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.num.partitions": "3",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # A killed broker may come back after this, not after 9 s.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "1000",
    # A misspelt topic is an error, not a new topic.
    "auto.create.topics.enable": "false",
    # Tests write records with timestamps of years ago; retention would delete them.
    "log.retention.ms": "-1",
    "log.retention.check.interval.ms": "86400000",
    "log.cleaner.dedupe.buffer.size": "16777216",
}
"""Broker settings, the same for the container and the jars."""

#: As Kafka's own start script has them. With a small heap the broker stops for 10 ms each
#: second, and every latency that is measured on it is that of its collector.
JVM_OPTIONS: Final = (
    *("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
)
#: For a broker of some tests: the thorough compiler takes 8 s of CPU to begin with, and gives
#: none of it back before they are done.
SHORT_LIVED: Final = (*JVM_OPTIONS, "-XX:TieredStopAtLevel=1")

POM: Final = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>flowguard</groupId>
  <artifactId>test-kafka</artifactId>
  <version>1</version>
  <dependencies>{dependencies}</dependencies>
</project>
"""
DEPENDENCIES: Final = (
    ("org.apache.kafka", "kafka_2.13", VERSION),
    ("org.apache.kafka", "kafka-tools", VERSION),  # the console and performance tools
    ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4"),  # or the broker logs nothing
)

LOG4J: Final = """\
Configuration:
  status: "off"
  Appenders:
    Console:
      name: out
      PatternLayout:
        pattern: "%d{HH:mm:ss.SSS} %-5p %c{1} %m%n"
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        ref: out
"""


class NoKafka(Exception):
    """No Apache Kafka can be had here, or it did not start; the message says what is missing."""


class Cluster(Protocol):
    """One way to have Kafka."""

    bootstrap: str
    description: str

    def start(self) -> None:
        """Start, or start again on the same address with the same log."""

    def stop(self) -> None:
        """Stop, orderly; keep address and log."""

    def kill(self) -> None:
        """Stop as a power failure does."""

    def discard(self) -> None:
        """Stop and delete everything."""

    def log_tail(self) -> str:
        """Return the last lines the broker said."""


class KafkaBroker:
    """Apache Kafka, one node, as long as its `with` block lasts.

    `stop()` and `start()` (or `kill()` and `start()`) take the broker away and
    bring it back on the same port with the same log; `restartable` is False for a
    cluster that is not ours.

    Args:
        jvm_options: For its Java process, where it is started from the jars.

    Raises:
        NoKafka: From the constructor, if there is no way to have Kafka; from
            `start`, if it did not answer in time.
    """

    def __init__(self, *, jvm_options: Sequence[str] = JVM_OPTIONS) -> None:
        reasons: list[str] = []
        for way in (existing_cluster, container_cluster, partial(jars_cluster, jvm_options)):
            try:
                self._cluster: Cluster = way()
                break
            except NoKafka as error:
                reasons.append(str(error))
        else:
            raise NoKafka("no Apache Kafka can be had: " + "; ".join(reasons))
        self.started_in_s = 0.0

    @property
    def bootstrap(self) -> str:
        """The bootstrap servers; Faust wants `kafka://` before them."""
        return self._cluster.bootstrap

    @property
    def description(self) -> str:
        """What this is and how it was had."""
        return self._cluster.description

    @property
    def restartable(self) -> bool:
        """Whether a test may stop it."""
        return not isinstance(self._cluster, ExistingCluster)

    def start(self) -> None:
        """Start, and return when the broker serves metadata."""
        started = time.monotonic()
        self._cluster.start()
        wait_until(self._ready, ANSWER_WITHIN_S, self._say_why)
        self.started_in_s = time.monotonic() - started

    def stop(self) -> None:
        """Stop orderly; `start` continues with the same port and log."""
        self._cluster.stop()

    def kill(self) -> None:
        """Stop at once, as a power failure does."""
        self._cluster.kill()

    def close(self) -> None:
        """Stop and delete the log; closing twice is harmless."""
        self._cluster.discard()

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> str:
        """Create a topic, wait until every partition has a leader, return its name."""
        topic = NewTopic(name, num_partitions=partitions, config=dict(config or {}))
        admin = self.admin()  # its results are lost with it
        admin.create_topics([topic])[name].result(30)
        wait_until(lambda: self._leads(name, partitions), 30, lambda: f"no leader for {name}")
        return name

    def admin(self) -> AdminClient:
        """Return an admin client, for whatever else a test needs."""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self) -> bool:
        host, _, port = self.bootstrap.split(",")[0].rpartition(":")
        if not answers(host, int(port)):  # librdkafka would back off between its attempts
            return False
        try:
            return bool(self.admin().list_topics(timeout=5).brokers)
        except KafkaException:
            return False

    def _leads(self, name: str, partitions: int) -> bool:
        found = self.admin().list_topics(timeout=10).topics.get(name)
        return (
            found is not None
            and len(found.partitions) == partitions
            and all(partition.leader >= 0 for partition in found.partitions.values())
        )

    def _say_why(self) -> str:
        said = self._cluster.log_tail() or "nothing"
        self.close()
        return f"{self.description} did not answer on {self.bootstrap}; its last words:\n{said}"


class ExistingCluster:
    """A cluster that somebody else runs."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.description = f"the cluster at {bootstrap} (FLOWGUARD_TEST_KAFKA)"

    def start(self) -> None:
        """Do nothing: it runs."""

    def stop(self) -> None:
        """Refuse: it is not ours."""
        raise NoKafka(f"{self.description} is not ours to stop")

    kill = stop

    def discard(self) -> None:
        """Do nothing: it stays."""

    def log_tail(self) -> str:
        """Return nothing: its log is elsewhere."""
        return ""


class ContainerCluster:
    """The official image in a container of its own, on a fixed port so that it can come back."""

    def __init__(self) -> None:
        from testcontainers.core.container import DockerContainer

        port = free_port()
        self._container = DockerContainer(IMAGE).with_bind_ports(port, port)
        host = self._container.get_container_host_ip()
        self.bootstrap = f"{host}:{port}"
        self.description = f"Apache Kafka {VERSION}, container {IMAGE}"
        settings = {
            **SETTINGS,
            "listeners": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://127.0.0.1:9093",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.voters": "1@127.0.0.1:9093",
        }
        for name, value in settings.items():
            self._container.with_env("KAFKA_" + name.replace(".", "_").upper(), value)
        self._container.with_env("CLUSTER_ID", CLUSTER_ID)
        self._created = False

    def start(self) -> None:
        """Create the container, or start it again."""
        if self._created:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._created = True

    def stop(self) -> None:
        """Stop the container; it keeps its files."""
        self._container.get_wrapped_container().stop(timeout=20)

    def kill(self) -> None:
        """Kill the container; it keeps its files."""
        self._container.get_wrapped_container().kill()

    def discard(self) -> None:
        """Remove the container."""
        if self._created:
            self._container.stop()
            self._created = False

    def log_tail(self) -> str:
        """Return the last lines of the container's output."""
        said: bytes = self._container.get_wrapped_container().logs(tail=20)
        return said.decode(errors="replace")


class JarsCluster:
    """Broker and controller in one Java process; with others of its kind, one node of several.

    Args:
        java: The program.
        libs: Where Kafka's jars are.
        settings: More settings, and other ones.
        jvm_options: For the Java process.
        alone: It is the whole quorum; otherwise `settings` names all voters.
    """

    def __init__(
        self,
        java: str,
        libs: Path,
        *,
        settings: Mapping[str, str] | None = None,
        jvm_options: Sequence[str] = JVM_OPTIONS,
        alone: bool = True,
    ) -> None:
        self._java = [java, "-cp", f"{libs}/*"]
        self._jvm_options = jvm_options
        self._alone = alone
        self._directory = Path(tempfile.mkdtemp(prefix="flowguard-kafka-"))
        self._log = self._directory / "broker.log"
        self._properties = self._directory / "server.properties"
        self._child: subprocess.Popen[bytes] | None = None
        self.port, self.controller_port = free_port(), free_port()
        self.bootstrap = f"{HOST}:{self.port}"
        self.description = f"Apache Kafka {VERSION}, KRaft from jars"
        self.configure(settings or {})
        (self._directory / "log4j2.yaml").write_text(LOG4J)

    def configure(self, settings: Mapping[str, str]) -> None:
        """Write its settings, for the next start."""
        controller = f"{HOST}:{self.controller_port}"
        every = {
            **SETTINGS,
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            **({"controller.quorum.bootstrap.servers": controller} if self._alone else {}),
            "log.dirs": str(self._directory / "log"),
            **settings,
        }
        lines = [f"{name}={value}\n" for name, value in every.items()]
        self._properties.write_text("".join(lines))

    @property
    def runs(self) -> bool:
        """Tell whether its process is there."""
        return self._child is not None and self._child.poll() is None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return its process."""
        assert self._child is not None, "the node was not started"
        return self._child

    def start(self) -> None:
        """Format the log directory the first time; start Java."""
        if not (self._directory / "log").exists():
            self.format()
        self._child = spawn(
            [
                *(self._java[0], *self._jvm_options),
                f"-Dlog4j2.configurationFile={self._directory / 'log4j2.yaml'}",
                *(*self._java[1:], "kafka.Kafka", str(self._properties)),
            ],
            self._log,
        )

    def stop(self) -> None:
        """Let the broker flush and leave."""
        self._end("20s")

    def kill(self) -> None:
        """Send SIGKILL."""
        self._end("0s")

    def discard(self) -> None:
        """Kill it and delete its directory."""
        self._end("0s")
        shutil.rmtree(self._directory, ignore_errors=True)

    def log_tail(self) -> str:
        """Return the last lines of the broker's output."""
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def _end(self, grace: str) -> None:
        if self._child is not None:
            end(self._child, grace=grace)
            self._child = None

    def format(self) -> None:
        """Make its log directory."""
        tool = ["-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool", "format"]
        tool += ["--standalone"] if self._alone else []
        command = [*self._java, *tool, "-t", CLUSTER_ID, "-c", str(self._properties)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoKafka(f"formatting the log directory failed: {done.stderr or done.stdout}")


def existing_cluster() -> ExistingCluster:
    """Return the cluster that the environment names."""
    bootstrap = os.environ.get("FLOWGUARD_TEST_KAFKA", "")
    if not bootstrap:
        raise NoKafka("FLOWGUARD_TEST_KAFKA is not set")
    return ExistingCluster(bootstrap)


def container_cluster() -> ContainerCluster:
    """Return a container, where a Docker engine answers."""
    docker = shutil.which("docker")
    if docker is None:
        raise NoKafka("Docker is not installed")
    # The client library leaks a socket where nothing answers, and a warning is an error here.
    asked = subprocess.run([docker, "version"], capture_output=True, timeout=30, check=False)
    if asked.returncode:
        raise NoKafka("no Docker engine answers")
    return ContainerCluster()


def jars_cluster(jvm_options: Sequence[str] = JVM_OPTIONS) -> JarsCluster:
    """Return Kafka from its jars."""
    return JarsCluster(*find_jars(), jvm_options=jvm_options)


def find_jars() -> tuple[str, Path]:
    """Return Java and Kafka's jars, fetched with Maven if they are not in the cache."""
    java = shutil.which("java")
    if java is None:
        raise NoKafka("Java (17 or newer) is not installed")
    cache = Path(os.environ.get("FLOWGUARD_CACHE") or PROJECT / ".cache")
    libs = cache / f"kafka-{VERSION}" / "libs"
    if not libs.exists():
        fetch_jars(libs)
    return java, libs


def fetch_jars(libs: Path, dependencies: Sequence[tuple[str, str, str]] = DEPENDENCIES) -> None:
    """Put Kafka's jars, or others, into `libs`, all or none."""
    maven = shutil.which("mvn")
    if maven is None:
        raise NoKafka("Maven is not installed, which fetches the jars once")
    libs.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=libs.parent) as name:
        work = Path(name)
        wanted = "".join(
            f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
            f"<version>{version}</version></dependency>"
            for group, artifact, version in dependencies
        )
        (work / "pom.xml").write_text(POM.format(dependencies=wanted))
        command = [maven, "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]
        done = subprocess.run(
            [*command, f"-DoutputDirectory={work / 'libs'}"],
            cwd=work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_WITHIN_S,
            check=False,
        )
        if done.returncode:
            raise NoKafka(f"Maven could not fetch {libs.parent.name}: {done.stdout[-2000:]}")
        try:
            (work / "libs").rename(libs)
        except OSError:
            if not libs.exists():  # or another process was first
                raise


def wait_until(ready: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    """Poll until `ready`.

    Raises:
        NoKafka: It took longer; `why` says the reason.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise NoKafka(why())
        time.sleep(0.1)


def main() -> int:
    """Run a broker in the foreground until Ctrl-C."""
    return run_in_foreground(KafkaBroker)


def run_in_foreground(start: Callable[[], Any]) -> int:
    """Run a broker, or several, until Ctrl-C; return the exit code.

    Args:
        start: Makes what is running while it is entered.
    """
    signal.signal(signal.SIGTERM, stop_on_signal)
    try:
        with start() as kafka:
            print(f"{kafka.description}, ready after {kafka.started_in_s:.1f} s", flush=True)
            print(f"bootstrap servers: {kafka.bootstrap}   (Ctrl-C stops it)", flush=True)
            signal.pause()
    except NoKafka as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def stop_on_signal(*_: Any) -> None:
    """Treat SIGTERM as Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
