"""What becomes of a batch that failed.

    several records ─▶ the first half is tried at once, the rest waits for what comes of it:
                       it fails ─▶ its half; the rest may be sound, and stays together
                       it does not ─▶ the first half of those among the rest that may fail
    one record ─▶ waits, is tried again ─▶ has failed as often as it may
                                             ├─ the agent works: dead letter
                                             └─ nothing succeeds: it waits, and the next one
                                                is tried right behind it

- An agent that fails quickly looks for the record itself (`agents/narrowing.py`): what it has done
  until then is settled, and what it did not get to waits. Others are given the halves as below.
- One of several records that fails takes ten more tries to find among 1,024, and one for all
  that is left. To find it is no attempt; only its own failures count.
- That the agent works is shown by any batch of its that was settled between two failures of
  the record. Without that it is not known whether the record is to blame or something that
  all need: then nothing becomes a dead letter, however long it takes.
- Of many failures in a row with nothing in between, something is taken to be missing: the
  batches are held, and one at a time is tried.
- What is decided holds up nothing: while a dead letter is written, what is behind it goes on.
- Order is kept: what comes behind a record that is exhausted is only tried right after it,
  and if that succeeds, the record becomes a dead letter and is not tried again.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from flowguard.chunk import TopicPartition
from flowguard.commands import BuryBatch, Command, Resume
from flowguard.control.limit import Outcome
from flowguard.facts import Failed, Finished, Found
from flowguard.holdings import Flight, Partition
from flowguard.settle.retry import backoff_ns
from flowguard.view import View

if TYPE_CHECKING:
    from flowguard.engine import Engine

__all__ = ["Failing"]

#: So many batches that failed in a row, with none settled in between, are an outage: to find
#: one record in 4,096 takes 13, and a few of them may be tried at once.
FAILED_IN_ROW: Final = 64


class Failing:
    """Decide what becomes of batches that failed.

    Args:
        engine: What holds them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.failed_in_row_max = FAILED_IN_ROW
        self._commands: list[Command] = []

    def take_commands(self) -> list[Command]:
        """Return what there is to do since the last time."""
        commands, self._commands = self._commands, []
        return commands

    # What the engine tells.

    def failed(self, view: View, flight: Flight, fact: Failed) -> None:
        """Take in that a batch failed of which something is still ours."""
        flight.why, flight.kind = fact.why, fact.kind
        if flight.doomed:
            self._not_buried(view, flight, fact)
        elif fact.found is not None and len(flight.live) == len(flight.parts):
            self._take_apart(view, flight, fact, fact.found)
        else:
            held = self._is_held(view, flight, fact)
            view.set_back(flight, fact.at_ns, outcome=outcome_of(fact))
            self._set_aside(view, flight, fact, held)
        for name, why in fact.stops.items():
            self._stop(self._engine.partitions.get(name), flight.cut.lane, why)

    def gone(self, view: View, flight: Flight, fact: Failed) -> None:
        """Take in that a batch failed of which nothing is ours any more."""
        flight.why = fact.why
        if not flight.doomed:
            self._is_held(view, flight, fact)  # it may be the probe
        view.land(flight)

    def _is_held(self, view: View, flight: Flight, fact: Failed) -> bool:
        """Tell whether something is missing; many failures with no success mean that as well."""
        unclear = not (fact.unavailable or fact.rejected)
        view.failed_in_row += unclear
        held = fact.unavailable or (unclear and view.failed_in_row >= self.failed_in_row_max)
        view.serving.failed(
            flight,
            fact.at_ns,
            unavailable=held,
            retry_after_ns=fact.retry_after_ns if fact.unavailable else None,
            common=fact.common,
            alone=fact.alone,
        )
        return held

    def _set_aside(self, view: View, flight: Flight, fact: Failed, held: bool) -> None:
        """Split a batch, or let its only record wait or go."""
        several = flight.cut.num_records > 1
        flight.passing &= several
        if several and not fact.unavailable:
            self._narrow(view, flight, fact.at_ns, held)
        elif held:
            if not fact.unavailable:  # nobody said that something is missing
                self._count(view, flight)
            view.retry(flight, fact.at_ns + view.serving.wait_ns(flight))
        else:
            self._count_failure(view, flight, fact)

    def _take_apart(self, view: View, flight: Flight, fact: Failed, found: Found) -> None:
        """Settle what is done of a batch, and set aside what fails; what is behind waits."""
        view.set_back(flight, fact.at_ns, outcome=outcome_of(fact))
        failing, count = flight, found.failing
        if (led := view.rest_of(flight)) is not None:
            count = flight.cut.num_records - found.done  # nothing comes between it and its rest
        if found.done:
            failing = self._split(view, flight, found.done)
            failing.failed_ns = fact.at_ns
            flight.rest = None
            if led is not None:
                self._let_lead(failing, led, led.suspects)
            self._finish(view, flight, fact, found)
        if count < failing.cut.num_records:
            view.retry(self._split(view, failing, count), fact.at_ns)
        held = self._is_held(view, failing, fact)
        self._set_aside(view, failing, fact, held)

    def _finish(self, view: View, flight: Flight, fact: Failed, found: Found) -> None:
        """Settle a batch that was set back."""
        for part in flight.live:
            self._engine.tally.started(part.piece)
        view.count_unsettled(flight)
        finished = Finished(
            batch_id=flight.cut.batch_id,
            dead_letters=found.dead_letters,
            at_ns=fact.at_ns,
            epoch_ms=fact.epoch_ms,
        )
        self._commands += self._engine.finished(finished)

    # Finding the record that fails.

    def _narrow(self, view: View, flight: Flight, now_ns: int, held: bool) -> None:
        """Try the first half of several records one of which fails, before the others.

        If all seem to fail, one record tells as much.
        """
        count = 1 if held else flight.cut.num_records // 2
        suspects = flight.cut.num_records - count
        if (rest := view.rest_of(flight)) is None:
            rest = self._split(view, flight, count)
        else:
            view.hand_back(flight, count, rest)
        self._let_lead(flight, rest, suspects)
        for each in (flight, rest):
            each.refusals = 0
            each.served_before = view.served
            view.retry(each, now_ns)

    def _go_on_with_rest(self, view: View, flight: Flight, now_ns: int) -> None:
        """Narrow what is left, as the records before it were not those that fail."""
        if (rest := view.rest_of(flight)) is None:
            return
        suspects, rest.leader = rest.suspects, None
        count = (suspects + 1) // 2
        if not 0 < count < rest.cut.num_records:
            return  # it is tried as it is
        others = self._split(view, rest, count)
        if suspects > count:
            self._let_lead(rest, others, suspects - count)
        view.retry(others, now_ns)

    def _split(self, view: View, flight: Flight, count: int) -> Flight:
        rest = view.split(flight, count, self._engine.next_batch_id())
        self._engine.name_view(rest, view)
        return rest

    def _let_lead(self, flight: Flight, rest: Flight, suspects: int) -> None:
        flight.rest, rest.leader, rest.suspects = rest, flight, suspects

    # One record.

    def _count_failure(self, view: View, flight: Flight, fact: Failed) -> None:
        self._count(view, flight)
        if fact.rejected or (flight.exhausted and self._is_to_blame(view, flight, fact)):
            self._bury(view, flight)
            return
        flight.served_before = view.served
        wait_ns = max(view.serving.wait_ns(flight), fact.retry_after_ns or 0)
        view.retry(flight, fact.at_ns + wait_ns)

    def _count(self, view: View, flight: Flight) -> None:
        """Count a failure of a record by itself: what is behind it need not wait for it."""
        flight.rest = None
        if not flight.failures:
            flight.first_failed_ns = flight.failed_ns
        flight.failures += 1
        flight.verdict = flight.kind, flight.why
        flight.exhausted = view.serving.is_exhausted(flight)

    def _is_to_blame(self, view: View, flight: Flight, fact: Failed) -> bool:
        """Tell whether it is the record that fails, and not all that the agent does."""
        if view.served > flight.served_before:
            return True
        waits = any(self._engine.spilling.has_line(rank) for rank in range(len(view.lanes)))
        return not fact.transient and not waits and view.is_only(flight)

    def settled(self, view: View, flight: Flight, now_ns: int) -> None:
        """Take in that a batch was settled: what failed just before it is to blame."""
        view.served += 1
        view.failed_in_row = 0
        for part in flight.live:
            view.letters.settled(part.partition.name, flight.cut.lane, part.piece.count)
        for other in [each for each in view.precedence.exhausted if each.cut in view.retries]:
            before = other.place < flight.place and other.cut.lane == flight.cut.lane
            if flight.passing and before and not other.queues.isdisjoint(flight.queues):
                self._bury(view, other)
            else:
                view.retries.add(other.cut, due_ns=now_ns)  # now it shows which it was
        self._go_on_with_rest(view, flight, now_ns)

    def nacked(self, view: View, flight: Flight, fact: Finished) -> None:
        """Take the records out of a batch that its agent wants again; the rest is settled.

        Those that it wants again for the same reason stay together.
        """
        groups = [
            (nack, list(rows))
            for nack, rows in itertools.groupby(sorted(fact.nacked), key=fact.nacked.__getitem__)
        ]
        carved = view.carve(flight, [rows for _, rows in groups], self._batch_ids())
        for (nack, _), lone in zip(groups, carved, strict=True):
            lone.why, lone.kind = nack.reason or "nacked", "Nacked"
            self._engine.name_view(lone, view)
            view.count_unsettled(lone)  # as if it had been in the agent's hands
            lone.served_before = view.served
            for part in lone.live:
                self._engine.tally.failed(part.piece)
            view.set_back(lone, fact.at_ns)
            failed = Failed(
                batch_id=lone.cut.batch_id,
                why=lone.why,
                at_ns=fact.at_ns,
                kind="Nacked",
                retry_after_ns=nack.after_ns,
            )
            if lone.live:
                self._count_failure(view, lone, failed)
            else:
                view.forget(lone)
                self._engine.forget([lone.cut.batch_id])

    def _batch_ids(self) -> Iterator[int]:
        return (self._engine.next_batch_id() for _ in itertools.repeat(None))

    # Dead letters.

    def bury_again(self, view: View, now_ns: int) -> None:
        """Write the dead letters again that were not acknowledged."""
        for flight in view.due_burials(now_ns):
            self._begin_burial(view, flight)

    def _bury(self, view: View, flight: Flight) -> None:
        """Let its records become dead letters, unless there are too many."""
        lane = flight.cut.lane
        counts: Counter[TopicPartition] = Counter()
        for part in flight.parts:
            counts[part.partition.name] += part.piece.count
        letters = {name: (count, count) for name, count in counts.items()}
        whys = self.why_not(view.plan.name, lane, letters)
        if not whys:
            flight.refusals = 0
            self._begin_burial(view, flight)
            return
        view.retry(flight, flight.failed_ns)  # some of it goes with its lane
        for name, why in whys.items():
            self._stop(self._engine.partitions.get(name), lane, f"{why}; the latest: {flight.why}")

    def _begin_burial(self, view: View, flight: Flight) -> None:
        view.bury(flight)
        for part in flight.parts:
            self._engine.tally.started(part.piece)
        flight.cut.attempt = flight.failures
        self._commands.append(BuryBatch(flight.cut, *flight.verdict))

    def _not_buried(self, view: View, flight: Flight, fact: Failed) -> None:
        """Let a record wait whose dead letter was not acknowledged."""
        flight.refusals += 1
        flight.held = True
        view.set_back(flight, fact.at_ns)
        view.retry(flight, fact.at_ns + backoff_ns(flight.refusals))

    def why_not(
        self, agent: str, lane: int, letters: Mapping[TopicPartition, tuple[int, int]]
    ) -> dict[TopicPartition, str]:
        """Return for each partition with too many dead letters why its lane stops.

        Args:
            letters: Partition → how many are to be written, among how many records.
        """
        limit = self._engine.views[agent].letters
        whys = {name: limit.why_not(name, lane, *counts) for name, counts in letters.items()}
        return {name: why for name, why in whys.items() if why}

    # Lanes that stop.

    def _stop(self, partition: Partition | None, lane: int, why: str) -> None:
        """Let a lane of a partition go no further; the others do, as if it were not there."""
        if partition is None or lane in partition.stopped:
            return
        partition.stopped[lane] = why
        engine = self._engine
        made_room = False
        for chunk in [each for each in partition.chunks if each.lane == lane]:
            engine.tally.released(chunk)
            made_room |= engine.let_go(partition, chunk)
        for view in engine.views_of(partition.name.topic):
            engine.forget(view.drop_lane(partition, lane))
        engine.spilling.drop(partition, lane)
        if made_room:
            self._commands.append(Resume())


def outcome_of(fact: Failed) -> Outcome:
    """Return what a failure says of the load: something may have had too much of it."""
    if not fact.unavailable or fact.alone:
        return "failed"
    return "unavailable" if fact.retry_after_ns is None else "throttled"
