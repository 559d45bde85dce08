"""One turn of one peer, in a process of its own.

    python -P flowguard/bench/turn.py MODULE RECORDS CONTEXT

leaves the reading in the context's directory: frameworks print what they like.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

__all__ = ["READING_FILE", "main"]

READING_FILE: Final = "reading.json"

OURS: Final = "flowguard.bench.peers.flowguard_"


def take_turn(module: str, records: int, context: dict[str, Any]) -> dict[str, Any]:
    """Set a peer up and let it read."""
    if not module.startswith(OURS):
        leave_flowguard_out()
    from flowguard.bench.meter import Context, Run

    run: Run = import_module(module).setup(Context(**context))
    return asdict(run(records))


def leave_flowguard_out() -> None:
    """Let the meter be imported without all of flowguard, which is not a peer's memory."""
    package = ModuleType("flowguard")
    package.__path__ = [str(Path(__file__).resolve().parent.parent)]
    sys.modules["flowguard"] = package


def main() -> None:
    """Take the turn that the command line describes."""
    _, module, records, text = sys.argv
    context = json.loads(text)
    reading = take_turn(module, int(records), context)
    (Path(context["directory"]) / READING_FILE).write_text(json.dumps(reading))


if __name__ == "__main__":
    main()
