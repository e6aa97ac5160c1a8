"""What several drills of the same kind say together: the spread of each path's outage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import RenderableType
from rich.table import Table


@dataclass(frozen=True, slots=True)
class PathSummary:
    """One path and protocol over all runs that had an outage on it."""

    path: str
    protocol: str
    runs: int  # with an outage that ended
    median_ns: int
    min_ns: int
    max_ns: int
    open_runs: int  # runs in which no flow of the path came back


def summarise(documents: Iterable[Mapping[str, Any]]) -> list[PathSummary]:
    """Outage estimates per path and protocol, in the order of the documents.

    A run counts with the longest outage among the flows that came back: a session that was lost stays dark for
    as long as one cares to look, which says nothing about the path.
    """
    ended: dict[tuple[str, str], list[int]] = {}
    unended: dict[tuple[str, str], int] = {}
    for document in documents:
        longest: dict[tuple[str, str], int] = {}
        for flow in document["flows"]:
            key = (flow["path"], flow["protocol"])
            ended.setdefault(key, [])
            if any(outage["censored"] == "end" for outage in flow["outages"]):
                longest.setdefault(key, -1)
                continue
            for outage in flow["outages"]:
                longest[key] = max(longest.get(key, -1), int(outage["duration_ns"]["estimate"]))
        for key, value in longest.items():
            if value >= 0:
                ended[key].append(value)
            else:
                unended[key] = unended.get(key, 0) + 1
    return [
        PathSummary(
            path,
            protocol,
            len(values),
            round(median(values)) if values else 0,
            min(values, default=0),
            max(values, default=0),
            unended.get((path, protocol), 0),
        )
        for (path, protocol), values in ended.items()
    ]


def table(rows: Iterable[PathSummary], runs: int) -> RenderableType:
    """The summary for a terminal; seconds."""
    drawn = Table(title=f"{runs} drills", box=None, title_justify="left", header_style="bold")
    for name in ("path", "protocol"):
        drawn.add_column(name)
    for name in ("outages", "median s", "min s", "max s", "not back"):
        drawn.add_column(name, justify="right")
    for row in rows:
        figures = [f"{ns / 1e9:.3f}" if row.runs else "–" for ns in (row.median_ns, row.min_ns, row.max_ns)]
        drawn.add_row(row.path, row.protocol, str(row.runs), *figures, str(row.open_runs))
    return drawn
