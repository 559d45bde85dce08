"""What becomes of a lane's records when they are too many or too old.

    fetched ─▶ shed ratio ─▶ waiting ─▶ above its share?   ─┐ policies of the lane, in order:
                                     ─▶ waits too long?    ─┤ conflate, shed, divert
                                     ─▶ partition is full? ─┘
                                     ─▶ older than max_age? ─▶ expired, also at dispatch

A policy looks at one lane of one agent at a time: each agent has a queue of its own. It takes
records that no batch has. What goes to disk instead of leaving is `spilling`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import pyarrow.compute as pc

from flowguard._native.sieve import outside_cohort
from flowguard.backlog import ALL
from flowguard.commands import Command, Resume
from flowguard.conflation import conflate
from flowguard.control.age import newest_born_ns, young_rows
from flowguard.control.decision import Decision
from flowguard.control.queue_delay import QueueDelay
from flowguard.diversion import Diversions
from flowguard.facts import Failed, Finished
from flowguard.gate import CALM_NS, Gate, Need, share_bytes, spill_share_bytes
from flowguard.holdings import Flight, Part, Partition, Waiting
from flowguard.lanes.overflow import Conflate, Divert, Policy, Shed, Spill
from flowguard.leaving import Leaving
from flowguard.units import SECOND, format_duration
from flowguard.view import View

if TYPE_CHECKING:
    from flowguard.engine import Engine

__all__ = ["Overflow"]

#: Loops, as `engine.shadow` names them.
QUEUE_DELAY: Final = "queue-delay"
SHED: Final = "shed"

#: Another part of the keys is shed in each hour, by the record's timestamp.
COHORT_MS: Final = 3_600_000


class Overflow:
    """Carry out the overflow policies of the lanes.

    Args:
        engine: What holds the records.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._leaving = Leaving(engine)
        self._diversions = Diversions(engine, self._leaving)
        self._commands: list[Command] = []
        share = share_bytes(engine.lanes, engine.memory)
        spill_share = spill_share_bytes(engine.lanes, engine.memory)
        self._gates: dict[View, dict[int, Gate]] = {
            view: {
                rank: Gate(
                    view, rank, lane, spill_share if engine.spilling.may_spill(rank) else share,
                    None if lane.target_ns is None else QueueDelay(lane.target_ns),
                )
                for rank, lane in enumerate(engine.lanes)
                if lane.policies or lane.target_ns is not None
            }
            for view in engine.views.values()
        }  # fmt: skip
        self._ages = {
            rank: lane.max_age_ns
            for rank, lane in enumerate(engine.lanes)
            if lane.max_age_ns is not None
        }

    # What the engine tells.

    def fetched(self, views: Iterable[View], ranks: Iterable[int], now_ns: int) -> None:
        """Look whether lanes that have got records are above their share now."""
        self._end()
        for rank in set(ranks):
            for view in views:
                gate = self._gates[view].get(rank)
                if gate is not None and gate.lane.policies and gate.is_full:
                    self._relieve(gate, now_ns)
        self._end()

    def expire(self, view: View, now_ns: int) -> None:
        """Let go what has become too old while it waits; what is too old in part stays."""
        if not self._ages:
            return
        for rank, max_age_ns in self._ages.items():
            too_old = wholly_too_old(now_ns, max_age_ns)
            for part in view.backlog.take_while(rank, too_old, may_leave=view.may_leave):
                self._leaving.whole(view, part, "expired", why_expired(max_age_ns))
        self._end()

    def may_start(self, view: View, flight: Flight, now_ns: int) -> bool:
        """Take what is too old out of a batch that is about to start; False if nothing is left.

        A batch that waited for its retry is looked at again, like any other.
        """
        max_age_ns = self._ages.get(flight.cut.lane)
        if max_age_ns is None:
            return True
        kept: list[Part] = []
        gone: list[Part] = []
        for part in flight.parts:
            rest = self._young(view, part, now_ns, max_age_ns)
            (gone if rest is None else kept).append(part if rest is None else rest)
        flight.parts = kept
        flight.cut.slices = tuple(part.piece for part in kept)
        if gone:
            view.give_up(flight, gone)
        self._end()
        return bool(kept)

    def _young(self, view: View, part: Part, now_ns: int, max_age_ns: int) -> Part | None:
        if part.partition.gone:
            return part
        young = young_rows(part.piece, now_ns=now_ns, max_age_ns=max_age_ns)
        if young == "all":
            return part
        why = why_expired(max_age_ns)
        if young == "none":
            self._leaving.whole(view, part, "expired", why)
            return None
        return self._leaving.rows(view, part, young, "expired", why, always=True)

    def started(self, view: View, flight: Flight, now_ns: int) -> None:
        """Take in how long the luckiest record of a batch has waited for its start."""
        gate = self._gates[view].get(flight.cut.lane)
        if gate is not None and gate.delay is not None and not flight.failed:
            newest_ns = max(piece.chunk.fetched_ns for piece in flight.cut.slices)
            gate.delay.sample(max(0, now_ns - newest_ns))

    def is_diversion(self, batch_id: int) -> bool:
        """Tell whether a batch is on its way to another topic, and not with an agent."""
        return batch_id in self._diversions

    def diverted(self, fact: Finished | Failed) -> View:
        """Take in how a diversion has ended, and return the agent that may go on."""
        if isinstance(fact, Finished):
            gate = self._diversions.finished(fact.batch_id)
        else:
            gate = self._diversions.failed(fact)
        self._end()
        self._relieve(gate, fact.at_ns)
        self._end()
        return gate.view

    def tick(self, now_ns: int) -> list[Command]:
        """Look at each lane, and let go of what its policy says."""
        for view in self._gates:
            self.expire(view, now_ns)
        for gate in self._all_gates():
            self._judge_delay(gate, now_ns)
            if gate.lane.policies:
                self._relieve(gate, now_ns)
                self._end()
        self._relieve_full_partitions(now_ns)
        self._end()
        return self.flush()

    def flush(self) -> list[Command]:
        """Return what there is to do and to log since the last time."""
        self._commands += self._leaving.log.take()
        return self.take_commands()

    def take_commands(self) -> list[Command]:
        """Return what there is to do since the last time."""
        commands, self._commands = self._commands, []
        return commands

    # What others ask for and about.

    def set_shed_ratio(self, rank: int, ratio: float, why: str) -> None:
        """Leave out this share of a lane's records from now on, if its policies permit.

        Which records leave is a matter of their key and of the hour of their timestamp, so an
        entity is left out as a whole, by every worker, and another one in the next hour. Where
        a lane is conflated and not shed, any share means that it is conflated all the time.
        Other lanes stay as they are.

        Args:
            rank: The lane.
            ratio: Share of the keys, 0..1; 0 ends it.
            why: The reason, for people.
        """
        for view, gates in self._gates.items():
            if rank in gates:
                gate = gates[rank]
                gate.shed_ratio, gate.shed_why = min(1.0, max(0.0, ratio)), why
                acts = gate.shed_ratio > 0.0 and sheds(gate)
                view.backlog.sift[rank] = partial(self._stays, gate) if acts else None

    def why(self, rank: int) -> str | None:
        """Return why the policies of a lane act now, None if they do not."""
        for gates in self._gates.values() if SHED not in self._engine.shadow else ():
            if rank in gates and (why := gates[rank].why) is not None:
                return why
        return None

    # Decisions.

    def _all_gates(self) -> Iterator[Gate]:
        for gates in self._gates.values():
            yield from gates.values()

    def _end(self) -> None:
        if self._leaving.end():
            self._commands.append(Resume())

    def _judge_delay(self, gate: Gate, now_ns: int) -> None:
        """Look whether the lane waits too long, and say so when that changes."""
        if not gate.look(now_ns) or gate.delay is None or not gate.lane.policies:
            return
        overloaded = gate.delay.overloaded
        least = format_duration(gate.delay.least_ns / SECOND)
        target = format_duration(gate.delay.target_ns / SECOND)
        self._decide(
            gate, now_ns, QUEUE_DELAY, "overloaded" if overloaded else "calm",
            before=0.0 if overloaded else 1.0, after=1.0 if overloaded else 0.0,
            why=f"no record waited less than {least}, at most {target} is wanted"
            if overloaded else f"a record waited {least}, at most {target} is wanted",
        )  # fmt: skip

    def _relieve(self, gate: Gate, now_ns: int) -> None:
        """Let the policies of a lane act until nothing must leave any more."""
        late_counts = QUEUE_DELAY not in self._engine.shadow
        need = gate.need(now_ns, late_counts=late_counts)
        policies = self._acting(gate)
        if need is None or not policies:
            self._conflate_always(gate)
            self._calm_down(gate, now_ns)
            return
        self._note(gate, need, now_ns)
        if SHED in self._engine.shadow:
            return
        for policy in policies:
            self._apply(policy, gate, need, now_ns)
            self._end()
            need = gate.need(now_ns, late_counts=late_counts)
            if need is None:
                return

    def _acting(self, gate: Gate) -> Sequence[Policy]:
        """Return the policies of a lane that make records leave now.

        Those behind `Spill` are for when the disk takes no more.
        """
        acting: list[Policy] = []
        for policy in gate.lane.policies:
            if not isinstance(policy, Spill):
                acting.append(policy)
            elif self._engine.spilling.relieves(gate.rank):
                break
        return acting

    def _relieve_full_partitions(self, now_ns: int) -> None:
        """Make room in partitions that cannot be read, where what waits there is enough for it."""
        paused = self._engine.memory.paused
        for partition in list(self._engine.partitions.values()) if paused else ():
            if partition.account not in paused or partition.revoking:
                continue
            missing_bytes = self._engine.memory.missing(partition.account)
            for view, gates in self._gates.items():
                leaving_bytes = diverted_bytes(view, partition)  # it comes free by itself
                self._relieve_partition(gates, partition, missing_bytes - leaving_bytes, now_ns)

    def _relieve_partition(
        self, gates: dict[int, Gate], partition: Partition, missing_bytes: int, now_ns: int
    ) -> None:
        """Let the lowest lanes of one agent make room in a partition, if they can."""
        giving = [
            (gate, waiting_bytes)
            for _, gate in sorted(gates.items(), reverse=True)
            if self._acting(gate) and (waiting_bytes := gate.waiting_of(partition))
        ]
        if missing_bytes <= 0 or sum(waiting for _, waiting in giving) < missing_bytes:
            return
        name = partition.name
        why = f"{name.topic}[{name.partition}] has no room for more"
        for gate, waiting_bytes in giving:
            num_bytes = min(missing_bytes, waiting_bytes)
            if num_bytes <= 0:
                return
            need = Need(num_bytes=num_bytes, before_ns=None, partition=partition, why=why)
            self._note(gate, need, now_ns)
            if SHED in self._engine.shadow:
                continue
            for policy in self._acting(gate):
                self._apply(policy, gate, need, now_ns)
                self._end()
                left_bytes = num_bytes - (waiting_bytes - gate.waiting_of(partition))
                if left_bytes <= 0:
                    break
                need = Need(num_bytes=left_bytes, before_ns=None, partition=partition, why=why)
            missing_bytes -= waiting_bytes - gate.waiting_of(partition)

    def _apply(self, policy: Policy, gate: Gate, need: Need, now_ns: int) -> None:
        """Let one policy do what it can."""
        match policy:
            case Conflate(by):
                conflate(gate, self._leaving, by=by, partition=need.partition)
            case Shed():
                for part in self._take(gate, need, ALL):
                    self._leaving.whole(gate.view, part, "shed", need.why)
            case Divert(topic) if self._diversions.may_begin(gate, now_ns):
                parts = self._take(gate, need, self._diversions.bytes_max)
                if parts:
                    self._commands.append(self._diversions.begin(gate, parts, topic, now_ns))

    def _take(self, gate: Gate, need: Need, bytes_max: int) -> list[Part]:
        """Take the oldest records of a lane out of its queue, as many as must leave."""
        backlog, may_leave = gate.view.backlog, gate.may_leave(need)
        taken: list[Part] = []
        if need.num_bytes:
            wanted_bytes = min(need.num_bytes, bytes_max)
            whole = need.partition is not None
            taken = backlog.take_bytes(gate.rank, wanted_bytes, may_leave=may_leave, whole=whole)
        if need.before_ns is not None:
            bytes_max -= sum(part.piece.num_bytes for part in taken)
            late = read_before(need.before_ns, bytes_max)
            taken += backlog.take_while(gate.rank, late, may_leave=may_leave)
        return taken

    def _conflate_always(self, gate: Gate) -> None:
        """Conflate a lane that need not, because the ladder says so or it is on disk as well."""
        wanted = gate.shed_ratio > 0.0 and not sheds(gate)
        wanted |= self._engine.spilling.has_line(gate.rank)
        for policy in gate.lane.policies if wanted else ():
            if isinstance(policy, Conflate):
                conflate(gate, self._leaving, by=policy.by, partition=None)

    def _stays(self, gate: Gate, waiting: Waiting) -> bool:
        """Leave out a share of the records that have just come; False if none is left."""
        piece = waiting.piece
        hours = pc.divide(piece.timestamps, COHORT_MS)
        keep = outside_cohort(piece.keys, piece.offsets, hours, gate.shed_ratio)
        if keep is None:
            return True
        why = f"{gate.shed_ratio:.0%} of its keys are left out: {gate.shed_why}"
        rest = self._leaving.rows(gate.view, waiting.part, keep, "shed", why)
        if rest is not None:
            waiting.go_on_with(rest)
        return rest is not None

    # What is said.

    def _note(self, gate: Gate, need: Need, now_ns: int) -> None:
        """Say that the policies of a lane begin to act."""
        gate.needed_ns = now_ns
        if gate.why is None:
            self._decide(
                gate, now_ns, SHED, "start", before=gate.waiting_bytes,
                after=gate.waiting_bytes - need.num_bytes, why=need.why,
            )  # fmt: skip
        gate.why = need.why

    def _calm_down(self, gate: Gate, now_ns: int) -> None:
        """Say that the policies of a lane have had nothing to do for a while."""
        if gate.why is not None and now_ns - gate.needed_ns >= CALM_NS:
            gate.why = None
            waiting_bytes = gate.waiting_bytes
            self._decide(
                gate, now_ns, SHED, "stop", before=waiting_bytes, after=waiting_bytes,
                why=f"nothing had to leave for {format_duration(CALM_NS / SECOND)}",
            )  # fmt: skip

    def _decide(
        self, gate: Gate, now_ns: int, loop: str, action: str, *, before: float, after: float,
        why: str,
    ) -> None:  # fmt: skip
        self._engine.decisions.add(
            Decision(
                at_ns=now_ns, loop=loop, subject=gate.lane.name, action=action, before=before,
                after=after, why=why, shadow=loop in self._engine.shadow,
            )
        )  # fmt: skip


