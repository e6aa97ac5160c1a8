"""The live view of a drill: a small table on a terminal, one plain line a second elsewhere, nothing with -q.

`render` and `plain_line` are pure functions of a `WallState`; `Wall` only decides where and how often.
Everything goes to stderr: results own stdout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from probe.drill.status import FlowStatus

Phase = Literal["steady", "trigger", "recovery", "collect"]

PLAIN_LINE_GAP_S = 1.0

# State to (symbol, style). The symbol carries the meaning without colour as well.
_SIGNS: Mapping[str, tuple[str, str]] = {
    "up": ("●", "green"),
    "suspect": ("◐", "yellow"),
    "down": ("✖", "bold red"),
    "ended": ("■", "bold magenta"),
    "connecting": ("○", "cyan"),
}
_WORST_FIRST = ("down", "ended", "suspect", "connecting", "up")
_PROTOCOLS = ("icmp", "udp", "tcp")


@dataclass(frozen=True, slots=True)
class WallState:
    """All that the live view shows."""

    phase: Phase
    elapsed_s: float  # of the phase; in recovery and after: since the trigger
    total_s: float = 0.0  # of the phase, where it is known
    flows: tuple[FlowStatus, ...] = ()
    owner: str | None = None  # active unit; "" while it is between two units; None: nobody watches
    note: str = ""
    silent_agents: tuple[str, ...] = ()
    held_s: float = 0.0  # how long the recovery holds; of `needed_s`
    needed_s: float = 0.0

    def count(self, state: str) -> int:
        """Flows in a state."""
        return sum(flow.state == state for flow in self.flows)


def plain_line(state: WallState) -> str:
    """The state of a drill in one line without markup."""
    parts = [_headline(state)]
    if state.phase != "steady" and state.flows:
        counts = {name: state.count(name) for name in ("up", "suspect", "down", "ended", "connecting")}
        parts.append(", ".join(f"{n} {name}" for name, n in counts.items() if n))
    if state.phase in ("recovery", "trigger") and state.owner is not None:
        parts.append(f"active unit {state.owner or 'changing'}")
    if state.phase == "recovery" and state.held_s > 0:
        parts.append(f"recovered for {min(state.held_s, state.needed_s):.1f}/{state.needed_s:.1f} s")
    if state.silent_agents:
        parts.append("no answer from " + ", ".join(state.silent_agents))
    if state.note:
        parts.append(state.note)
    return "  ".join(part for part in parts if part)


def render(state: WallState) -> RenderableType:
    """The state of a drill for a terminal: the headline, then path by protocol, old and new session side by side."""
    headline = Text(plain_line(state), style="bold", overflow="fold")
    if not state.flows or state.phase in ("steady", "collect"):
        return headline
    protocols = [p for p in _PROTOCOLS if any(f.protocol == p for f in state.flows)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("path")
    for protocol in protocols:
        table.add_column(f"{protocol} kept")
        table.add_column(f"{protocol} fresh")
    for path in dict.fromkeys(flow.path for flow in state.flows):
        cells = [_cell(state.flows, path, protocol, s) for protocol in protocols for s in ("kept", "fresh")]
        table.add_row(Text(path), *cells)
    return Group(headline, table)


def _headline(state: WallState) -> str:
    if state.phase == "steady":
        held = f"steady {min(state.elapsed_s, state.total_s):.1f}/{state.total_s:.1f} s"
        return f"{held}, {_flows(len(state.flows))} {_up(state)}"
    if state.phase == "trigger":
        return f"waiting for the trigger {state.elapsed_s:.0f} s"
    if state.phase == "recovery":
        return f"trigger +{state.elapsed_s:.1f} s"
    return f"collecting {state.elapsed_s:.1f} s"


def _flows(count: int) -> str:
    return f"{count} flow" + ("" if count == 1 else "s")


def _up(state: WallState) -> str:
    up = state.count("up")
    return "up" if up == len(state.flows) else f"({up} up)"


def _cell(flows: tuple[FlowStatus, ...], path: str, protocol: str, session: str) -> Text:
    states = {flow.state for flow in flows if (flow.path, flow.protocol, flow.session) == (path, protocol, session)}
    worst = next((state for state in _WORST_FIRST if state in states), None)
    if worst is None:
        return Text("–", style="dim")
    symbol, style = _SIGNS[worst]
    return Text(f"{symbol} {worst}", style=style)


class Wall:
    """Where the live view goes. A context manager; `say` and `show` work inside and outside of it.

    Args:
        console: On stderr.
        quiet: Show nothing at all; warnings still come through `warn`.
        now: Seconds, only for spacing plain lines.
    """

    def __init__(
        self, console: Console | None = None, *, quiet: bool = False, now: Callable[[], float] = time.monotonic
    ):
        self.console = console or Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._now = now
        self._live: Live | None = None
        self._last_line_s = float("-inf")
        self._last_phase = ""

    def __enter__(self) -> Self:
        if not self._quiet and self.console.is_terminal:
            # Redrawn when a new state comes, not from a thread of its own.
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rest()

    def rest(self) -> None:
        """Take the live view away, so that what follows is not drawn over."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """One line that stays."""
        if not self._quiet:
            self._print(Text(text))

    def warn(self, text: str) -> None:
        """One line that stays and comes through -q as well: the result cannot be read without it."""
        self._print(Text(text, style="bold red"))

    def show(self, state: WallState) -> None:
        """The newest state: at once on a terminal, at most once a second as lines."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(render(state), refresh=True)
            return
        if state.phase == self._last_phase and self._now() - self._last_line_s < PLAIN_LINE_GAP_S:
            return
        self._last_phase, self._last_line_s = state.phase, self._now()
        self._print(Text(plain_line(state)))

    def _print(self, text: Text) -> None:
        # soft_wrap: a log line stays one line however narrow the terminal is said to be.
        self.console.print(text, soft_wrap=True)
