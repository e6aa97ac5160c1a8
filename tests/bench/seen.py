"""A drill as it was drawn and stored, held against its report: rows for `dashboards`. No I/O."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.render import drawing

from .results import Figure, Row

MS = 1_000_000
DIRECTIONS = ("round_trip", "forward", "reverse")
Span = tuple[int, int]  # ms since the Unix epoch
WINDOWS = "Outage windows"
_WRITTEN = "every flow is written remotely"
# Queries that find nothing in a sound drill (page, panel, query), and why.
EMPTY_IF_SOUND = {
    ("drill", WINDOWS, "Edges"): _WRITTEN,
    ("drill-by-direction", WINDOWS, "Edges"): _WRITTEN,
    ("drill-from-gauges", WINDOWS, "Samples"): "this agent writes under another name",
}


def spans(flow: Mapping[str, Any], direction: str = "any") -> list[Span]:
    """A flow's outages by the report, in whole ms; those of any direction joined where they meet."""
    wanted = [o for o in flow["outages"] if direction in ("any", o["direction"])]
    found = sorted((o["start_ns"] // MS, o["end_ns"] // MS) for o in wanted)
    joined: list[Span] = []
    for start, end in found:
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def goes_on(flow: Mapping[str, Any], end_ms: int) -> bool:
    """Whether the outage that the report ends there was open at the run's end."""
    return any(o["censored"] == "end" and o["end_ns"] // MS == end_ms for o in flow["outages"])


def lane_rows(document: Mapping[str, Any], lanes: Mapping[str, Sequence[Span]], directions: Sequence[str]) -> list[Row]:
    """Each outage of the report beside the one that is drawn; and those that only one of them has.

    Args:
        document: The run.
        lanes: Where the timeline says OUTAGE, by the lane's name.
        directions: Of the lanes; "any" is a flow's own lane.
    """
    began, ended = (document["run"][name] // MS for name in ("started_ns", "ended_ns"))
    rows = []
    for flow in document["flows"]:
        for direction in directions:
            name = f"{flow['path']} · {flow['name']}" + (f" {direction}" if direction != "any" else "")
            right = spans(flow, direction)
            shown = [span for span in lanes.get(name, ()) if span[1] > began and span[0] <= ended]
            missing = "no such lane" if name not in lanes and direction == "any" else ""
            if missing or (not right and not shown):
                rows += [Row("edges", name, "lane", {"equal": False}, missing)] if missing else []
                continue
            for number in range(max(len(right), len(shown))):
                one = right[number] if number < len(right) else None
                other = shown[number] if number < len(shown) else None
                rows.append(_edge_row(name, number + 1, one, other, one is not None and goes_on(flow, one[1])))
    return rows


def gauge_rows(
    document: Mapping[str, Any], agent: str, lanes: Mapping[str, Sequence[Span]], scraped_ms: int
) -> list[Row]:
    """The last outage of each flow of an agent beside the last that is drawn from its gauges alone.

    Args:
        document: The run.
        agent: Its name in the run.
        lanes: Where the timeline says OUTAGE, by the lane's name.
        scraped_ms: When the agent was last scraped: of an outage that was open then, nobody knows how it went on.
    """
    rows = []
    for flow in (one for one in document["flows"] if one["agent"] == agent and one["outages"]):
        name = f"{flow['path']} · {flow['name']}"
        last = max(flow["outages"], key=lambda outage: outage["start_ns"])
        right, shown = (last["start_ns"] // MS, last["end_ns"] // MS), lanes.get(name, ())
        open_end = goes_on(flow, right[1])
        if open_end:
            right = right[0], min(right[1], scraped_ms)
        rows.append(_edge_row(f"{name} (gauges)", 1, right, shown[-1] if shown else None, open_end))
    return rows


def _edge_row(lane: str, number: int, right: Span | None, shown: Span | None, open_end: bool) -> Row:
    equal = right is not None and shown is not None and right[0] == shown[0]
    equal = equal and (shown[1] >= right[1] if open_end else shown[1] == right[1])  # type: ignore[index]
    figures: dict[str, Figure] = {
        "report start": _clock(right, 0),
        "drawn start": _clock(shown, 0),
        "report end": "open" if open_end else _clock(right, 1),
        "drawn end": "open" if open_end and equal else _clock(shown, 1),
        "length_ms": right[1] - right[0] if right else None,
        "equal": equal,
    }
    return Row("edges", lane, f"outage {number}", figures)


def _clock(span: Span | None, edge: int) -> str:
    if span is None:
        return "none"
    return time.strftime("%H:%M:%S", time.gmtime(span[edge] // 1000)) + f".{span[edge] % 1000:03d}"


def sample_rows(
    document: Mapping[str, Any],
    states: Mapping[tuple[str, str], Sequence[tuple[int, float]]],
    lengths: Mapping[tuple[str, str, str], Sequence[tuple[int, float]]],
) -> list[Row]:
    """Whether the store has each sample of each outage: both sides of both edges, and its length with bounds.

    Args:
        document: The run.
        states: Samples of `haprobe_flow_state` as (ms, value), by flow and direction.
        lengths: Samples of `haprobe_flow_outage_seconds`, by flow, direction and bound.
    """
    rows = []
    for flow in document["flows"]:
        for number, outage in enumerate(flow["outages"], 1):
            start, end = outage["start_ns"] // MS, outage["end_ns"] // MS
            open_end = outage["censored"] == "end"
            wanted = {"before": (start - 1, False), "start": (start, True)}
            wanted |= {} if open_end else {"last": (end - 1, True), "end": (end, False)}
            samples = dict(states.get((flow["name"], outage["direction"]), ()))
            lost = [name for name, (at, dark) in wanted.items() if at not in samples or (samples[at] == 0) is not dark]
            for bound in () if open_end else ("lower", "estimate", "upper"):
                kept = dict(lengths.get((flow["name"], outage["direction"], bound), ()))
                if kept.get(end) != outage["duration_ns"][bound] / 1e9:
                    lost.append(bound)
            figures: dict[str, Figure] = {"samples": len(wanted) + 3 * (not open_end), "missing": len(lost)}
            rows.append(
                Row("samples", f"{flow['name']} {outage['direction']}", f"outage {number}", figures, " ".join(lost))
            )
    return rows


def cut_rows(document: Mapping[str, Any]) -> list[Row]:
    """The cuts' true lengths beside the outage that each flow to workload B had then."""
    rows = []
    cuts = [event["detail"] for event in document["timeline"] if event["event"] == "cut"]
    flows = [f for f in document["flows"] if f["path"] == "east-west" and f.get("stack") != "kernel"]
    for number, cut in enumerate(cuts, 1):
        least = cut["ended_after_ns"] - cut["began_before_ns"]
        most = cut["ended_before_ns"] - cut["began_after_ns"]
        for flow in flows:
            found = [
                o
                for o in flow["outages"]
                if o["start_ns"] < cut["ended_before_ns"] and o["end_ns"] > cut["began_after_ns"]
            ]
            figures: dict[str, Figure] = {"least ms": round(least / 1e6, 3), "most ms": round(most / 1e6, 3)}
            if len(found) != 1:
                rows.append(
                    Row("cuts", flow["name"], f"cut {number}", {**figures, "holds": False}, f"{len(found)} outages")
                )
                continue
            lower, upper = (found[0]["duration_ns"][bound] for bound in ("lower", "upper"))
            figures |= {"lower ms": round(lower / 1e6, 3), "upper ms": round(upper / 1e6, 3)}
            figures["holds"] = lower < most and least < upper
            rows.append(Row("cuts", f"{flow['name']} {found[0]['direction']}", f"cut {number}", figures))
    return rows


def excuses(document: Mapping[str, Any]) -> dict[tuple[str, str, str], str]:
    """Queries that rightly find nothing about this run."""
    known = {phase["name"] for phase in document["phases"]}
    found = dict(EMPTY_IF_SOUND)
    if "full_recovery" not in known:
        found["releases", "Releases", "E"] = "the report has no full_recovery either"
    return found


def board_rows(name: str, result: Mapping[str, Any], excused_for: Mapping[tuple[str, str, str], str]) -> list[Row]:
    """What a drawn dashboard's queries found, and all that is wrong with it; see `excuses`."""
    queries = [(p["title"], ref, rows) for p in result.get("panels", ()) for ref, rows in p["answered"].items()]
    excused = {
        f"{title}: no data by query {ref}": excused_for[name, title, ref]
        for title, ref, rows in queries
        if not rows and (name, title, ref) in excused_for
    }
    wrong = [text for text in drawing.complaints(result) if text not in excused]
    figures: dict[str, Figure] = {
        "panels": len(result.get("panels", ())),
        "queries": len(queries),
        "with data": sum(bool(rows) for _, _, rows in queries),
        "faults": len(wrong),
    }
    notes = [*wrong, *(f"{text}, rightly: {why}" for text, why in excused.items())]
    return [Row("dashboards", name, "", figures, "; ".join(notes))]


def ok(row: Row) -> bool:
    """Whether a row tells of no difference."""
    figures = row.figures
    counted = sum(int(figures.get(name) or 0) for name in ("missing", "faults", "refused", "dropped", "revised"))
    return counted == 0 and figures.get("equal", True) is True and figures.get("holds", True) is True
