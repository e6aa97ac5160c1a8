"""What a benchmark found: rows, their ratios, a Markdown table and a JSON file."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from probe import __version__

Figure = float | int | str | bool | None


@dataclass(frozen=True)
class Row:
    """One run of one tool. A tool that is not installed, or failed, has a note and no figures: nothing, not zero."""

    bench: str
    tool: str
    case: str
    figures: dict[str, Figure] = field(default_factory=dict)
    note: str = ""

    def number(self, name: str) -> float | None:
        value = self.figures.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def missing(bench: str, tool: str, case: str = "") -> Row:
    return Row(bench, tool, case, note="missing: not installed (tools/packages bench)")


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """How many times theirs ours is; None when either is not known."""
    return None if ours is None or not theirs else ours / theirs


def best(rows: Sequence[Row], tool: str, figure: str, *, least: bool = False, only: str = "") -> Row | None:
    """The row of a tool with the highest (or lowest) figure, of those where the figure named `only` is true."""
    usable = [
        row
        for row in rows
        if row.tool == tool and row.number(figure) is not None and (not only or row.figures.get(only))
    ]
    if not usable:
        return None
    return (min if least else max)(usable, key=lambda row: row.number(figure) or 0.0)


def shown(value: Figure) -> str:
    """A figure for people: thousands apart, three digits of what is small."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.3g}"


def markdown(rows: Sequence[Row]) -> str:
    """A table per benchmark, with a column for every figure that any of its rows has."""
    parts = []
    for bench in dict.fromkeys(row.bench for row in rows):
        mine = [row for row in rows if row.bench == bench]
        columns = list(dict.fromkeys(name for row in mine for name in row.figures))
        lines = [["tool", "case", *columns, "note"]]
        lines += [
            [row.tool, row.case, *(shown(row.figures.get(name)) for name in columns), row.note.replace("|", "/")]
            for row in mine
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        rendered = [
            "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines
        ]
        rendered.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        parts.append(f"## {bench}\n\n" + "\n".join(rendered))
    return "\n\n".join(parts)


def document(rows: Sequence[Row], options: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": "haprobe.peers/1",
        "version": __version__,
        "at_ns": time.time_ns(),
        "host": {
            "name": socket.gethostname(),
            "kernel": platform.release(),
            "machine": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
            "load": os.getloadavg(),
        },
        "options": options,
        "rows": [asdict(row) for row in rows],
    }


def save(rows: Sequence[Row], options: dict[str, Any], file: Path) -> None:
    """JSON, and the table beside it with the suffix .md."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document(rows, options), indent=1) + "\n")
    file.with_suffix(".md").write_text(markdown(rows) + "\n")