def sheds(gate: Gate) -> bool:
    """Tell whether a lane permits to leave out records that nothing replaces."""
    return any(isinstance(policy, Shed) for policy in gate.lane.policies)


def diverted_bytes(view: View, partition: Partition) -> int:
    """Return the bytes of a partition that are on their way to another topic."""
    return sum(
        part.piece.num_bytes
        for flight in view.diversions
        for part in flight.parts
        if part.partition is partition
    )


def wholly_too_old(now_ns: int, max_age_ns: int) -> Callable[[Waiting], bool]:
    """Return what tells of a slice that waits whether all of it is too old.

    It is asked often of the slice that is first in line, so the timestamps are looked at once.
    """

    def too_old(waiting: Waiting) -> bool:
        if now_ns - waiting.piece.chunk.born_ns <= max_age_ns:
            return False
        if waiting.newest_born_ns is None:
            waiting.newest_born_ns = newest_born_ns(waiting.piece)
        return now_ns - waiting.newest_born_ns > max_age_ns

    return too_old


def read_before(before_ns: int, bytes_max: int) -> Callable[[Waiting], bool]:
    """Return what tells of one slice after the other whether it leaves, for it waits too long."""

    def leaves(waiting: Waiting) -> bool:
        nonlocal bytes_max
        if waiting.piece.chunk.fetched_ns >= before_ns or bytes_max <= 0:
            return False
        bytes_max -= waiting.piece.num_bytes
        return True

    return leaves


def why_expired(max_age_ns: int) -> str:
    """Return why records have expired."""
    return f"older than max_age {format_duration(max_age_ns / SECOND)}"
