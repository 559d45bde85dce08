"""Apache Kafka with three nodes for tests: they stop, freeze and come back one by one.

Each node is broker and controller, so two of them are a quorum. Topics have three replicas,
two of which must have a record before it is acknowledged. It is started from the jars, also
where FLOWGUARD_TEST_KAFKA names a cluster: that one is not ours to break.

    with KafkaCluster() as cluster:
        topic = cluster.create_topic("orders", partitions=6)
        cluster.stop(cluster.leader(topic, 0))

`python -m tests.kafka_cluster` runs one for a person.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self

from confluent_kafka import ElectionType, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from flowguard.stress.embedded import answers
from tests.kafka_broker import (
    HOST,
    VERSION,
    JarsCluster,
    find_jars,
    run_in_foreground,
    wait_until,
)

__all__ = ["NODES", "KafkaCluster"]

NODES: Final = (1, 2, 3)

#: Three share a machine with what they serve: a compiler that is done soon, and small heaps.
JVM_OPTIONS: Final = ("-Xms192m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

SETTINGS: Final[Mapping[str, str]] = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    # Who does not answer is out after 3 s, not 9 s; who lags is out after 5 s, not 30 s.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "replica.lag.time.max.ms": "5000",
    # Leaders move when a test moves them.
    "auto.leader.rebalance.enable": "false",
    "num.network.threads": "2",
    "num.io.threads": "4",
}

READY_WITHIN_S: Final = 120


class KafkaCluster:
    """Three nodes, as long as the `with` block lasts.

    Raises:
        NoKafka: From the constructor, if Java or the jars cannot be had; from what starts
            nodes, if they did not answer in time.
    """

    def __init__(self) -> None:
        java, libs = find_jars()
        self.description = f"Apache Kafka {VERSION}, three nodes from jars"
        self.started_in_s = 0.0
        self.nodes = {
            number: JarsCluster(java, libs, jvm_options=JVM_OPTIONS, alone=False)
            for number in NODES
        }
        voters = ",".join(
            f"{number}@{HOST}:{node.controller_port}" for number, node in self.nodes.items()
        )
        for number, node in self.nodes.items():
            own = {"node.id": str(number), "controller.quorum.voters": voters}
            node.configure({**SETTINGS, **own})

    @property
    def bootstrap(self) -> str:
        """The bootstrap servers, all of them."""
        return ",".join(node.bootstrap for node in self.nodes.values())

    # Its nodes.

    def start(self, *numbers: int) -> None:
        """Start these nodes that do not run, or all; return when each is a broker again."""
        wanted = numbers or NODES
        for number in wanted:
            if not self.nodes[number].runs:
                self.nodes[number].start()
        wait_until(lambda: self.alive() >= set(wanted), READY_WITHIN_S, self._say_why)

    def spawn(self, *numbers: int) -> None:
        """Start these nodes, and wait for nothing."""
        for number in numbers:
            self.nodes[number].start()

    def stop(self, *numbers: int) -> None:
        """Stop these nodes orderly, all at the same time: they hand over what they lead."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda number: self.nodes[number].stop(), numbers))

    def kill(self, *numbers: int) -> None:
        """Kill these nodes, as a power failure does."""
        for number in numbers:
            self.nodes[number].kill()

    def freeze(self, number: int) -> None:
        """Let a node answer nothing more; its connections stay open."""
        self.nodes[number].process.send_signal(signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """Let a frozen node go on."""
        self.nodes[number].process.send_signal(signal.SIGCONT)

    def heal(self) -> None:
        """Bring every node back, and all replicas in sync."""
        for node in self.nodes.values():
            if node.runs:
                node.process.send_signal(signal.SIGCONT)
        self.start()
        wait_until(self._is_in_sync, READY_WITHIN_S, self._say_why)

    def alive(self) -> set[int]:
        """Return the nodes that those who answer take for brokers."""
        asked = [node for node in self.nodes.values() if node.runs]
        if not any(answers(HOST, node.port) for node in asked):
            return set()  # librdkafka would back off between its attempts
        try:
            return set(self.admin().list_topics(timeout=5).brokers)
        except KafkaException:
            return set()

    # Topics and leaders.

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> str:
        """Create a topic with three replicas, wait until it has leaders, return its name."""
        topic = NewTopic(name, partitions, 3, config=dict(config or {}))
        admin = self.admin()
        admin.create_topics([topic])[name].result(30)
        wait_until(
            lambda: len(self.leaders(name)) == partitions, 30, lambda: f"no leader for {name}"
        )
        return name

    def delete_topic(self, name: str) -> None:
        """Delete a topic, and wait until nobody knows it."""
        admin = self.admin()  # its results are lost with it
        admin.delete_topics([name])[name].result(30)
        wait_until(lambda: not self.leaders(name), 30, lambda: f"{name} is still there")

    def leaders(self, topic: str) -> dict[int, int]:
        """Return who leads each partition that has a leader."""
        found = self.admin().list_topics(timeout=10).topics.get(topic)
        partitions = {} if found is None or found.error else found.partitions
        return {number: each.leader for number, each in partitions.items() if each.leader >= 0}

    def partitions(self, topic: str) -> dict[int, int]:
        """Return of how many partitions of a topic each node knows that runs.

        A change gets to one after the other, and a client asks any of them.
        """
        known = {}
        for number, node in self.nodes.items():
            if node.runs:
                # A client that has just begun asks whom it was told of.
                client = AdminClient({"bootstrap.servers": node.bootstrap, "log_level": 0})
                found = client.list_topics(timeout=10).topics.get(topic)
                known[number] = 0 if found is None else len(found.partitions)
        return known

    def leader(self, topic: str, partition: int) -> int:
        """Return who leads a partition."""
        return self.leaders(topic)[partition]

    def move_leaders(self, topic: str) -> None:
        """Let the preferred replica of each partition lead it again."""
        places = [TopicPartition(topic, number) for number in self.leaders(topic)]
        admin = self.admin()
        admin.elect_leaders(ElectionType.PREFERRED, places).result(30)

    def coordinator(self, group: str) -> int:
        """Return which node coordinates a group."""
        admin = self.admin()
        described = admin.describe_consumer_groups([group])[group].result(30)
        return int(described.coordinator.id)

    def admin(self) -> AdminClient:
        """Return an admin client, for whatever else a test needs."""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def _is_in_sync(self) -> bool:
        try:
            topics = self.admin().list_topics(timeout=10).topics.values()
        except KafkaException:
            return False
        partitions = [each for topic in topics for each in topic.partitions.values()]
        return all(each.leader >= 0 and len(each.isrs) == len(each.replicas) for each in partitions)

    # Its life.

    def close(self) -> None:
        """Kill all nodes and delete their logs; closing twice is harmless."""
        for node in self.nodes.values():
            node.discard()

    def __enter__(self) -> Self:
        began = time.monotonic()
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda node: node.format(), self.nodes.values()))
            self.start()
        except BaseException:
            self.close()
            raise
        self.started_in_s = time.monotonic() - began
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _say_why(self) -> str:
        return f"{self.description}: not all came up; their last words:\n" + self._last_words(
            self.nodes.items()
        )

    def _last_words(self, nodes: Iterable[tuple[int, JarsCluster]]) -> str:
        return "\n".join(f"node {number}:\n{node.log_tail()}" for number, node in nodes)


def main() -> int:
    """Run three nodes in the foreground until Ctrl-C."""
    return run_in_foreground(KafkaCluster)


if __name__ == "__main__":
    sys.exit(main())
