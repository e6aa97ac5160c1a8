"""What the live view of a drill says: a line, and on a terminal a table and the flows that are not up.

Pure functions of a `WallState`; where and how often it is shown is `wall.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from probe.drill.status import FlowKey, FlowStatus, Poll

Phase = Literal["steady", "trigger", "recovery", "collect"]

RATE_SPAN_NS = 1_000_000_000

# State to (symbol, style). The symbol carries the meaning without colour as well.
_SIGNS: Mapping[str, tuple[str, str]] = {
    "up": ("●", "green"),
    "suspect": ("◐", "yellow"),
    "down": ("✖", "bold red"),
    "ended": ("■", "bold magenta"),
    "connecting": ("○", "cyan"),
}
_UNKNOWN = ("?", "yellow")
_WORST_FIRST = ("down", "ended", "suspect", "connecting", "up")
_PROTOCOLS = ("icmp", "udp", "tcp", "stream")
_UNSORTED = 12  # rows that stay in the order of the agents
_NAMED = 20  # flows that are not up, at most


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
    before: Mapping[FlowKey, FlowStatus] | None = None  # as it was before the trigger; None: not triggered yet
    blind: tuple[str, ...] = ()  # "aws: timeout"
    answered_pps: float | None = None  # of all flows; None: not known yet

    def count(self, state: str) -> int:
        """Flows in a state."""
        return sum(flow.state == state for flow in self.flows)


def plain_line(state: WallState) -> str:
    """The state of a drill in one line without markup."""
    parts = [_headline(state)]
    if state.phase != "steady" and state.flows:
        counts = {name: state.count(name) for name in ("up", "suspect", "down", "ended", "connecting")}
        parts.append(", ".join(f"{n} {name}" for name, n in counts.items() if n))
    if state.answered_pps is not None:
        parts.append(f"{state.answered_pps:,.0f} answers/s")
    if state.phase in ("recovery", "trigger") and state.owner is not None:
        parts.append(f"active unit {state.owner or 'changing'}")
    if state.phase == "recovery" and state.held_s > 0:
        parts.append(f"recovered for {min(state.held_s, state.needed_s):.1f}/{state.needed_s:.1f} s")
    if state.silent_agents:
        parts.append("no answer from " + ", ".join(state.silent_agents))
    if state.note:
        parts.append(state.note)
    return "  ".join(part for part in parts if part)


def render(state: WallState, lines: int = 24) -> RenderableType:
    """The state of a drill for a terminal of so many lines.

    The headline, a line per path and protocol with old and new sessions side by side, and the flows that are not up.
    What is worst comes first; what does not fit is counted.
    """
    parts: list[RenderableType] = [Text(plain_line(state), style="bold", overflow="fold")]
    parts += [
        Text(f"watcher blind: {reason}", style="yellow", overflow="ellipsis", no_wrap=True) for reason in state.blind
    ]
    if not state.flows:
        return Group(*parts)
    rows = _rows(state)
    # The headline may take two lines, the table's head takes one, and the cursor stands on the last.
    room = max(3, lines - len(parts) - 4)
    parts.append(_table(state, rows[:room]))
    if len(rows) > room:
        parts.append(_remainder(rows[room:]))
    parts += _not_up(state, min(_NAMED, room - len(rows)))
    return Group(*parts)


Row = tuple[str, str, tuple[FlowStatus, ...]]
"""Path, kind, and the flows of both."""


def _rows(state: WallState) -> list[Row]:
    """A row per path and kind, the worst state first, else in the order of the agents."""
    cells: dict[tuple[str, str], list[FlowStatus]] = {}
    for flow in state.flows:
        cells.setdefault((flow.path, flow.kind), []).append(flow)
    paths = list(dict.fromkeys(flow.path for flow in state.flows))
    order = {kind: place for place, kind in enumerate(_PROTOCOLS)}
    ordered = sorted(cells, key=lambda key: (paths.index(key[0]), order.get(key[1], 9), key[1]))
    rows = [(path, kind, tuple(cells[path, kind])) for path, kind in ordered]
    return sorted(rows, key=lambda row: _rank(row[2])) if len(rows) > _UNSORTED else rows


def _rank(flows: tuple[FlowStatus, ...]) -> int:
    return min(map(_badness, flows))


def _badness(flow: FlowStatus) -> int:
    # A newer agent may know states that this drill does not: they stand first.
    return _WORST_FIRST.index(flow.state) if flow.state in _WORST_FIRST else -1


def _table(state: WallState, rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("path", max_width=30, no_wrap=True, overflow="ellipsis")
    for name in ("probe", "old", "new"):
        table.add_column(name, no_wrap=True)
    for name in ("outages", "lost") if state.before is not None else ():
        table.add_column(name, justify="right", no_wrap=True)
    for path, kind, flows in rows:
        kept, fresh = (_cell([f for f in flows if f.session == session]) for session in ("kept", "fresh"))
        table.add_row(Text(path), kind, kept, fresh, *_since(state, flows))
    return table


def _since(state: WallState, flows: tuple[FlowStatus, ...]) -> list[str]:
    """Outages and lost probes since the trigger."""
    if state.before is None:
        return []
    pairs = [(flow, state.before.get(flow.key, flow)) for flow in flows]
    counted = (
        sum(now.outages - then.outages for now, then in pairs),
        sum(now.counts.lost - then.counts.lost for now, then in pairs),
    )
    return [f"{n:,}" if n else "–" for n in counted]


def _remainder(rows: list[Row]) -> Text:
    flows = [flow for _, _, members in rows for flow in members]
    counts = Counter(flow.state for flow in sorted(flows, key=_badness))
    told = ", ".join(f"{n} {word}" for word, n in counts.items())
    return Text(f"and {len(rows)} more: {told}", style="dim")


def _not_up(state: WallState, room: int) -> list[Text]:
    """The flows that are not up, by name, as far as there is room."""
    flows = sorted((f for f in state.flows if f.state != "up"), key=_badness)
    if not flows or room < 1:
        return []
    shown = flows if len(flows) <= room else flows[: room - 1]
    told = []
    for flow in shown:
        symbol, style = _SIGNS.get(flow.state, _UNKNOWN)
        silent = f", nothing for {flow.silent_ns / 1e9:.1f} s" if flow.silent_ns else ""
        detail = f", {flow.detail}" if flow.detail else ""
        words = f"{symbol} {flow.agent}/{flow.name} {flow.state}{silent}{detail}"
        told.append(Text(words, style=style, overflow="ellipsis", no_wrap=True))
    if len(shown) < len(flows):
        told.append(Text(f"and {len(flows) - len(shown)} more that are not up", style="dim"))
    return told


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


def _cell(flows: list[FlowStatus]) -> Text:
    """The worst state of some flows, and of how many of them it is true."""
    if not flows:
        return Text("–", style="dim")
    worst = min(flows, key=_badness).state
    symbol, style = _SIGNS.get(worst, _UNKNOWN)
    same = sum(flow.state == worst for flow in flows)
    share = "" if len(flows) == 1 else f"{same} " if same == len(flows) else f"{same} of {len(flows)} "
    return Text(f"{symbol} {share}{worst}", style=style)


class AnswerRate:
    """Answers per second of all flows, from poll to poll."""

    def __init__(self) -> None:
        self._last: Poll | None = None
        self._pps: float | None = None

    def update(self, poll: Poll) -> float | None:
        """The rate up to this poll; None until there were two. Polls that come close together share one figure."""
        last = self._last
        if last is None:
            self._last = poll
        elif poll.mono_ns - last.mono_ns >= RATE_SPAN_NS:
            before = last.by_key
            answered = sum(_answered(f) - _answered(before[f.key]) for f in poll.flows if f.key in before)
            self._pps = max(0.0, answered / (poll.mono_ns - last.mono_ns) * 1e9)
            self._last = poll
        return self._pps


def _answered(flow: FlowStatus) -> int:
    return flow.counts.received + flow.counts.late
