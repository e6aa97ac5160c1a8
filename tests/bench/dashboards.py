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
import shutil
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
from .results import Figure, Row, markdown, save
from .seen import DIRECTIONS, WINDOWS, Span, board_rows, cut_rows, excuses, gauge_rows, lane_rows, ok, sample_rows
from .watched import MISNAMED, Watch, WatchedStage, watching

PREFIX = f"hpw{os.getpid()}-"
NEEDED = ("prometheus", "node", "npm", "chromium")
READY_S = 120.0  # for agents to start, on a machine that others use as well


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
    rows = [row for name, result in drawn.items() for row in board_rows(name, result, excuses(document))]
    rows += lane_rows(document, _dark(drawn["drill"]), ["any"])
    rows += lane_rows(document, _dark(drawn["drill-by-direction"]), DIRECTIONS)
    # All that the store holds, asked at the instant at which the panels ask.
    window = f"[{round(span[1] - span[0]) + 60}s]"
    (scrapes,) = _samples(watch, f'up{{instance="{watch.names[MISNAMED]}"}}{window}', span[1]).values()
    scraped_ms = max(at for at, up in scrapes if up)
    rows += gauge_rows(document, MISNAMED, _dark(drawn["drill-from-gauges"]), scraped_ms)
    rows += cut_rows(document)
    states = _samples(watch, f'haprobe_flow_state{{direction!=""}}{window}', span[1], "flow", "direction")
    lengths = _samples(watch, f"haprobe_flow_outage_seconds{window}", span[1], "flow", "direction", "bound")
    rows += sample_rows(document, states, lengths)
    names = ("sent", "refused", "dropped", "revised", "spooled_octets")
    rows += [Row("remote write", name, "", {k: state[k] for k in names}) for name, state in watch.states.items()]
    if watch.killed_s:
        figures: dict[str, Figure] = {"dead s": round(watch.back_s - watch.killed_s, 1), **_while_dead(document, watch)}
        rows.append(Row("prometheus", "killed (-9), started again", "", figures))
    return rows


def _while_dead(document: Mapping[str, Any], watch: Watch) -> dict[str, int]:
    outages = [o for f in document["flows"] for o in f["outages"]]
    began = sum(watch.killed_s < o["start_ns"] / 1e9 < watch.back_s for o in outages)
    return {"outages begun meanwhile": began, "of all": len(outages)}


def _dark(result: Mapping[str, Any]) -> dict[str, list[Span]]:
    panel: dict[str, Any] = next((one for one in result.get("drawn", ()) if one["title"] == WINDOWS), {"lanes": []})
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
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        print(f"bench: not installed: {', '.join(missing)} (tools/packages lab test)", file=sys.stderr)
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
