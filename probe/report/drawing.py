"""Geometry of the report's timeline drawing: document in, positions out. No markup.

Horizontal positions are percent of the plot's width, so that the drawing fits a phone and a wide screen without
scripting; vertical ones are pixels within a flow's lane. Every item also carries its time in seconds from the origin,
from which the page's script computes positions anew when a person zooms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probe.core.verdict import shown
from probe.report import phrases as say
from probe.report.listing import FEW, broken, found_by, worst_first

LANE = 22  # px per flow
LABEL_ROW = 16  # px per row of event labels
_LABEL_PERCENT_PER_CHAR = 0.75  # of the plot, at its narrowest width that shows labels as words
_FOCUS_BELOW = 0.5  # an incident shorter than this share of the run is shown enlarged at first


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of time on a flow's lane."""

    kind: str  # "ok" | "outage" | "bounds" | "unobserved"
    side: str  # "both" | "forward" | "reverse"
    x: float  # percent
    width: float  # percent
    start_s: float
    end_s: float
    y: int  # px from the top of its lane
    height: int  # px
    title: str
    outage: int | None = None  # of its flow, in the document


@dataclass(frozen=True, slots=True)
class Lane:
    """One flow."""

    label: str
    title: str
    index: int  # of the flow in the document
    find: str  # the words it is found by
    folded: bool  # shown only when asked for: its path has many
    bars: tuple[Bar, ...]
    end: tuple[float, float, str] | None  # percent, seconds and words of the session's end


@dataclass(frozen=True, slots=True)
class Group:
    """One path with its flows."""

    path: str
    lanes: tuple[Lane, ...]
    folded: str  # what its folded lanes are, in words; empty where none is


@dataclass(frozen=True, slots=True)
class Mark:
    """One HA event: a line through all lanes, a band for its uncertainty, a number and a label."""

    number: int
    x: float
    at_s: float
    band: tuple[float, float, float, float]  # x and width in percent, start and end in seconds
    label: str
    title: str
    kind: str  # "trigger" | "role" | "cloud" | "watcher"
    row: int
    flip: bool  # label to the left of the line


@dataclass(frozen=True, slots=True)
class Tick:
    """One division of the time axis."""

    x: float
    relative: str
    utc: str
    major: bool  # labelled with UTC, and on narrow screens as well
    anchor: str  # "start" | "middle" | "end": labels at the edges stay inside


@dataclass(frozen=True, slots=True)
class Drawing:
    """All of it. `view` and `full` in seconds from the origin."""

    groups: tuple[Group, ...]
    marks: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    origin_ns: int
    view: tuple[float, float]
    full: tuple[float, float]
    label_rows: int
    long_names: bool  # lanes are named by flow, not by protocol alone


class _Scale:
    """Nanoseconds to seconds from the origin and to percent of the view."""

    def __init__(self, zero_ns: int, view: tuple[float, float]):
        self.zero_ns = zero_ns
        self.view = view

    def seconds(self, ns: int) -> float:
        return (ns - self.zero_ns) / 1e9

    def percent(self, ns: int) -> float:
        start, end = self.view
        return round((self.seconds(ns) - start) / (end - start) * 100, 4)

    def span(self, start_ns: int, end_ns: int) -> tuple[float, float, float, float]:
        """Percent position and width, clipped just outside the view, and both ends in seconds."""
        left = min(max(self.percent(start_ns), -1.0), 101.0)
        right = min(max(self.percent(end_ns), -1.0), 101.0)
        return left, round(right - left, 4), self.seconds(start_ns), self.seconds(end_ns)


def draw(document: Mapping[str, Any], numbers: Mapping[int, say.Line]) -> Drawing:
    """Lay out a document.

    Args:
        document: A complete result document.
        numbers: The events to draw as lines, by the number that the page's timeline table gives them.
    """
    zero = say.origin_ns(document)
    run = document["run"]
    full = _full(document, zero)
    scale = _Scale(zero, _view(document, zero, full))
    marks, rows = _marks(numbers, scale)
    groups = _groups(document, scale, (run["started_ns"], max(int(run["ended_ns"]), zero + int(full[1] * 1e9))))
    return Drawing(
        groups=groups,
        marks=marks,
        ticks=_ticks(scale),
        origin_ns=zero,
        view=scale.view,
        full=full,
        label_rows=rows,
        long_names=any(len(lane.label) > 10 for group in groups for lane in group.lanes),
    )


def _full(document: Mapping[str, Any], zero: int) -> tuple[float, float]:
    """The whole run; where its ends are missing or wrong, whatever was measured."""
    times = [document["run"]["started_ns"] or zero, document["run"]["ended_ns"] or zero]
    times += [o[key] for f in document["flows"] for o in f["outages"] for key in ("start_ns", "end_ns")]
    start, end = (min(times) - zero) / 1e9, (max(times) - zero) / 1e9
    return (start, end) if end > start else (start, start + 1.0)


