"""What the page lists: flows and outages by path, the broken ones first where there are many, and distributions.

Document in, rows and positions out; no markup. Horizontal positions are percent of a column's width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from probe.core.verdict import WORST_FIRST, shown
from probe.report import phrases as say

FEW = 12  # flows of a path that are listed in the document's order, and none of them folded away
ROWS = 40  # of a table that is shown unfolded
_DOTS = 200  # places that a strip tells apart
_OTHER = ("unsent", "late", "duplicate", "reordered", "corrupt", "dropped_locally", "reset", "icmp_error", "pending")

Flow = Mapping[str, Any]


def broken(flow: Flow) -> bool:
    """Whether its verdict is one to look at."""
    return say.VERDICTS[_shown(flow)][1] in ("warn", "bad")


def worst_first(flows: Sequence[Flow]) -> list[Flow]:
    """Flows of a path: by verdict and then by absence, the worst first; a few stay in their order, old beside new."""
    if len(flows) <= FEW:
        return list(flows)

    def badness(flow: Flow) -> tuple[int, bool, int]:
        gone = say.away(flow)
        return WORST_FIRST.index(flow["verdict"]), not gone.still, -gone.ns

    return sorted(flows, key=badness)


def found_by(flow: Flow) -> str:
    """The words that a person may look for it by, in lower case."""
    session = "kept old" if flow["session"] == "kept" else "fresh new"
    state = ("broken " if broken(flow) else "") + ("outage" if flow["outages"] else "")
    words = (flow["agent"], flow["name"], flow["path"], flow["target"], say.kind(flow), session, _shown(flow), state)
    return " ".join(map(str, words)).lower()


def told(flow: Flow) -> str:
    """The counts that are mostly zero, where they are not: `17 unsent, 2 late`."""
    return ", ".join(f"{flow['counts'][k]:,} {k.replace('_', ' ')}" for k in _OTHER if flow["counts"][k])


def lost_where(flow: Flow) -> str:
    """`2,368 forward, 163 reverse`."""
    counts = flow["counts"]
    parts = {way: counts[f"lost_{way}"] for way in ("forward", "reverse", "unattributed")}
    return ", ".join(f"{n:,} {way}" for way, n in parts.items() if n)


@dataclass(frozen=True, slots=True)
class Row:
    """An outage, with its flow and both places in the document."""

    flow: Flow
    outage: Mapping[str, Any]
    flow_place: int
    place: int


@dataclass(frozen=True, slots=True)
class Outages:
    """A path's outages."""

    path: str
    rows: tuple[Row, ...]

    @property
    def summary(self) -> str:
        flows = len({row.flow_place for row in self.rows})
        open_ = sum(row.outage["censored"] == "end" for row in self.rows)
        longest = max(row.outage["duration_ns"]["estimate"] for row in self.rows)
        parts = [f"{_plural(len(self.rows), 'outage')} on {_plural(flows, 'flow')}", f"longest {say.duration(longest)}"]
        return ", ".join([*parts, f"{open_} still open"] if open_ else parts)


def outages(document: Mapping[str, Any]) -> list[Outages]:
    """Paths with outages. Those still open come first, then the longest, where there are many."""
    paths: dict[str, list[Row]] = {}
    for flow_place, flow in enumerate(document["flows"]):
        for place, outage in enumerate(flow["outages"]):
            paths.setdefault(flow["path"], []).append(Row(flow, outage, flow_place, place))
    if sum(map(len, paths.values())) > ROWS:
        for rows in paths.values():
            rows.sort(key=lambda row: (row.outage["censored"] != "end", -row.outage["duration_ns"]["estimate"]))
    return [Outages(path, tuple(rows)) for path, rows in paths.items()]


@dataclass(frozen=True, slots=True)
class Delays:
    """Round-trip times of all flows on one logarithmic scale."""

    low_ns: int
    high_ns: int

    def percent(self, ns: int) -> float:
        span = math.log(self.high_ns / self.low_ns) if self.high_ns > self.low_ns else 1.0
        return round(100 * math.log(max(ns, self.low_ns) / self.low_ns) / span, 2)


def delays(document: Mapping[str, Any]) -> Delays | None:
    """The scale of all round-trip times; None where there were none."""
    told_of = [flow["rtt_ns"] for flow in document["flows"] if flow["rtt_ns"]["max"]]
    if not told_of:
        return None
    return Delays(max(1, min(rtt["min"] for rtt in told_of)), max(rtt["max"] for rtt in told_of))


@dataclass(frozen=True, slots=True)
class Strip:
    """How long the flows of a path, protocol and session were away: a dot each."""

    path: str
    kind: str
    which: str  # old | new
    flows: int
    gone: int  # flows that were away at all
    median: str
    longest: str
    dots: tuple[tuple[float, bool, str], ...]  # percent, whether it was still away, words


def strips(document: Mapping[str, Any]) -> tuple[list[Strip], int]:
    """Absences by path, protocol and session, and the length in ns at the scale's end; none where nothing was away."""
    cells: dict[tuple[str, str, str], list[Flow]] = {}
    for path, flows in say.by_path(document).items():
        for flow in flows:
            cells.setdefault((path, say.kind(flow), flow["session"]), []).append(flow)
    high_ns = max((say.away(flow).ns for flow in document["flows"]), default=0)
    made = [_strip(*key, flows, high_ns) for key, flows in cells.items() if any(say.away(f).ns for f in flows)]
    return made, high_ns


def _strip(path: str, kind: str, session: str, flows: Sequence[Flow], high_ns: int) -> Strip:
    gone = [(say.away(flow), flow) for flow in flows if say.away(flow).ns]
    # Flows that were away equally long are one dot: it says how many.
    places: dict[tuple[int, bool], list[tuple[say.Away, Flow]]] = {}
    for absence, flow in gone:
        places.setdefault((round(_DOTS * absence.ns / high_ns), absence.still), []).append((absence, flow))
    dots = tuple((100 * at / _DOTS, still, _dot(members)) for (at, still), members in sorted(places.items()))
    longest = max((absence for absence, _ in gone), key=lambda a: (a.still, a.ns))
    middle = say.duration(median(absence.ns for absence, _ in gone))
    which = "old" if session == "kept" else "new"
    return Strip(path, kind, which, len(flows), len(gone), middle, str(longest), dots)


def _dot(members: Iterable[tuple[say.Away, Flow]]) -> str:
    absences = list(members)
    names = [say.label(flow) for _, flow in absences]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{absences[0][0]}: {', '.join(names[:3])}{more}"


def _shown(flow: Flow) -> str:
    return shown(flow["verdict"], flow["session"] == "fresh")


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")
