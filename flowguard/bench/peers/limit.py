"""The limit: a blocking socket that receives and looks at nothing but batch headers.

No group, no commits, no records: whoever reads records through this broker and this
loopback cannot be faster.
"""

from __future__ import annotations

from flowguard.bench.meter import Context, Meter, Reading, Run
from flowguard.bench.wire import fetch, links_of

__all__ = ["setup"]


def setup(context: Context) -> Run:
    """Connect to the leaders."""
    links = links_of({int(partition): at for partition, at in context.leaders.items()})
    offsets = [dict.fromkeys(partitions, 0) for _, partitions in links]

    def run(n: int) -> Reading:
        meter = Meter(n)
        while True:
            for (link, _), at in zip(links, offsets, strict=True):
                if meter.add(fetch(link, context.topic, rotated(at))):
                    return meter.reading

    return run


def rotated(offsets: dict[int, int]) -> dict[int, int]:
    """Move the partition asked for first to the end: the broker fills a response in order."""
    first = next(iter(offsets))
    offsets[first] = offsets.pop(first)
    return offsets
