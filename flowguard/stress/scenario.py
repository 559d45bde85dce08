"""Scenarios: one TOML file, run by the simulator or against a real worker and broker.

    [scenario]            name, seed, how long
    [worker]              lanes, memory, concurrency, batches: what is under test
    [provider]            what the agent calls: how fast, how many at once, how it fails
    [broker]              of the simulator only: latency and bandwidth
    [[arrivals]]          what is offered
    [[faults]]            what goes wrong
    [[expect]]            ranges of the outcome

Everything is checked when the file is read: a scenario that is wrong does not start.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from flowguard.dispatch.concurrency import Adaptive
from flowguard.errors import ConfigError
from flowguard.lanes.lane import Lane
from flowguard.lanes.lane_set import LaneSet
from flowguard.lanes.overflow import Block, Conflate, Divert, Policy, Shed, Spill
from flowguard.stress.arrivals import Arrivals, Trace, read_arrivals
from flowguard.stress.expect import Expect, read_expect
from flowguard.stress.faults import Fault, check_ratio, read_fault
from flowguard.stress.tables import Place, read_table, tables_of, written_as
from flowguard.suggest import nearest, reject_unknown
from flowguard.units import MIB, MILLISECOND, SECOND, size_bytes

__all__ = [
    "Batches",
    "BrokerPlan",
    "Fallback",
    "Heading",
    "ProviderPlan",
    "Scenario",
    "WorkerPlan",
    "find_scenario",
    "parse_scenario",
    "read_scenario",
    "shipped_scenarios",
]

#: Where the scenarios are that come with flowguard.
SHIPPED: Final = Path(__file__).parent / "scenarios"

TABLES: Final = ("scenario", "worker", "provider", "broker", "arrivals", "faults", "expect")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """How the worker cuts batches."""

    max: int = 4096
    linger_ns: int = 5 * MILLISECOND
    by_partition: bool = False

    def __post_init__(self) -> None:
        if self.max < 1:
            raise ConfigError(f"max={self.max} must be 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """The agent's fallback, which does not call the provider.

    Args:
        call_ns: Service time of a batch.
        record_ns: And of each record of it.
        on: On which occasions it serves.
    """

    call_ns: int = MILLISECOND
    record_ns: int = 0
    on: tuple[Literal["brownout", "failure", "deadline"], ...] = ("brownout", "failure", "deadline")


def read_concurrency(value: Any, name: str) -> int | Adaptive:
    """Return a fixed number of seats, or between which it is found."""
    if isinstance(value, Mapping):
        try:
            return Adaptive(**value)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name}={value!r} must be a number of seats, or a table as of Adaptive")
    return value


def read_batches(value: Any, name: str) -> Batches:
    """Return how batches are cut."""
    return read_table(Batches, value, place_of(name))


def read_fallback(value: Any, name: str) -> Fallback | None:
    """Return the fallback: true for one with its defaults, false for none."""
    if isinstance(value, bool):
        return Fallback() if value else None
    return read_table(Fallback, value, place_of(name))


def read_lanes(value: Any, name: str) -> tuple[Lane, ...]:
    """Return the lanes, highest first."""
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{name} must be one table a lane; write [[worker.lanes]]")
    return tuple(read_lane(each, f"{name} {number}") for number, each in enumerate(value, 1))


def read_lane(table: Any, name: str) -> Lane:
    """Return one lane; its keys are the arguments of `fg.Lane`."""
    if not isinstance(table, Mapping) or "name" not in table:
        raise ConfigError(f"{name} must be a table with a name")
    options = {key: each for key, each in table.items() if key not in ("name", "overflow")}
    if "overflow" in table:
        options["overflow"] = read_overflow(table["overflow"], f"{name} overflow")
    try:
        return Lane(table["name"], **options)
    except ConfigError as error:
        raise ConfigError(f"{name} {error}") from None


def read_overflow(value: Any, name: str) -> list[Policy]:
    """Return what happens when the lane is full: one policy, or a list of them."""
    return [read_policy(each, name) for each in (value if isinstance(value, list) else [value])]


def read_policy(value: Any, name: str) -> Policy:
    """Return one policy: `block`, `shed`, `conflate`, or with an argument.

    Those are `spill:SIZE`, `conflate:COLUMN` and `divert:TOPIC`.
    """
    kind, _, argument = value.partition(":") if isinstance(value, str) else ("", "", "")
    match kind, argument:
        case "block", "":
            return Block()
        case "shed", "":
            return Shed()
        case "conflate", column:
            return Conflate(column or None)
        case "spill", size if size:
            return Spill(size)
        case "divert", topic if topic:
            return Divert(topic)
    raise ConfigError(
        f"{name}={value!r} is no policy; use 'block', 'spill:SIZE', 'shed', 'conflate', "
        "'conflate:COLUMN', 'divert:TOPIC', or a list of them"
    )


def place_of(name: str) -> Place:
    file, _, table = name.partition(": ")
    return Place(file, table)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """The worker under test.

    Args:
        lanes: Its lanes, highest first.
        memory_bytes: Its budget.
        partitions: Of each topic.
        order: Of its feed.
        concurrency: Seats of its agent.
        batch: How its batches are cut.
        fallback: What serves in place of the provider, or None.
        rule: `by_topic`: each lane has a topic of its own; `by_header`: all lanes share one,
            so that a partition holds records of several.
        commit_ns: How often it commits.
        shadow: Control loops that only say what they would do.
        drain_ns: How long a revoked partition may finish what is in flight.
    """

    lanes: tuple[Lane, ...] = field(
        default=(Lane("default"),), metadata=written_as("lanes", read_lanes)
    )
    memory_bytes: int = 64 * MIB
    partitions: int = 4
    order: Literal["partition", "key", "none"] = "partition"
    concurrency: int | Adaptive = field(
        default=8, metadata=written_as("concurrency", read_concurrency)
    )
    batch: Batches = field(default=Batches(), metadata=written_as("batch", read_batches))
    fallback: Fallback | None = field(default=None, metadata=written_as("fallback", read_fallback))
    rule: Literal["by_topic", "by_header"] = "by_topic"
    commit_ns: int = SECOND
    shadow: frozenset[str] = frozenset()
    drain_ns: int = 3 * SECOND

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= 1024:
            raise ConfigError(f"partitions={self.partitions} must be from 1 to 1024")
        if self.memory_bytes < MIB:
            raise ConfigError("memory is too little; a worker needs 1MiB or more")
        if self.commit_ns == 0:
            raise ConfigError("commit must be longer than nothing")
        LaneSet(self.lanes)

    @property
    def lane_names(self) -> list[str]:
        """Return the names of the lanes, highest first."""
        return [lane.name for lane in self.lanes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderPlan:
    """What the agent calls once a batch: a model, a database, another service.

    With no more than `capacity` calls at once each takes `call + records × record`. With more
    they share what there is, so that each takes longer in proportion; and each call beyond
    takes `degradation` of the capacity away, as queues, caches and locks do.

    Args:
        call_ns: Service time of a call.
        record_ns: And of each record of it.
        capacity: Calls at once that it serves at full speed; 0: any number.
        degradation: Share of the capacity that each call beyond it costs, 0.01 for 1 %.
        knee: Share of the capacity from which calls get slower, 0 to 1; at the capacity they
            take `knee_factor` times as long.
        knee_factor: >= 1.
        jitter: Standard deviation of the logarithm of the service time; its mean stays.
        slow_share: Share of calls that take `slow_factor` times as long.
        slow_factor: > 0.
        errors: Share of calls that fail, at the end of their time.
        rejects: Share of records that the agent rejects, to dead letters.
        unavailable: What fails says that it is not there, rather than that the batch is wrong.
        calls_max: Calls at once above which it refuses further ones at once; 0: any number.
        rate_per_s: Calls a second above which it refuses; 0: any number.
        retry_after_ns: When to come back, as it says when it refuses; 0: it does not say.
        timeout_ns: When the agent gives up on a call, and its batch fails; 0: never.
    """

    call_ns: int = MILLISECOND
    record_ns: int = 0
    capacity: int = 0
    degradation: float = 0.0
    knee: float = 1.0
    knee_factor: float = 1.0
    jitter: float = 0.0
    slow_share: float = 0.0
    slow_factor: float = 1.0
    errors: float = 0.0
    rejects: float = 0.0
    unavailable: bool = False
    calls_max: int = 0
    rate_per_s: float = 0.0
    retry_after_ns: int = 0
    timeout_ns: int = 0

    def __post_init__(self) -> None:
        for name in ("knee", "slow_share", "errors", "rejects"):
            check_ratio(name, getattr(self, name))
        for name in ("capacity", "degradation", "jitter", "calls_max"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be 0 or more")
        if self.knee_factor < 1 or self.slow_factor <= 0:
            raise ConfigError("knee_factor must be 1 or more, slow_factor more than 0")

    def service_ns(self, records: int) -> int:
        """Return how long a call takes that is alone."""
        return self.call_ns + records * self.record_ns


def read_bandwidth(value: Any, name: str) -> float:
    """Return bytes a second, from a size a second such as `"500MB/s"`."""
    size = value.removesuffix("/s") if isinstance(value, str) else value
    return float(size_bytes(size, name=name))


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPlan:
    """The simulated broker; a real one is as it is.

    Args:
        fetch_ns: From a request to its response, with nothing in it.
        bytes_per_s: Bandwidth of fetches.
        ack_ns: From the agent's return until all it sent is acknowledged.
        commit_ns: How long a commit takes.
        refused: Share of batches whose output it does not acknowledge.
    """

    fetch_ns: int = MILLISECOND
    bytes_per_s: float = field(default=1e9, metadata=written_as("bandwidth", read_bandwidth))
    ack_ns: int = 2 * MILLISECOND
    commit_ns: int = 2 * MILLISECOND
    refused: float = 0.0

    def __post_init__(self) -> None:
        check_ratio("refused", self.refused)
        if self.bytes_per_s <= 0:
            raise ConfigError("bandwidth must be more than nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """The table `[scenario]`."""

    name: str
    about: str = ""
    seed: int = 1
    duration_ns: int
    warmup_ns: int = 0
    drain_ns: int = 30 * SECOND
    speed: float = 1.0

    def __post_init__(self) -> None:
        if self.duration_ns == 0:
            raise ConfigError("duration must be longer than nothing")
        if self.warmup_ns >= self.duration_ns:
            raise ConfigError("warmup must be shorter than duration")
        if self.speed < 0:
            raise ConfigError(f"speed={self.speed} must be 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is run, and what must come of it.

    Args:
        name: What it is called.
        about: One line for people.
        seed: Of everything that is random.
        duration_ns: How long records are offered.
        warmup_ns: From the beginning, what is not judged.
        drain_ns: How long the worker has for what is left when nothing is offered any more.
        speed: How much faster than in reality traces are replayed; 0: so that all of one fits.
        directory: Where its traces are looked for.
    """

    name: str
    about: str
    seed: int
    duration_ns: int
    warmup_ns: int
    drain_ns: int
    speed: float
    worker: WorkerPlan
    provider: ProviderPlan
    broker: BrokerPlan
    arrivals: tuple[Arrivals, ...]
    faults: tuple[Fault, ...]
    expect: tuple[Expect, ...]
    directory: Path = Path()

    def topic_of(self, arrivals: Arrivals) -> str:
        """Return the topic that a stream is sent to."""
        if arrivals.topic:
            return arrivals.topic
        return "records" if self.worker.rule == "by_header" else arrivals.lane

    @property
    def topics(self) -> list[str]:
        """Return the topics that the worker reads, each once."""
        return list(dict.fromkeys(self.topic_of(each) for each in self.arrivals))

    def with_seed(self, seed: int) -> Scenario:
        """Return the same scenario with other chances."""
        return replace(self, seed=seed)

    def with_speed(self, speed: float) -> Scenario:
        """Return the same scenario with its traces faster or slower.

        Raises:
            ConfigError: It is less than 0.
        """
        if speed < 0:
            raise ConfigError(f"speed={speed} must be 0 or more")
        return replace(self, speed=speed)

    def with_trace(self, file: Path) -> Scenario:
        """Return the same scenario with another trace in place of its traces.

        Raises:
            ConfigError: It has none.
        """
        if not any(isinstance(each.model, Trace) for each in self.arrivals):
            raise ConfigError(
                f"scenario {self.name} replays no trace, and --trace would change nothing; leave "
                f"out its name to run the trace by itself"
            )
        return replace(self, arrivals=tuple(with_trace(each, file) for each in self.arrivals))

    def check_real(self) -> None:
        """Raise for what only the simulator can do.

        Raises:
            ConfigError: It names the faults.
        """
        made_up = [str(each) for each in self.faults if each.simulated_only]
        if made_up:
            raise ConfigError(
                f"scenario {self.name} has faults that only the simulator can make "
                f"({', '.join(dict.fromkeys(made_up))}), and nothing was started; run it with "
                f"--simulate"
            )


