"""What a run tells its worker: a file in the directory of the run.

The worker is a process of its own that may be killed and started again, so what it must know
lies where each of its lives finds it.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from flowguard.stress.scenario import Scenario

__all__ = ["BEGIN_FILE", "RUN_VARIABLE", "Brief"]

#: The variable that names the directory.
RUN_VARIABLE: Final = "FLOWGUARD_STRESS_RUN"

#: Holds the instant of the beginning in milliseconds since 1970, once it is known.
BEGIN_FILE: Final = "begin"

BRIEF_FILE: Final = "brief.pickle"


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
