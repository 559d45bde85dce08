"""One turn of one peer, in a process of its own.

    python -m flowguard.bench.turn NAME RECORDS CONTEXT

leaves the reading in the context's directory: frameworks print what they like.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Final

from flowguard.bench.meter import Context, Reading, Run
from flowguard.bench.peers import MODULES

__all__ = ["READING_FILE", "main", "take_turn"]

READING_FILE: Final = "reading.json"


def take_turn(name: str, records: int, context: Context) -> Reading:
    """Set a peer up and let it read."""
    run: Run = import_module(f"flowguard.bench.peers.{MODULES[name]}").setup(context)
    return run(records)


def main() -> None:
    """Take the turn that the command line describes."""
    _, name, records, text = sys.argv
    context = Context(**json.loads(text))
    reading = take_turn(name, int(records), context)
    (Path(context.directory) / READING_FILE).write_text(json.dumps(asdict(reading)))


if __name__ == "__main__":
    main()
