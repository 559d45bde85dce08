"""The live view of a run: in a terminal redrawn once a second, elsewhere plain lines."""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flowguard.stress.moments import LaneMoment, Moment
from flowguard.stress.report import latency, table_of
from flowguard.units import format_size

__all__ = ["LineView", "LiveView", "view_for"]

BAR_CELLS: Final = 40


class LineView:
    """One line a second, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing to put back."""

    def say(self, text: str) -> None:
        """Print what happens now."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def moment(self, moment: Moment) -> None:
        """Print one second."""
        lanes = "  ".join(
            f"{name} {lane.settled_per_s:,.0f}/{lane.offered_per_s:,.0f} per s"
            f" p99 {latency(lane.p99)} waiting {lane.waiting:,}"
            for name, lane in moment.lanes.items()
        )
        rest = [f"memory {memory_text(moment)}", *control_texts(moment), *moment.faults]
        self.say(f"{moment.t:4.0f} s  {lanes}  {'  '.join(rest)}")


class LiveView:
    """The whole picture, redrawn in place."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._status = ""
        self._moment: Moment | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the terminal back."""
        self._live.stop()

    def say(self, text: str) -> None:
        """Show what happens now."""
        self._status = text
        self._draw()

    def moment(self, moment: Moment) -> None:
        """Show one second."""
        self._moment = moment
        self._draw()

    def _draw(self) -> None:
        self._live.update(picture(self._title, self._status, self._moment), refresh=True)


def view_for(console: Console, title: str) -> LineView | LiveView:
    """Return the view that a console can show."""
    return LiveView(console, title) if console.is_terminal else LineView(console)


def picture(title: str, status: str, moment: Moment | None) -> RenderableType:
    """Return everything there is to see."""
    heading = Text.assemble((title, "bold"), "  ", (status, "dim"))
    if moment is None:
        return heading
    control = Text("   ".join(control_texts(moment)), style="dim")
    return Group(
        heading, "", clock_line(moment), "", lane_table(moment), "", memory_line(moment), control
    )


def clock_line(moment: Moment) -> RenderableType:
    """Return how far the run is, and what is going on."""
    what = "; ".join([moment.phase, *moment.faults])
    phase = Text(what, style="bold yellow" if moment.disturbed or moment.faults else "green")
    bar = ProgressBar(total=moment.seconds, completed=moment.t, width=BAR_CELLS)
    return row(Text("time  "), bar, Text(f"{moment.t:.0f} of {moment.seconds:.0f} s"), phase)


def memory_line(moment: Moment) -> RenderableType:
    """Return what feeds hold against their budget."""
    bar = ProgressBar(
        total=moment.memory_budget or 1, completed=moment.memory_used or 0, width=BAR_CELLS
    )
    process = Text(f"process {format_size(moment.rss)}", style="dim")
    return row(Text("memory"), bar, Text(memory_text(moment)), process)


def memory_text(moment: Moment) -> str:
    """Return what feeds hold of their budget, for people."""
    if moment.memory_used is None or moment.memory_budget is None:
        return "unknown"
    return f"{format_size(moment.memory_used)} of {format_size(moment.memory_budget)}"


def control_texts(moment: Moment) -> list[str]:
    """Return what the worker's control loops are at."""
    texts = [
        f"{name}: {agent.get('in_flight')} of {agent.get('limit')} seats"
        for name, agent in moment.agents.items()
    ]
    return [*texts, *([f"ladder: {moment.rung_name}"] if moment.rung_name else [])]


def lane_table(moment: Moment) -> Table:
    """Return one row a lane."""
    table = table_of("lane", "offered/s", "settled/s", "p50", "p99", "target", "waiting")
    for name, lane in moment.lanes.items():
        table.add_row(
            name,
            f"{lane.offered_per_s:,.0f}",
            f"{lane.settled_per_s:,.0f}",
            latency(lane.p50),
            Text(latency(lane.p99), style=p99_style(lane)),
            latency(lane.target),
            f"{lane.waiting:,}",
        )
    return table


def p99_style(lane: LaneMoment) -> str:
    """Return green within the target, red beyond it, nothing without one."""
    if lane.target is None or lane.p99 is None:
        return ""
    return "green" if lane.p99 <= lane.target else "bold red"


def row(*cells: RenderableType) -> Table:
    """Return cells beside each other."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row(*cells)
    return grid
