"""Every error of flowguard.

FlowguardError
 ├── ConfigError        an option or a declaration is wrong; nothing was started
 ├── HookError          Faust or aiokafka is used in a way a feed cannot support
 ├── WireError          bytes from the broker cannot be read; their partition stops
 ├── RegistryError      a schema registry does not answer; what needs it is tried again
 └── SettleError        a send or a commit failed for good

Each message says what happened, what flowguard does now, and what you can do.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "FlowguardError",
    "HookError",
    "RegistryError",
    "SettleError",
    "WireError",
]


class FlowguardError(Exception):
    """The base of all errors that flowguard raises."""


class ConfigError(FlowguardError):
    """An option or a declaration is wrong; nothing was started."""


class HookError(FlowguardError):
    """Faust or aiokafka is used in a way that a feed cannot support."""


class WireError(FlowguardError):
    """Bytes from the broker cannot be read; their partition stops, others go on.

    Args:
        message: What is wrong with the bytes.
        topic: Topic of the partition, if known.
        partition: Partition number, -1 if unknown.
        offset: Offset of the wire batch or record that cannot be read, -1 if unknown.
        needed_bytes: Memory that reading it would take, 0 if that is not the reason.
    """

    def __init__(
        self,
        message: str,
        *,
        topic: str = "",
        partition: int = -1,
        offset: int = -1,
        needed_bytes: int = 0,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.needed_bytes = needed_bytes
        place = f"{topic}[{partition}] at offset {offset}: " if topic else ""
        super().__init__(f"{place}{message}")


class RegistryError(FlowguardError):
    """A schema registry does not answer; what needs it is tried again, nothing is rejected."""


class SettleError(FlowguardError):
    """A send or a commit failed for good; its batch is not acknowledged.

    Args:
        message: What was not settled, and why.
        topic: Where it was sent to, if it was a send.
        partition: Partition number, -1 if unknown.
        unavailable: The topic or its broker is not there, whatever is sent; the records
            themselves are not to blame.
    """

    def __init__(
        self, message: str, *, topic: str = "", partition: int = -1, unavailable: bool = False
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.unavailable = unavailable
        super().__init__(message)
