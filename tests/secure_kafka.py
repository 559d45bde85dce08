"""Apache Kafka that wants to know who is there: a listener for each way to prove it.

    PLAINTEXT  for the tests' own clients
    TLS        encrypted, for anyone
    MUTUAL     encrypted, for whoever has a certificate of the same authority
    SASL       in the clear, with a user: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512
    SASLTLS    encrypted, with a user

The certificate of the broker is for `localhost`, and for no other name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from confluent_kafka.admin import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from flowguard.stress.embedded import free_port
from tests.certificates import Authority
from tests.kafka_broker import (
    HOST,
    SHORT_LIVED,
    ContainerCluster,
    JarsCluster,
    KafkaBroker,
    NoKafka,
    container_cluster,
    jars_cluster,
)

__all__ = ["CERTIFIED_NAME", "PASSWORD", "USER", "Credentials", "SecureKafka"]

USER: Final = "alice"
PASSWORD: Final = "alices-password"

CERTIFIED_NAME: Final = "localhost"

PROTOCOLS: Final[Mapping[str, str]] = {
    "TLS": "SSL", "MUTUAL": "SSL", "SASL": "SASL_PLAINTEXT", "SASLTLS": "SASL_SSL",
}  # fmt: skip
SCRAM: Final = ("SCRAM-SHA-256", "SCRAM-SHA-512")
LOGIN: Final = "org.apache.kafka.common.security"


class SecureKafka(KafkaBroker):
    """Such a broker, as long as its `with` block lasts; `USER` may log in by each mechanism.

    Raises:
        NoKafka: There is neither a Docker engine nor Java.
    """

    def __init__(self) -> None:
        self.authority = Authority("the authority of the tests")
        self.started_in_s = 0.0
        self._ports = {name: free_port() for name in PROTOCOLS}
        self._cluster = cluster_of_our_own()
        self._secure()

    def address(self, listener: str, host: str = CERTIFIED_NAME) -> str:
        """Return `host:port` of a listener."""
        return f"{host}:{self._ports[listener]}"

    def start(self) -> None:
        """Start, and let the user be known."""
        super().start()
        admin = self.admin()
        for name in SCRAM:
            mechanism = ScramCredentialInfo(getattr(ScramMechanism, name.replace("-", "_")), 4096)
            change = UserScramCredentialUpsertion(USER, mechanism, PASSWORD.encode())
            admin.alter_user_scram_credentials([change])[USER].result(30)

    def _secure(self) -> None:
        """Add what the settings of a plain broker lack."""
        cluster = self._cluster
        everywhere = "0.0.0.0" if isinstance(cluster, ContainerCluster) else HOST
        more = {
            "listeners": listed(self._ports, everywhere),
            "advertised.listeners": listed(self._ports, CERTIFIED_NAME),
            "listener.security.protocol.map": ",".join(f"{k}:{v}" for k, v in PROTOCOLS.items()),
        }
        if isinstance(cluster, JarsCluster):
            properties: Path = cluster._properties
            lines = properties.read_text().splitlines()
            before = dict(line.split("=", 1) for line in lines if "=" in line)
            settings = self._settings(before, more)
            # Of two lines for one setting Java takes the last.
            added = "\n".join(f"{name}={value}" for name, value in settings.items())
            properties.write_text("\n".join([*lines, added, ""]))
        elif isinstance(cluster, ContainerCluster):
            container = cluster._container
            before = {name: container.env[variable(name)] for name in more}
            for name, value in self._settings(before, more).items():
                container.with_env(variable(name), value)
            for port in self._ports.values():
                container.with_bind_ports(port, port)

    def _settings(self, before: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
        signed = self.authority.sign(CERTIFIED_NAME)
        settings = {name: f"{before[name]},{value}" for name, value in more.items()}
        settings |= {
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": ",".join(("PLAIN", *SCRAM)),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": in_a_line(signed.certificate),
            "ssl.keystore.key": in_a_line(signed.key),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.certificates": in_a_line(self.authority.certificate),
            "listener.name.mutual.ssl.client.auth": "required",
        }
        for listener in ("sasl", "sasltls"):
            for name in SCRAM:
                settings[f"listener.name.{listener}.{name.lower()}.sasl.jaas.config"] = (
                    f"{LOGIN}.scram.ScramLoginModule required;"
                )
            settings[f"listener.name.{listener}.plain.sasl.jaas.config"] = (
                f'{LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            )
        return settings


class Credentials:
    """What a worker is told, by the names of its variables."""

    def __init__(self, secure: SecureKafka, directory: Path) -> None:
        self._secure = secure
        self._directory = directory

    def user(self, protocol: str, mechanism: str, password: str = PASSWORD) -> dict[str, str]:
        """Return those of a user."""
        names = {"SECURITY_PROTOCOL": protocol, "SASL_MECHANISM": mechanism, "USERNAME": USER,
                 "PASSWORD": password}  # fmt: skip
        return {**self.trust(), **names} if protocol == "SASL_SSL" else names

    def trust(self, authority: Authority | None = None) -> dict[str, str]:
        """Return those of an authority; the broker's own unless another is given."""
        path = self._directory / "ca.pem"
        path.write_text((authority or self._secure.authority).certificate)
        return {"SSL_CAFILE": str(path)}

    def certificate(self, authority: Authority | None = None) -> dict[str, str]:
        """Return those of a client with a certificate, its key encrypted."""
        signed = (authority or self._secure.authority).sign(USER, passphrase="key-password")
        certificate, key = signed.write(self._directory, "client")
        return {**self.trust(), "SSL_CERTFILE": certificate, "SSL_KEYFILE": key,
                "SSL_KEY_PASSWORD": "key-password"}  # fmt: skip


def cluster_of_our_own() -> ContainerCluster | JarsCluster:
    """Return one that can be configured."""
    reasons = []
    for way in (container_cluster, partial(jars_cluster, SHORT_LIVED)):
        try:
            return way()
        except NoKafka as error:
            reasons.append(str(error))
    raise NoKafka("no Apache Kafka of our own can be had: " + "; ".join(reasons))


def listed(ports: Mapping[str, int], host: str) -> str:
    return ",".join(f"{name}://{host}:{port}" for name, port in ports.items())


def in_a_line(pem: str) -> str:
    r"""Return PEM as a properties file has it, `\n` for the end of a line."""
    return pem.strip().replace("\n", "\\n")


def variable(name: str) -> str:
    """Return the variable that a container reads a setting from."""
    return "KAFKA_" + name.replace("-", "___").replace(".", "_").upper()
