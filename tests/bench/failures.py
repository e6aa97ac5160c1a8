"""`python -m tests.bench.failures [NAME ...]`: plays lab scenarios and holds each report to what its scenario says.

One line per scenario: the diagnosis codes found, and ok or what is wrong. `--record DIR` writes what each run came to
as a small document (`condensed`), from which tests diagnose again without a lab.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from probe.core.timeline import PROBE_EVENTS
from probe.drill.plan import from_args
from probe.drill.run import run_drills
from probe.drill.scenarios import SCENARIOS, Scenario
from probe.drill.stage import LabStage
from probe.drill.wall import Wall
from probe.errors import HaprobeError
from probe.lab.lab import Lab
from probe.lab.plan import LabOptions

PREFIX = f"hpf{os.getpid()}-"  # two runs at once do not meet
PATIENCE_S = 90  # with a machine that has much else to do
_COUNTS = ("scheduled", "unsent", "sent", "received", "lost", "late")


class _Elsewhere:
    """The lab under a prefix and in a state directory of its own, so that it meets no other."""

    def __init__(self, directory: Path):
        self._directory = directory

    def up(self, options: LabOptions, progress: Callable[[str], None]) -> Lab:
        return Lab.up(options, progress, prefix=PREFIX, state_dir=self._directory)


def play(name: str, out: Path, rate_pps: int) -> dict[str, Any]:
    """One drill of a scenario; its stored document."""
    plan = from_args(argparse.Namespace(lab=True, scenario=name, out=str(out)))
    assert plan.lab is not None
    plan = replace(plan, lab=replace(plan.lab, agent_rate_pps=rate_pps), patience_ns=PATIENCE_S * 1_000_000_000)
    with tempfile.TemporaryDirectory(prefix="haprobe-failures-") as state:
        stage = LabStage(plan.lab, plan.trigger, plan.steps, lab_type=_Elsewhere(Path(state)))  # type: ignore[arg-type]
        stage.ready_timeout_s = PATIENCE_S
        with (out / "report.txt").open("w") as report:
            run_drills(plan, stage, Wall(Console(stderr=True, width=140)), Console(file=report, width=140))
    (stored,) = out.glob("*/report.json")
    document: dict[str, Any] = json.loads(stored.read_text())
    return document


def wrong(scenario: Scenario, document: Mapping[str, Any]) -> list[str]:
    """What a report says that its scenario does not, and the other way round."""
    codes = [finding["code"] for finding in document["diagnosis"]]
    found = [] if codes[:1] == [scenario.diagnosis] else [f"first is not {scenario.diagnosis}"]
    # What a busy machine does to the measurement is no property of the scenario.
    allowed = {scenario.diagnosis, *scenario.also, "probe_unreliable"}
    return found + [f"{code} is wrong" for code in codes if code not in allowed]


def condensed(document: Mapping[str, Any]) -> dict[str, Any]:
    """What diagnosis, phases and answers need of a document, and no more.

    What a busy machine left unobserved is left out: it is no property of the scenario.
    """
    run = document["run"]
    flows = [
        {
            **{k: f[k] for k in ("name", "agent", "protocol", "session", "path", "interval_ns", "session_end")},
            "rebound": f.get("rebound", False),
            **{k: f[k] for k in ("stack", "stream") if k in f},
            "counts": {k: f["counts"][k] for k in _COUNTS},
            "outages": [{k: v for k, v in o.items() if k != "evidence"} | {"unobserved_ns": 0} for o in f["outages"]],
        }
        for f in document["flows"]
    ]
    watchers = {
        name: {"watchers": {kind: True for kind, one in config["watchers"].items() if one}}
        for name, config in run["config"]["agents"].items()
        if any((config.get("watchers") or {}).values())
    }
    return {
        "run": {**{k: run[k] for k in ("started_ns", "ended_ns", "trigger")}, "config": {"agents": watchers}},
        "flows": flows,
        "timeline": [e for e in document["timeline"] if e["event"] not in PROBE_EVENTS],
    }


def write(path: Path, small: Mapping[str, Any]) -> None:
    """One line for each flow and event, for a reader and for diffs."""

    def lines(rows: Sequence[Any]) -> str:
        return "[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]"

    parts = [f'"run": {json.dumps(small["run"])}', *(f'"{k}": {lines(small[k])}' for k in ("flows", "timeline"))]
    path.write_text("{" + ",\n".join(parts) + "}\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.failures", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[[], *SCENARIOS], metavar="NAME", help="which (default: all)")
    parser.add_argument("--record", type=Path, metavar="DIR", help="write what each run came to, for tests")
    parser.add_argument("--out", type=Path, default=Path("runs/failures"), help="where runs are stored, by scenario")
    parser.add_argument("--rate", type=int, default=50, help="probes per second of each flow (default: 50)")
    given = parser.parse_args(argv)
    bad = 0
    for name in given.name or SCENARIOS:
        given.out.mkdir(parents=True, exist_ok=True)
        out = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=given.out))
        try:
            document = play(name, out, given.rate)
        except HaprobeError as error:
            print(f"{name:22} not played: {error}", flush=True)
            bad += 1
            continue
        faults = wrong(SCENARIOS[name], document)
        bad += bool(faults)
        codes = " ".join(finding["code"] for finding in document["diagnosis"])
        print(f"{name:22} {'; '.join(faults) or 'ok'}: {codes}  ({out})", flush=True)
        if given.record:
            given.record.mkdir(parents=True, exist_ok=True)
            write(given.record / f"{name}.json", condensed(document))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
