"""How long each flow was away on both sides of a comparison: documents in, positions and words out. No markup.

Horizontal positions are percent of the plot's width. A flow has two lanes, whatever the number of runs: a bar to the
median of its longest absences, and over it, per run, the bounds between which that absence lay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probe.report import phrases as say
from probe.report.compare import summary_of, words
from probe.report.drawing import decimals, nice_step

Document = Mapping[str, Any]
Flow = Mapping[str, Any]
Key = tuple[str, str, str, str]
"""Path, AGENT/NAME, protocol, session."""

SIDES = ("baseline", "candidate")
_TICKS = 6
_HAIR = 0.05  # percent: what has no width would not be drawn
_MARGIN = 1.04  # of the scale beyond the longest absence, so that its upper bound is seen


@dataclass(frozen=True, slots=True)
class Bounds:
    """One run's longest absence of a flow."""

    x: float  # percent: lower bound
    width: float  # percent: to the upper bound, where one is known
    open: bool
    title: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One flow on one side."""

    side: str
    bar: float  # percent; 0 where no absence ended
    bounds: tuple[Bounds, ...]
    words: str


@dataclass(frozen=True, slots=True)
class Pair:
    """One flow on both sides."""

    label: str
    kind: str
    lanes: tuple[Lane, Lane]


@dataclass(frozen=True, slots=True)
class Lengths:
    """All of it. Flows without an outage on either side are not drawn but named."""

    paths: dict[str, list[Pair]]
    ticks: tuple[tuple[float, str], ...]  # percent, label
    quiet: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """One outage of one run, as the table of all outages has it."""

    label: str
    side: str
    run: str
    outage: Mapping[str, Any]


def lay_out(baseline: Sequence[Document], candidate: Sequence[Document]) -> Lengths:
    """Every flow of either set of result documents, in the order the baseline shows them."""
    sides = (_flows(baseline), _flows(candidate))
    keys = list(dict.fromkeys([*sides[0], *sides[1]]))
    ends = [a.upper_ns or a.lower_ns for flows in sides for runs in flows.values() for a in map(_away, runs)]
    scale_ns = max(ends, default=0) * _MARGIN
    paths: dict[str, list[Pair]] = {}
    quiet = []
    for path, label, protocol, session in keys:
        of_side = [flows.get((path, label, protocol, session), []) for flows in sides]
        if all(runs and all(_is_quiet(flow) for _, flow in runs) for runs in of_side):
            quiet.append(label)
            continue
        before, after = (_lane(side, runs, session, scale_ns) for side, runs in zip(SIDES, of_side, strict=True))
        kind = f"{protocol.upper()} {'old' if session == 'kept' else 'new'}"
        paths.setdefault(path, []).append(Pair(label, kind, (before, after)))
    return Lengths(paths, _ticks(scale_ns), tuple(quiet))


def outages(baseline: Sequence[Document], candidate: Sequence[Document]) -> Iterator[Told]:
    """Every outage of every run; those of a flow beside each other."""
    sides = (_flows(baseline), _flows(candidate))
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        for side, flows in zip(SIDES, sides, strict=True):
            for run, flow in flows.get(key, []):
                yield from (Told(key[1], side, run, outage) for outage in flow["outages"])


def _flows(documents: Sequence[Document]) -> dict[Key, list[tuple[str, Flow]]]:
    """Flows with the id of their run, by what makes them the same flow in several runs; paths stay together."""
    found: dict[Key, list[tuple[str, Flow]]] = {}
    for document in documents:
        for path, flows in say.by_path(document).items():
            for flow in flows:
                key = (path, say.label(flow), say.kind(flow), flow["session"])
                found.setdefault(key, []).append((str(document["run"]["id"]), flow))
    return found


def _away(run: tuple[str, Flow]) -> say.Away:
    return say.away(run[1])


def _is_quiet(flow: Flow) -> bool:
    return flow["verdict"] == "unaffected" and not flow["outages"]


def _lane(side: str, runs: Sequence[tuple[str, Flow]], session: str, scale_ns: float) -> Lane:
    if not runs:
        return Lane(side, 0, (), words(None, session))
    summary = summary_of([[flow] for _, flow in runs])
    absences = [(run, say.away(flow)) for run, flow in runs if flow["outages"]]
    parts = [words(summary, session)]
    if absences:
        parts.append(_span([away for _, away in absences]))
    if summary.open_runs:
        parts.append("not back" if len(runs) == 1 else f"not back in {summary.open_runs} of {len(runs)}")
    bar = _percent(summary.median_ns or 0, scale_ns)
    return Lane(side, bar, tuple(_bounds(run, away, scale_ns) for run, away in absences), ", ".join(parts))


def _bounds(run: str, away: say.Away, scale_ns: float) -> Bounds:
    x = _percent(away.lower_ns, scale_ns)
    width = 0.0 if away.upper_ns is None else round(_percent(away.upper_ns, scale_ns) - x, 4)
    still = ", not back when the run ended" if away.still else ""
    return Bounds(x, max(width, _HAIR), away.upper_ns is None, f"run {run or '-'}: {_span([away])}{still}")


def _span(absences: Sequence[say.Away]) -> str:
    """The bounds of an absence; of several, from the lowest to the highest."""
    lower = min(a.lower_ns for a in absences) / 1e9
    uppers = [a.upper_ns for a in absences if a.upper_ns is not None]
    return f"{lower:.4f} .. {max(uppers) / 1e9:.4f} s" if len(uppers) == len(absences) else f"> {lower:.4f} s"


def _percent(ns: float, scale_ns: float) -> float:
    return round(ns / scale_ns * 100, 4) if scale_ns else 0.0


def _ticks(scale_ns: float) -> tuple[tuple[float, str], ...]:
    if not scale_ns:
        return ()
    step = nice_step(scale_ns / 1e9 / _TICKS)
    count = math.floor(scale_ns / 1e9 / step)
    return tuple((_percent(n * step * 1e9, scale_ns), f"{n * step:.{decimals(step)}f} s") for n in range(count + 1))
