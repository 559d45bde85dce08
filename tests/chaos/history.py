"""What a checker knows of a run, and what is wrong with it, in Jepsen's words.

Everything was seen by a client outside of the workers, on the clock of the one broker:

    produced  partition, offset ─▶ id, key, good or bad
    outputs   of which record, by which turn of which worker, when it was appended
    letters   of which record, when
    commits   of which partition, up to which offset, when

| anomaly | what |
| --- | --- |
| lost-write | a record below the committed offset has neither an output nor a dead letter |
| unseen | a record that nobody committed has neither, and the workers had time for it |
| duplicate | a record came again that was committed, or more than were in flight or settled |
| | since the last commit (`skew` more for order key and none) |
| nonmonotonic | a record came first after a later one of its key or partition; a turn goes |
| | back; a commit goes back |
| dirty | an output of what nobody produced, or of a bad record; a dead letter of a good one |
| committed-past-unfinished | a commit passes a record that came to no end by then |

A *turn* is a worker process between two rebalances. A turn that takes a partition over may go
back as far as the committed offset. What a turn that was replaced still puts out was in flight.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

__all__ = [
    "Anomaly", "Commit", "History", "Letter", "Output", "Policy", "Produced", "Verdict", "check",
]  # fmt: skip

#: So many anomalies of a kind are told in full.
KEPT: Final = 3


class Produced(NamedTuple):
    """A record of the source topic.

    Args:
        bad: It must become a dead letter, and never an output.
    """

    id: int
    key: bytes | None = None
    lane: str = "default"
    bad: bool = False


class Output(NamedTuple):
    """An output, in the order of the log of its partition.

    Args:
        turn: Which turn of which worker put it out.
        at_ms: When it was appended, by the broker's clock.
    """

    partition: int
    offset: int
    id: int
    turn: str
    at_ms: int


class Letter(NamedTuple):
    """A dead letter, as an output."""

    partition: int
    offset: int
    at_ms: int


class Commit(NamedTuple):
    """A commit, in the order of the log of the group; `offset` is the next one to read."""

    partition: int
    offset: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is promised, in numbers.

    Args:
        order: Of the feed.
        in_flight_records: Most that one worker has handed out and that is not settled.
        skew_records: How far a lane may run past its oldest unfinished record; 0 for order
            partition.
        commit_ms: How long a commit may take from its snapshot until the broker has it; what
            is settled meanwhile is not in it.
        troubled_ms: Instants around which a broker was away: a turn may send again what was
            written and not acknowledged.
        may_leave: Lanes whose policy leaves records out; they are not missed.
    """

    order: str = "partition"
    in_flight_records: int = 0
    skew_records: int = 0
    commit_ms: int = 2_000
    troubled_ms: Sequence[tuple[int, int]] = ()
    may_leave: frozenset[str] = frozenset()

    def is_troubled(self, at_ms: int) -> bool:
        """Tell whether a broker was away then."""
        return any(begin <= at_ms <= end for begin, end in self.troubled_ms)


@dataclass(slots=True)
class History:
    """All of a run that can be seen from outside."""

    produced: Mapping[tuple[int, int], Produced] = field(default_factory=dict)
    outputs: Sequence[Output] = ()
    letters: Sequence[Letter] = ()
    commits: Sequence[Commit] = ()


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something that must not be."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


@dataclass(slots=True)
class Verdict:
    """What a checker found.

    Attributes:
        anomalies: The first few of each kind.
        counts: How many there are, by kind.
        duplicates: How often records came again, within the bound or beyond it.
        most_repeated: The largest share of what a takeover might repeat that was repeated:
            how many, and how many it might be.
    """

    anomalies: list[Anomaly] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    records: int = 0
    outputs: int = 0
    letters: int = 0
    duplicates: int = 0
    takeovers: int = 0
    most_repeated: tuple[int, int] = (0, 0)

    def found(self, name: str, text: str) -> None:
        """Note an anomaly."""
        self.counts[name] += 1
        if self.counts[name] <= KEPT:
            self.anomalies.append(Anomaly(name, text))

    @property
    def names(self) -> set[str]:
        """Return the kinds that were found."""
        return {name for name, count in self.counts.items() if count}

    @property
    def line(self) -> str:
        """Return the figures in one line."""
        repeated, bound = self.most_repeated
        wrong = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return (
            f"{self.records:,} records, {self.outputs:,} outputs, {self.letters:,} dead letters; "
            f"lost {self.counts['lost-write']}, unseen {self.counts['unseen']}, "
            f"duplicates {self.duplicates:,} in {self.takeovers:,} takeovers "
            f"(most in one: {repeated:,} of {bound:,} that may be); anomalies: {wrong or 'none'}"
        )


