"""What a run tells its worker, and the worker the run: files in the directory of the run.

The worker is a process of its own that may be killed and started again, so what it must know
lies where each of its lives finds it.
"""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from flowguard.stress.scenario import Scenario

__all__ = ["BEGIN_FILE", "NOTES_FILE", "RUN_VARIABLE", "Brief", "Notes", "read_notes"]

#: The variable that names the directory.
RUN_VARIABLE: Final = "FLOWGUARD_STRESS_RUN"

#: Holds the instant of the beginning in milliseconds since 1970, once it is known.
BEGIN_FILE: Final = "begin"

BRIEF_FILE: Final = "brief.pickle"

#: What the worker notes of itself that no page tells: lines of JSON, of all its lives.
NOTES_FILE: Final = "notes.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """What the worker of a scenario must know.

    Args:
        scenario: What is run, with what the command line changed.
        group: The consumer group, a new one each time.
        prefix: Before the names of the scenario's topics, so that they are nobody else's.
    """

    scenario: Scenario
    group: str
    prefix: str

    @property
    def sink(self) -> str:
        """Return the topic of the results."""
        return f"{self.prefix}results"

    def write(self, directory: Path) -> None:
        """Leave it for the worker; nobody else can write to the directory of a run."""
        (directory / BRIEF_FILE).write_bytes(pickle.dumps(self))

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Return what was left."""
        found = pickle.loads((directory / BRIEF_FILE).read_bytes())
        assert isinstance(found, cls)
        return found


class Notes:
    """What a worker of a run notes for whoever judges it.

    Args:
        directory: Of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / NOTES_FILE
        self._assignments = 0

    def failed(self, lane: str, records: int) -> None:
        """Note that a batch failed."""
        self._write({"failed": records, "lane": lane})

    def assigned(self) -> None:
        """Note that partitions were dealt out; the first time is no rebalance."""
        self._assignments += 1
        if self._assignments > 1:
            self._write({"rebalances": 1})

    def _write(self, note: Mapping[str, Any]) -> None:
        line = json.dumps({"at_ns": time.time_ns(), **note}) + "\n"
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line)  # one write, so that workers do not write into each other's lines


def read_notes(directory: Path) -> list[dict[str, Any]]:
    """Return what workers noted; the last line of one that was killed may be half."""
    file = directory / NOTES_FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    notes = []
    for line in lines:
        try:
            notes.append(json.loads(line))
        except ValueError:
            continue
    return notes