def with_trace(arrivals: Arrivals, file: Path) -> Arrivals:
    if not isinstance(arrivals.model, Trace):
        return arrivals
    return replace(arrivals, model=replace(arrivals.model, file=str(file.resolve())))


def parse_scenario(text: str, *, file: str, directory: Path = Path()) -> Scenario:
    """Return a scenario from TOML.

    Args:
        file: What errors call it.
        directory: Where its traces are looked for.

    Raises:
        ConfigError: It cannot be read; the message names the place.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is no TOML: {error}") from None
    reject_unknown(document, known=TABLES, owner=file)
    if "scenario" not in document:
        raise ConfigError(f"{file} lacks the table [scenario]")
    heading = read_table(Heading, document["scenario"], Place(file, "[scenario]"))
    scenario = Scenario(
        name=heading.name,
        about=heading.about,
        seed=heading.seed,
        duration_ns=heading.duration_ns,
        warmup_ns=heading.warmup_ns,
        drain_ns=heading.drain_ns,
        speed=heading.speed,
        worker=read_table(WorkerPlan, document.get("worker", {}), Place(file, "[worker]")),
        provider=read_table(ProviderPlan, document.get("provider", {}), Place(file, "[provider]")),
        broker=read_table(BrokerPlan, document.get("broker", {}), Place(file, "[broker]")),
        arrivals=tuple(read_arrivals(*each) for each in tables_of(document, "arrivals", file)),
        faults=tuple(read_fault(*each) for each in tables_of(document, "faults", file)),
        expect=tuple(read_expect(*each) for each in tables_of(document, "expect", file)),
        directory=directory,
    )
    check(scenario, file)
    return scenario


def check(scenario: Scenario, file: str) -> None:
    """Raise for parts that do not go together."""
    known = scenario.worker.lane_names
    if not scenario.arrivals:
        raise ConfigError(f"{file} offers nothing; write [[arrivals]]")
    for number, each in enumerate(scenario.arrivals, 1):
        check_lane(each.lane, known, f"{file}: [[arrivals]] {number} lane")
        if scenario.worker.rule == "by_topic" and each.topic not in ("", each.lane):
            raise ConfigError(
                f"{file}: [[arrivals]] {number} topic={each.topic!r}: with rule = 'by_topic' each "
                f"lane has the topic of its own name; leave it out, or use rule = 'by_header'"
            )
    for number, expected in enumerate(scenario.expect, 1):
        if expected.lane:
            check_lane(expected.lane, known, f"{file}: [[expect]] {number} lane")


def check_lane(lane: str, known: Sequence[str], name: str) -> None:
    if lane not in known:
        like = nearest(lane, known)
        hint = f"did you mean {like!r}?" if like else f"lanes are {', '.join(known)}"
        raise ConfigError(f"{name}={lane!r} is no lane of [worker]; {hint}")


def read_scenario(path: Path) -> Scenario:
    """Return the scenario of a file.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"cannot read {path}: {reason}") from None
    return parse_scenario(text, file=path.name, directory=path.parent)


def shipped_scenarios() -> dict[str, Path]:
    """Return the scenarios that come with flowguard: name → file."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def find_scenario(name: str) -> Scenario:
    """Return a scenario by the name of a shipped one, or by the path of a file.

    Raises:
        ConfigError: There is no such, or it cannot be read.
    """
    shipped = shipped_scenarios()
    if name in shipped:
        return read_scenario(shipped[name])
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        return read_scenario(path)
    like = nearest(name, shipped)
    hint = f"did you mean {like}?" if like else "see: flowguard stress list"
    raise ConfigError(f"there is no scenario {name!r} and no such file; {hint}")