def check(history: History, policy: Policy) -> Verdict:
    """Judge a history."""
    verdict = Verdict(records=len(history.produced), letters=len(history.letters))
    verdict.outputs = len(history.outputs)
    check_dirty(history, verdict)
    check_missing(history, policy, verdict)
    check_commits(history, policy, verdict)
    check_order(history, policy, verdict)
    check_repeated(history, policy, verdict)
    verdict.counts += Counter()  # names without any
    return verdict


def place(partition: int, offset: int) -> str:
    """Return where a record is, as people write it."""
    return f"[{partition}]@{offset}"


# Dirty.


def check_dirty(history: History, verdict: Verdict) -> None:
    """Look for outputs and dead letters that should not exist."""
    for each in history.outputs:
        record = history.produced.get((each.partition, each.offset))
        where = place(each.partition, each.offset)
        if record is None:
            verdict.found("dirty", f"an output of {where}, which nobody produced")
        elif record.id != each.id:
            verdict.found("dirty", f"{where} is record {record.id}, and came as {each.id}")
        elif record.bad:
            verdict.found("dirty", f"an output of {where}, which is bad")
    for letter in history.letters:
        record = history.produced.get((letter.partition, letter.offset))
        where = place(letter.partition, letter.offset)
        if record is None:
            verdict.found("dirty", f"a dead letter of {where}, which nobody produced")
        elif not record.bad:
            verdict.found("dirty", f"a dead letter of {where}, which is a good record")


# Missing.


def ended(history: History) -> dict[tuple[int, int], int]:
    """Return when each record first came to an end."""
    first: dict[tuple[int, int], int] = {}
    for each in (*history.outputs, *history.letters):
        where = (each.partition, each.offset)
        first[where] = min(each.at_ms, first.get(where, each.at_ms))
    return first


def check_missing(history: History, policy: Policy, verdict: Verdict) -> None:
    """Look for records that came to no end."""
    first = ended(history)
    committed: dict[int, int] = defaultdict(int)
    for commit in history.commits:
        committed[commit.partition] = max(commit.offset, committed[commit.partition])
    for (partition, offset), record in history.produced.items():
        if (partition, offset) in first or record.lane in policy.may_leave:
            continue
        where = f"{place(partition, offset)} (record {record.id})"
        if offset < committed[partition]:
            verdict.found("lost-write", f"{where} is committed, and came to no end")
        else:
            verdict.found("unseen", f"{where} came to no end, and nobody committed it")


# Commits.


def check_commits(history: History, policy: Policy, verdict: Verdict) -> None:
    """Look whether each commit has only what was finished, and none goes back."""
    first = ended(history)
    of_partition: dict[int, list[int]] = defaultdict(list)
    for partition, offset in sorted(history.produced):
        of_partition[partition].append(offset)
    for partition, commits in by_partition(history.commits).items():
        offsets = of_partition[partition]
        end = offsets[-1] + 1 if offsets else 0
        checked = 0
        for before, commit in pairwise([Commit(partition, 0, 0), *commits]):
            if commit.offset < before.offset:
                text = f"commit of [{partition}] goes back from {before.offset} to {commit.offset}"
                verdict.found("nonmonotonic", text)
            if commit.offset > end:
                text = f"[{partition}] ends at {end}, and {commit.offset} is committed"
                verdict.found("committed-past-unfinished", text)
            while checked < len(offsets) and offsets[checked] < commit.offset:
                where = (partition, offsets[checked])
                checked += 1
                at_ms = first.get(where)
                if history.produced[where].lane in policy.may_leave:
                    continue
                if at_ms is None or at_ms > commit.at_ms:
                    late = "never" if at_ms is None else f"{at_ms - commit.at_ms} ms later"
                    text = f"{commit.offset} of [{partition}] is committed, {place(*where)} is "
                    verdict.found("committed-past-unfinished", f"{text}finished {late}")


def by_partition(commits: Iterable[Commit]) -> dict[int, list[Commit]]:
    """Return the commits of each partition."""
    found: dict[int, list[Commit]] = defaultdict(list)
    for commit in commits:
        found[commit.partition].append(commit)
    return found


# Order.

Stream = tuple[int, str, bytes | None]


def check_order(history: History, policy: Policy, verdict: Verdict) -> None:
    """Look whether records of a lane come in the order that the feed keeps."""
    if policy.order == "none":
        return
    tops: dict[Stream, int] = {}
    lasts: dict[tuple[str, Stream], int] = {}
    seen: set[tuple[int, int]] = set()
    for each in history.outputs:
        record = history.produced.get((each.partition, each.offset))
        if record is None:
            continue
        stream = (each.partition, record.lane, record.key if policy.order == "key" else None)
        new = (each.partition, each.offset) not in seen
        seen.add((each.partition, each.offset))
        top, last = tops.get(stream, -1), lasts.get((each.turn, stream), -1)
        where = place(each.partition, each.offset)
        if new and each.offset < top:
            verdict.found("nonmonotonic", f"{where} comes for the first time after {top}")
        elif each.offset < last and not policy.is_troubled(each.at_ms):
            verdict.found("nonmonotonic", f"turn {each.turn} puts out {where} after {last}")
        tops[stream] = max(top, each.offset)
        lasts[each.turn, stream] = each.offset