def _view(document: Mapping[str, Any], zero: int, full: tuple[float, float]) -> tuple[float, float]:
    """The part to show at first: from the first sign to the last recovery with a margin, or all of a short run."""
    signs = [o["start_ns"] for f in document["flows"] for o in f["outages"]]
    signs += [o["end_ns"] for f in document["flows"] for o in f["outages"] if o["censored"] != "end"]
    signs += [e["at_ns"] for e in document["timeline"] if e["event"] in say.HA_EVENTS]
    if not signs:
        return full
    start, end = (min(signs) - zero) / 1e9, (max(signs) - zero) / 1e9
    margin = max(0.15 * (end - start), 0.05)
    start, end = max(full[0], start - margin), min(full[1], end + 2 * margin)
    return (start, end) if 0 < end - start < _FOCUS_BELOW * (full[1] - full[0]) else full


def _groups(document: Mapping[str, Any], scale: _Scale, run: tuple[int, int]) -> tuple[Group, ...]:
    places = {id(flow): index for index, flow in enumerate(document["flows"])}
    named = say.naming(document)
    groups = []
    for path, flows in say.by_path(document).items():
        ordered = worst_first(flows)
        lanes = tuple(
            _lane(flow, _lane_label(flow, flows, named), places[id(flow)], scale, run, folded=place >= FEW)
            for place, flow in enumerate(ordered)
        )
        groups.append(Group(path, lanes, _folded(ordered[FEW:])))
    return tuple(groups)


def _folded(flows: Sequence[Mapping[str, Any]]) -> str:
    """`48 more flows, none worse than survived`, the flows in order of badness."""
    if not flows:
        return ""
    worst = shown(flows[0]["verdict"], flows[0]["session"] == "fresh")
    bad = sum(map(broken, flows))
    rest = f"{bad} of them {'is' if bad == 1 else 'are'} not well either" if bad else f"none worse than {worst}"
    return f"{len(flows)} more {'flow' if len(flows) == 1 else 'flows'}, {rest}"


def _lane_label(flow: Mapping[str, Any], beside: Sequence[Mapping[str, Any]], named: say.Naming) -> str:
    """Protocol and session say enough unless several flows of a path share them."""
    kind = (say.kind(flow), flow["session"])
    alike = sum((say.kind(f), f["session"]) == kind for f in beside)
    if alike > 1:
        return named(flow)
    if say.is_stream(flow):
        return "stream"
    return f"{flow['protocol'].upper()} {'old' if flow['session'] == 'kept' else 'new'}"


def _lane(
    flow: Mapping[str, Any], label: str, index: int, scale: _Scale, run: tuple[int, int], *, folded: bool
) -> Lane:
    title = f"{flow['name']}: {flow['verdict']}"
    bars = [Bar("ok", "both", *scale.span(*span), 5, LANE - 10, title) for span in answered(flow, run)]
    for place, outage in enumerate(flow["outages"]):
        bars += _outage(flow, outage, place, scale)
    for stall in say.stalls(flow):
        title = f"{flow['name']}: frozen for {say.duration(stall['duration_ns'])} from {say.utc(stall['start_ns'])} UTC"
        bars.append(Bar("outage", "both", *scale.span(stall["start_ns"], stall["end_ns"]), 2, LANE - 4, title))
    for span in flow["unobserved"]:
        length = say.duration(span["end_ns"] - span["start_ns"])
        title = f"{flow['name']}: unobserved for {length} ({span['cause'].replace('_', ' ')})"
        bars.append(Bar("unobserved", "both", *scale.span(span["start_ns"], span["end_ns"]), 2, LANE - 4, title))
    ended = flow["session_end"] or {}
    end = None
    if ended.get("cause", "none") not in ("none", "silent") and ended["at_ns"]:
        how = ended["cause"].upper() + say.sent_by(ended)
        words = f"{flow['name']}: session ended by {how} at {say.utc(ended['at_ns'])} UTC"
        end = (scale.percent(ended["at_ns"]), scale.seconds(ended["at_ns"]), words)
    title = f"{say.label(flow)} to {flow['target']}: {flow['verdict']}"
    return Lane(label, title, index, found_by(flow), folded, tuple(bars), end)


