"""Delete from spill directories, whether a worker has them or not.

    survey ─▶ plan: what is chosen, what cannot be told ─▶ somebody agrees ─▶ purge

- Whole files go: segments, and what is in quarantine. A segment that has some records of a
  topic goes with all that it has; whatever is not finished is read from Kafka again.
- Nothing else is ever touched: no file of others, no link, no segment of a later format.
- A worker may have the slot. It notices within a second what is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from flowguard.spill.findings import Held, SegmentReport, SlotReport, Unread
from flowguard.spill.inspection import said
from flowguard.spill.layout import lane_in_name
from flowguard.spill.ports import Entry, FileSystem
from flowguard.spill.quarantine import QUARANTINE_NAME
from flowguard.spill.slot import app_directory

__all__ = ["Choice", "Doomed", "Plan", "plan_purge", "purge"]

LATER_FORMAT: Final = "it is of a later format; the version that wrote it can purge it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to delete: what agrees with all that is given.

    Args:
        lanes: Names; none means all.
        topics: Each with a partition, or None for all of its partitions.
        apps: Ids.
        older_than_ms: Since nothing was written to the file.
    """

    lanes: tuple[str, ...] = ()
    topics: tuple[tuple[str, int | None], ...] = ()
    apps: tuple[str, ...] = ()
    older_than_ms: int = 0


class Doomed(NamedTuple):
    """A file that is to go.

    Args:
        name: In the slot; in quarantine with that directory.
        lane: Empty if it cannot be told.
        records: In frames that can be read.
    """

    slot: SlotReport
    name: str
    num_bytes: int
    lane: str
    records: int
    held: list[Held]

    @property
    def path(self) -> str:
        """Return where it is."""
        return f"{self.slot.directory}/{self.name}"


@dataclass(slots=True)
class Plan:
    """What is to be deleted.

    Args:
        kept: What may have been meant, and why it stays.
    """

    doomed: list[Doomed] = field(default_factory=list)
    kept: list[Unread] = field(default_factory=list)

    @property
    def num_bytes(self) -> int:
        """Return how much it is."""
        return sum(each.num_bytes for each in self.doomed)


def plan_purge(slots: list[SlotReport], choice: Choice, *, epoch_ms: int) -> Plan:
    """Return what is chosen of what was found by `inspect_slot`."""
    plan = Plan()
    before_ms = epoch_ms - choice.older_than_ms
    apps = {app_directory("", app)[1:] for app in choice.apps}
    for slot in slots:
        if apps and slot.app not in apps:
            continue
        for segment in slot.segments:
            if choice.older_than_ms and segment.written_ms > before_ms:
                continue
            if choice.lanes and not _of_lane(segment, choice.lanes):
                continue
            why = _unsure(segment, choice)
            if why:
                plan.kept.append(Unread(f"{slot.directory}/{segment.name}", why))
            elif why is not None:
                plan.doomed.append(
                    Doomed(slot, segment.name, segment.num_bytes, segment.lane,
                           segment.records, segment.held)
                )  # fmt: skip
        for entry in slot.quarantined:
            _choose_quarantined(plan, slot, entry, choice, before_ms)
    return plan


def _of_lane(segment: SegmentReport, lanes: tuple[str, ...]) -> bool:
    if segment.known:
        return segment.lane in lanes
    return lane_in_name(segment.name, lanes)


def _unsure(segment: SegmentReport, choice: Choice) -> str | None:
    """Return why a segment stays that may be meant; empty: it goes; None: it is not meant."""
    if segment.status == "newer":
        return LATER_FORMAT
    if not choice.topics:
        return ""
    if any(_meant(held, choice.topics) for held in segment.held):
        return ""
    if segment.encrypted:
        return "its topics are encrypted; choose it by its lane"
    if not segment.known:
        return "its topics cannot be read; choose it by its lane"
    if segment.whole and not segment.torn:
        return None
    return "a part of it is damaged or just written, which may be of any topic"


def _meant(held: Held, topics: tuple[tuple[str, int | None], ...]) -> bool:
    return any(
        held.topic == topic and partition in (None, held.partition) for topic, partition in topics
    )


def _choose_quarantined(
    plan: Plan, slot: SlotReport, entry: Entry, choice: Choice, before_ms: int
) -> None:
    name = f"{QUARANTINE_NAME}/{entry.name}"
    if choice.older_than_ms and entry.modified_ms > before_ms:
        return
    if choice.lanes and not lane_in_name(entry.name, choice.lanes):
        return
    if choice.topics:
        why = "its topics cannot be read; choose it by its lane"
        plan.kept.append(Unread(f"{slot.directory}/{name}", why))
        return
    plan.doomed.append(Doomed(slot, name, entry.num_bytes, "", 0, []))


def purge(filesystem: FileSystem, plan: Plan) -> tuple[list[Doomed], list[Unread]]:
    """Delete what is planned; return what is deleted, and what cannot be.

    What its worker has deleted meanwhile is in neither.
    """
    deleted, failed = [], []
    for each in plan.doomed:
        try:
            filesystem.unlink(each.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            failed.append(Unread(each.path, said(error)))
        else:
            deleted.append(each)
    return deleted, failed
