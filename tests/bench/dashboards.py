"""`python -m tests.bench dashboards [--down SECONDS]`: is what Grafana shows of a live drill exact?

A lab drill with a graceful failover and cuts of 40 ms. A real Prometheus scrapes its agents every 15 s, and they write
to it remotely (`watched`). Then every dashboard is drawn by Grafana's own packages in headless Chromium, and held to
the run's report.json: every query finds data, every panel is drawn, and every outage stands on the *Drill* timeline at
its milliseconds. The cuts' true lengths are known and held against the report's bounds.

With --down, Prometheus is killed (SIGKILL) just before the failover and started again after so many seconds.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from probe.drill.plan import LAB_PATIENCE_NS, DrillPlan, S
from probe.drill.run import run_drills
from probe.drill.scenarios import Step
from probe.drill.wall import Wall
from probe.errors import HaprobeError
from probe.lab.plan import LabOptions
from tests.render import drawing

from .bed import ROOT
from .results import Row, markdown, save
from .watched import MISNAMED, Watch, WatchedStage, watching

PREFIX = f"hpw{os.getpid()}-"
READY_S = 120.0  # for agents to start, on a machine that others use as well
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


def drill(given: argparse.Namespace, watch: Watch) -> dict[str, Any]:
    """The drill; its document. Prometheus holds all of it when this returns.

    Raises:
        HaprobeError: If it did not go well.
    """
    cut = {"milliseconds": given.cut_ms}
    steps = [Step("cut", 2.0, cut)]
    if given.down:  # once more when Prometheus is back and has taken what waited
        steps.append(Step("cut", given.down + 10.0, cut))
    plan = DrillPlan(
        trigger="graceful",
        steady_ns=round(given.steady * S),
        patience_ns=9 * LAB_PATIENCE_NS,
        validation_ns=5 * S,
        limit_ns=round((60.0 + given.down) * S),
        lab=LabOptions(agent_rate_pps=given.rate),
        steps=tuple(steps),
        labels={"fortios": "lab", "scenario": "dashboards"},
        budget=ROOT / "docs/examples/budget.yml",
        out=given.out,
    )
    stage = WatchedStage(plan.lab or LabOptions(), plan.steps, watch, PREFIX, given.out)
    stage.ready_timeout_s = READY_S
    told = io.StringIO()
    try:
        run_drills(plan, stage, Wall(Console(file=told, width=200)), Console(file=told, width=160))
    finally:
        (given.out / "told.txt").write_text(told.getvalue())
    for trouble in ("ending early", "steps ended early"):
        if trouble in told.getvalue():
            raise HaprobeError(f"{trouble}; see {given.out / 'told.txt'}")
    (stored,) = given.out.glob("*/report.json")
    document: dict[str, Any] = json.loads(stored.read_text())
    return document


# --- what is held against what -------------------------------------------------------------------------------------


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


def gauge_rows(document: Mapping[str, Any], agent: str, lanes: Mapping[str, Sequence[Span]]) -> list[Row]:
    """The last outage of each flow of an agent beside the last that is drawn from its gauges alone."""
    rows = []
    for flow in (one for one in document["flows"] if one["agent"] == agent and one["outages"]):
        name = f"{flow['path']} · {flow['name']}"
        right, shown = spans(flow)[-1], lanes.get(name, ())
        rows.append(_edge_row(f"{name} (gauges)", 1, right, shown[-1] if shown else None, goes_on(flow, right[1])))
    return rows


def _edge_row(lane: str, number: int, right: Span | None, shown: Span | None, open_end: bool) -> Row:
    equal = right is not None and shown is not None and right[0] == shown[0]
    equal = equal and (shown[1] >= right[1] if open_end else shown[1] == right[1])  # type: ignore[index]
    figures = {
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
            figures = {"samples": len(wanted) + 3 * (not open_end), "missing": len(lost)}
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
            figures: dict[str, Any] = {"least ms": round(least / 1e6, 3), "most ms": round(most / 1e6, 3)}
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


def board_rows(name: str, result: Mapping[str, Any]) -> list[Row]:
    """What a drawn dashboard's queries found, and all that is wrong with it."""
    queries = [(p["title"], ref, rows) for p in result.get("panels", ()) for ref, rows in p["answered"].items()]
    excused = {
        f"{title}: no data by query {ref}": EMPTY_IF_SOUND[name, title, ref]
        for title, ref, rows in queries
        if not rows and (name, title, ref) in EMPTY_IF_SOUND
    }
    wrong = [text for text in drawing.complaints(result) if text not in excused]
    figures = {
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


# --- looking -------------------------------------------------------------------------------------------------------


def look(watch: Watch, document: Mapping[str, Any], out: Path) -> list[Row]:
    """Everything compared, from a Prometheus that still runs."""
    span = watch.began_s, watch.until_s
    shortest = min(
        (f for f in document["flows"] if f["outages"] and f["session"] == "kept"),
        key=lambda f: min(o["end_ns"] - o["start_ns"] for o in f["outages"]),
    )
    chosen = {"instance": watch.names[shortest["agent"]], "flow": shortest["name"]}
    with httpx.Client(base_url=watch.prometheus.url, timeout=60, trust_env=False) as client:
        pages = {
            "drill": drawing.page(client, "drill", span),
            "drill-by-direction": drawing.page(client, "drill", span, direction="|".join(DIRECTIONS)),
            "drill-from-gauges": drawing.page(client, "drill", span, instance=watch.names[MISNAMED]),
            "flow": drawing.page(client, "flow", span, **chosen),
            "fleet": drawing.page(client, "fleet", span),
            "releases": drawing.page(client, "releases", span),
        }
        drawn = drawing.draw(client, pages, out / "drawn", scrape_s=15, whole=True)
    (out / "drawn.json").write_text(json.dumps(drawn, indent=1) + "\n")
    rows = [row for name, result in drawn.items() for row in board_rows(name, result)]
    rows += lane_rows(document, _dark(drawn["drill"]), ["any"])
    rows += lane_rows(document, _dark(drawn["drill-by-direction"]), DIRECTIONS)
    rows += gauge_rows(document, MISNAMED, _dark(drawn["drill-from-gauges"]))
    rows += cut_rows(document)
    # All that the store holds, asked at the instant at which the panels ask.
    window = f"[{round(span[1] - span[0]) + 60}s]"
    states = _samples(watch, f'haprobe_flow_state{{direction!=""}}{window}', span[1], "flow", "direction")
    lengths = _samples(watch, f"haprobe_flow_outage_seconds{window}", span[1], "flow", "direction", "bound")
    rows += sample_rows(document, states, lengths)
    names = ("sent", "refused", "dropped", "revised", "spooled_octets")
    rows += [Row("remote write", name, "", {k: state[k] for k in names}) for name, state in watch.states.items()]
    if watch.killed_s:
        figures = {"dead s": round(watch.back_s - watch.killed_s, 1), **_while_dead(document, watch)}
        rows.append(Row("prometheus", "killed (-9), started again", "", figures))
    return rows


def _while_dead(document: Mapping[str, Any], watch: Watch) -> dict[str, int]:
    outages = [o for f in document["flows"] for o in f["outages"]]
    began = sum(watch.killed_s < o["start_ns"] / 1e9 < watch.back_s for o in outages)
    return {"outages begun meanwhile": began, "of all": len(outages)}


def _dark(result: Mapping[str, Any]) -> dict[str, list[Span]]:
    panel = next((one for one in result.get("drawn", ()) if one["title"] == WINDOWS), {"lanes": []})
    found: dict[str, list[Span]] = {}
    for lane in panel["lanes"]:
        if lane["name"] in found:
            raise HaprobeError(f"the timeline has two lanes {lane['name']}")
        found[lane["name"]] = [(s["from"], s["to"]) for s in lane["spans"] if s["text"] == "OUTAGE"]
    return found


def _samples(watch: Watch, query: str, at_s: float, *labels: str) -> dict[Any, list[tuple[int, float]]]:
    found = {}
    for text, samples in watch.prometheus.samples(query, at_s).items():
        named = dict(pair.split("=", 1) for pair in text.split(","))
        found[tuple(named[label] for label in labels)] = samples
    return found


def options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench dashboards", description=__doc__.splitlines()[0])
    parser.add_argument("--down", type=float, default=0.0, help="seconds that Prometheus is dead for (default: 0)")
    parser.add_argument("--cut-ms", type=float, default=40.0, help="length of a cut (default: 40)")
    parser.add_argument("--rate", type=int, default=200, help="probes per second of each flow (default: 200)")
    parser.add_argument("--steady", type=float, default=5.0, help="seconds (default: 5)")
    default = ROOT / f"runs/bench/dashboards-{time.strftime('%Y%m%dT%H%M%S')}"
    parser.add_argument("--out", type=Path, default=default, help="directory (default: runs/bench/dashboards-TIME)")
    given = parser.parse_args(argv)
    given.out = given.out.resolve()
    return given


def main(argv: Sequence[str]) -> int:
    given = options(argv)
    if drawing.chromium() is None:
        print("bench: chromium is not installed (tools/packages lab test)", file=sys.stderr)
        return 1
    drawing.node_modules()
    given.out.mkdir(parents=True, exist_ok=True)
    if list(given.out.glob("*/report.json")):
        print(f"bench: --out {given.out} holds a run already; name a new directory", file=sys.stderr)
        return 2
    try:
        with watching(given.out / "prometheus", given.down) as watch:
            print("drill", file=sys.stderr, flush=True)
            document = drill(given, watch)
            print("drawing the dashboards", file=sys.stderr, flush=True)
            rows = look(watch, document, given.out)
    except HaprobeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_status
    shown = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
    save(rows, shown, given.out / "dashboards.json")
    print(markdown(rows))
    wrong = [row for row in rows if not ok(row)]
    edges = sum(2 for row in rows if row.bench == "edges")
    print(f"\n{edges} edges compared, {len(wrong)} rows with a difference; {given.out}")
    return 1 if wrong else 0