# Repeated.


@dataclass(slots=True)
class Takeover:
    """A turn that has begun with a partition.

    Attributes:
        number: How many turns had begun with the partition before it.
        floor: What was committed when it put out its first record.
        may_repeat: What was in flight then, or settled and not committed.
        repeated: Records that an earlier turn had put out.
        stale: Records that it put out after a later turn had.
    """

    number: int
    floor: int
    may_repeat: int
    repeated: int = 0
    stale: int = 0


def check_repeated(history: History, policy: Policy, verdict: Verdict) -> None:
    """Look whether records come again that should not, and whether too many do."""
    of_partition: dict[int, list[Output]] = defaultdict(list)
    for each in history.outputs:
        of_partition[each.partition].append(each)
    commits = by_partition(history.commits)
    for partition, outputs in of_partition.items():
        takeovers = repeated_in(outputs, Commits(commits.get(partition, [])), policy, verdict)
        verdict.takeovers += max(0, len(takeovers) - 1)
        for turn, takeover in takeovers.items():
            judge_takeover(f"turn {turn} of [{partition}]", takeover, policy, verdict)


class Commits:
    """The commits of a partition, by time."""

    def __init__(self, commits: Sequence[Commit]) -> None:
        self._changes = list(changes_of(commits))
        self._times = [each.at_ms for each in self._changes]

    def offset_at(self, at_ms: int) -> int:
        """Return what is committed before an instant."""
        number = bisect_left(self._times, at_ms)
        return self._changes[number - 1].offset if number else 0

    def changed_before(self, at_ms: int) -> int:
        """Return when what is committed changed last before an instant."""
        number = bisect_left(self._times, at_ms)
        return self._times[number - 1] if number else 0


def changes_of(commits: Iterable[Commit]) -> Iterator[Commit]:
    """Return the commits that changed something."""
    before = -1
    for commit in commits:
        if commit.offset != before:
            yield commit
        before = commit.offset


def repeated_in(
    outputs: Sequence[Output], commits: Commits, policy: Policy, verdict: Verdict
) -> dict[str, Takeover]:
    """Return the turns of a partition, with what each of them repeated."""
    takeovers: dict[str, Takeover] = {}
    came: dict[int, dict[str, int]] = defaultdict(dict)  # offset → turn → when
    times: list[int] = []  # of first outputs
    for each in outputs:
        takeover = takeovers.get(each.turn)
        if takeover is None:
            changed_ms = commits.changed_before(each.at_ms)
            uncommitted = len(times) - bisect_right(times, changed_ms - policy.commit_ms)
            takeover = Takeover(
                number=len(takeovers),
                floor=commits.offset_at(each.at_ms),
                may_repeat=uncommitted + policy.in_flight_records + policy.skew_records,
            )
            takeovers[each.turn] = takeover
        before = came[each.offset]
        if not before:
            times.append(each.at_ms)
        else:
            verdict.duplicates += 1
            note_repeat(each, before, takeover, takeovers, policy, verdict)
        before.setdefault(each.turn, each.at_ms)
    return takeovers


def note_repeat(
    each: Output,
    before: Mapping[str, int],
    takeover: Takeover,
    takeovers: Mapping[str, Takeover],
    policy: Policy,
    verdict: Verdict,
) -> None:
    """Count a record that came again, and say so where it should not at all."""
    where = place(each.partition, each.offset)
    if each.turn in before:
        if not policy.is_troubled(each.at_ms):
            verdict.found("duplicate", f"{where} comes twice in turn {each.turn}")
        return
    if any(takeovers[turn].number > takeover.number for turn in before):
        takeover.stale += 1
        return
    takeover.repeated += 1
    if each.offset < takeover.floor:
        text = f"{where} comes again, and {takeover.floor} was committed when turn {each.turn}"
        verdict.found("duplicate", f"{text} began")


def judge_takeover(name: str, takeover: Takeover, policy: Policy, verdict: Verdict) -> None:
    """Compare what came again with what may."""
    repeated, bound = takeover.repeated, takeover.may_repeat
    most, most_bound = verdict.most_repeated
    if repeated * max(1, most_bound) > most * max(1, bound):
        verdict.most_repeated = (repeated, bound)
    if repeated > bound:
        text = f"{name} repeats {repeated} records; {bound} were in flight or not committed"
        verdict.found("duplicate", text)
    if takeover.stale > policy.in_flight_records:
        text = f"{name} puts out {takeover.stale} records that a later turn has put out already"
        verdict.found("duplicate", f"{text}; {policy.in_flight_records} may be in flight")