def answered(flow: Mapping[str, Any], run: tuple[int, int]) -> list[tuple[int, int]]:
    """What is left of a run (both in ns) outside a flow's outages and unobserved time.

    While one direction is dark nothing tells about the other, so neither is drawn as answered.
    """
    gone = [(o["edges_ns"]["last_ok"] or o["start_ns"], o["end_ns"]) for o in flow["outages"]]
    gone += [(u["start_ns"], u["end_ns"]) for u in flow["unobserved"]]
    for stall in say.stalls(flow):
        gone.append((stall["start_ns"], run[1] if stall["censored"] == "end" else stall["end_ns"]))
    # An outage that is still open was dark to the last settled probe; the rest of the run is not known to be better.
    gone += [(o["start_ns"], run[1]) for o in flow["outages"] if o["censored"] == "end"]
    spans, at = [], run[0]
    for start, end in sorted(gone):
        if start > at:
            spans.append((at, start))
        at = max(at, end)
    return [*spans, (at, run[1])] if at < run[1] else spans


def _outage(flow: Mapping[str, Any], outage: Mapping[str, Any], place: int, scale: _Scale) -> list[Bar]:
    """The time certainly lost, on a paler bar that reaches to the answered probes around it."""
    side = {"round_trip": "both"}.get(outage["direction"], outage["direction"])
    height = LANE - 4 if side == "both" else (LANE - 4) // 2
    top = 2 + (height if side == "reverse" else 0)
    edges = outage["edges_ns"]
    _, word = say.DIRECTIONS[outage["direction"]]
    title = (
        f"{flow['name']}: {word} outage, {say.estimate(outage)} ({say.bounds(outage)}), "
        f"{outage['lost']} probes lost, from {say.utc(outage['start_ns'])} UTC"
    )
    outer = (edges["last_ok"] or edges["first_lost"], edges["first_ok"] or edges["last_lost"])
    inner = (edges["first_lost"], edges["last_lost"])
    return [
        Bar("bounds", side, *scale.span(*outer), top, height, title, place),
        Bar("outage", side, *scale.span(*inner), top, height, title, place),
    ]


_KINDS = {"trigger": "trigger", "heartbeat_lost": "role", "role_change": "role"}
_KINDS |= {"watcher_down": "watcher", "watcher_up": "watcher"}


def _marks(numbers: Mapping[int, say.Line], scale: _Scale) -> tuple[tuple[Mark, ...], int]:
    """Marks with their labels spread over as few rows as keep them apart; and the number of rows."""
    taken: list[float] = []  # right end of the last label of each row, percent
    marks = []
    for number, line in sorted(numbers.items(), key=lambda item: item[1].at_ns):
        x = scale.percent(line.at_ns)
        label = short_label(line)
        width = (len(label) + 4) * _LABEL_PERCENT_PER_CHAR
        flip = x + width > 100 and x - width >= 0
        left, right = (x - width, x) if flip else (x, x + width)
        row = next((i for i, end in enumerate(taken) if end <= left), len(taken))
        taken[row:] = [right, *taken[row + 1 :]]
        band = scale.span(line.at_ns - line.uncertainty_ns, line.at_ns + line.uncertainty_ns)
        when = f"{say.utc(line.at_ns)} UTC" + (f" ± {say.duration(line.uncertainty_ns)}" if line.uncertainty_ns else "")
        kind = _KINDS.get(line.event, "cloud")
        title = f"{number}: {line.text}, {when}"
        marks.append(Mark(number, x, scale.seconds(line.at_ns), band, label, title, kind, row, flip))
    return tuple(marks), max(len(taken), 1)


def short_label(line: say.Line) -> str:
    """An event in a few words: the table has the rest."""
    text = line.text.split(" moved")[0] if "moved" in line.text else line.text
    if line.event == "trigger":
        return "trigger"
    if line.event == "heartbeat_lost":
        return "heartbeat lost"
    text = text.replace(" becomes ", " ")
    if line.event == "route_moved":
        text = text.split(" in ")[0]
    return text if len(text) <= 28 else text[:27] + "…"


def _ticks(scale: _Scale) -> tuple[Tick, ...]:
    start, end = scale.view
    step = nice_step((end - start) / 9)
    places = decimals(step)
    ticks = []
    for n in range(math.ceil(start / step), math.floor(end / step) + 1):
        at_ns = scale.zero_ns + round(n * step * 1e9)
        shown = f"{n * step:+.{places}f} s" if n else "0"
        x = scale.percent(at_ns)
        anchor = "start" if x < 2 else "end" if x > 98 else "middle"
        ticks.append(Tick(x, shown, say.utc(at_ns), n % 2 == 0, anchor))
    return tuple(ticks)


def decimals(step: float) -> int:
    """Digits after the point that tell multiples of a step apart."""
    return max(0, -math.floor(math.log10(step) + 1e-9))


def nice_step(size: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `size`."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= size * (1 - 1e-9))
