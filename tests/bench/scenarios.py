"""`python -m tests.bench scenarios [NAME ...] [--runs 20]`: drills of the lab's scenarios, and what they should give.

Every run is a whole drill with real probes. Its verdicts are held twice: to the scenario's expectation, and to what the
stand-ins' session tables imply (`probe.lab.truth`), which know nothing of the probes. Says so where a run could not
be observed well, instead of leaving it out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from probe.core.verdict import WORST_FIRST
from probe.drill.expected import mismatches
from probe.drill.plan import LAB_PATIENCE_NS, DrillPlan, S
from probe.drill.run import run_drills
from probe.drill.scenarios import SCENARIOS, Scenario
from probe.drill.stage import LabStage
from probe.drill.wall import Wall
from probe.errors import HaprobeError, NoFailoverError
from probe.lab.lab import Lab
from probe.lab.plan import LabOptions
from probe.lab.truth import agrees, truths

from .bed import ROOT

PREFIX = f"hpb{os.getpid()}-"
READY_S = 60.0  # for agents to start, on a machine that others use as well


@dataclass
class Tally:
    """What all runs said. Keys of `confusion` are (flow class, implied, given)."""

    runs: int = 0
    failed: list[str] = field(default_factory=list)  # drills that gave no document, or broke off
    unexpected: list[str] = field(default_factory=list)
    disagreed: list[str] = field(default_factory=list)
    unobserved: int = 0  # kept flows
    unjudged: int = 0  # kept flows about which the tables were not read
    confusion: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    per_scenario: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, scenario: Scenario, number: int, document: Mapping[str, Any]) -> list[str]:
        """Take in one run; what is wrong with it, in a line each."""
        self.runs += 1
        resets = bool(scenario.options.get("reset_sessionless_tcp"))
        implied = truths(document["timeline"], resets=resets)
        wrong = [f"{scenario.name} {number}: {text}" for text in mismatches(document, scenario)]
        off = []
        for flow in (one for one in document["flows"] if one["session"] == "kept"):
            name, given = flow["name"], flow["verdict"]
            if given == "unobserved":
                self.unobserved += 1
            elif name not in implied:
                self.unjudged += 1
            else:
                truth = implied[name]
                self.confusion[f"{flow['path']} {flow['protocol']}", truth.implied, given] += 1
                if not agrees(name, truth.implied, given):
                    off.append(f"{scenario.name} {number}: {name}: {given}, but {truth.because} ({truth.implied})")
        self.unexpected += wrong
        self.disagreed += off
        row = self.per_scenario.setdefault(scenario.name, {"runs": 0, "as expected": 0, "as the tables imply": 0})
        row["runs"] += 1
        row["as expected"] += not wrong
        row["as the tables imply"] += not off
        return wrong + off

    def text(self) -> str:
        """For people: per scenario, then per class of flow what was given against what is implied."""
        lines = ["| scenario | runs | as expected | as the tables imply |", "|---|---|---|---|"]
        lines += [f"| {name} | " + " | ".join(map(str, row.values())) + " |" for name, row in self.per_scenario.items()]
        verdicts: list[str] = [v for v in reversed(WORST_FIRST) if any(v in key[1:] for key in self.confusion)]
        lines += [
            "",
            "| flow class | tables imply | " + " | ".join(verdicts) + " |",
            "|---" * (len(verdicts) + 2) + "|",
        ]
        for kind, implied in sorted({key[:2] for key in self.confusion}, key=lambda k: (k[0], verdicts.index(k[1]))):
            cells = [str(self.confusion[kind, implied, given] or "") for given in verdicts]
            lines.append(f"| {kind} | {implied} | " + " | ".join(cells) + " |")
        total = sum(self.confusion.values())
        lines += [
            "",
            f"{total} kept sessions judged by both, {len(self.disagreed)} disagreements; {self.unobserved} unobserved,"
            f" {self.unjudged} without a reading; {len(self.failed)} drills failed",
        ]
        lines += [f"- {text}" for text in (*self.failed, *self.unexpected, *self.disagreed)]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        confusion = [
            {"class": kind, "implied": implied, "given": given, "count": count}
            for (kind, implied, given), count in sorted(self.confusion.items())
        ]
        names = ("runs", "per_scenario", "failed", "unexpected", "disagreed", "unobserved", "unjudged")
        return {**{name: getattr(self, name) for name in names}, "confusion": confusion}


class OwnLab:
    """The lab under a prefix of our own: others may drill on this machine at the same time."""

    def __init__(self, directory: Path):
        self._directory = directory

    def up(self, options: LabOptions, progress: Any) -> Lab:
        return Lab.up(options, progress, prefix=PREFIX, state_dir=self._directory)


def drill(scenario: Scenario, out: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One drill of a scenario; its document.

    Raises:
        HaprobeError: If it gave none.
    """
    options = {"agent_rate_pps": given.rate, **scenario.options}
    plan = DrillPlan(
        trigger=scenario.trigger,
        steady_ns=round(given.steady * S),
        patience_ns=3 * LAB_PATIENCE_NS,
        validation_ns=round(given.validation * S),
        limit_ns=round(scenario.limit_s * S),
        lab=LabOptions(**options),
        scenario=scenario.name,
        steps=scenario.steps,
        out=out,
    )
    stage = LabStage(plan.lab or LabOptions(), scenario.trigger, scenario.steps, lab_type=OwnLab(out / "lab"))
    stage.ready_timeout_s = READY_S
    told = io.StringIO()
    try:
        run_drills(plan, stage, Wall(Console(file=told, width=200)), Console(file=told, width=160))
        if "ending early" in told.getvalue():  # a drill takes Ctrl-C as its own end
            raise KeyboardInterrupt
    except NoFailoverError:
        pass  # of some scenarios that is the point; the diagnosis has to say so
    finally:
        (out / "told.txt").write_text(told.getvalue())
    if "steps ended early" in told.getvalue():
        raise HaprobeError(f"what the scenario does to the lab was not done; see {out / 'told.txt'}")
    (stored,) = out.glob("*/report.json")
    document: dict[str, Any] = json.loads(stored.read_text())
    if not set(scenario.cells) <= set(document["matrix"]):
        raise HaprobeError("an agent gave no report")
    return document


def options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench scenarios", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", choices=[[], *SCENARIOS], metavar="NAME", help="which (default: all)")
    parser.add_argument("--runs", type=int, default=1, help="of each (default: 1)")
    parser.add_argument("--steady", type=float, default=3.0, help="seconds (default: 3)")
    parser.add_argument("--validation", type=float, default=3.0, help="seconds (default: 3)")
    parser.add_argument("--rate", type=int, default=200, help="probes per second of each flow (default: 200)")
    default = ROOT / f"runs/bench/scenarios-{time.strftime('%Y%m%dT%H%M%S')}"
    parser.add_argument("--out", type=Path, default=default, help="directory (default: runs/bench/scenarios-TIME)")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    given = options(argv)
    tally = Tally()
    names = list(dict.fromkeys(given.name)) or list(SCENARIOS)
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        for number in range(
            1, given.runs + 1
        ):  # round by round: trouble of the machine does not hit one scenario alone
            for name in names:
                print(f"run {number}/{given.runs}: {name}", file=sys.stderr, flush=True)
                out = (given.out / f"{name}-{number}").resolve()
                out.mkdir()
                try:
                    document = drill(SCENARIOS[name], out, given)
                except (HaprobeError, OSError, ValueError) as error:
                    tally.failed.append(f"{name} {number}: {error}")
                    print(f"  failed: {error}", file=sys.stderr, flush=True)
                else:
                    for text in tally.add(SCENARIOS[name], number, document):
                        print(f"  {text}", file=sys.stderr, flush=True)
                (given.out / "scenarios.md").write_text(tally.text())
                (given.out / "scenarios.json").write_text(json.dumps(tally.document(), indent=1) + "\n")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    print(tally.text(), end="")
    print(f"\n{given.out}")
    return 1 if tally.failed or tally.unexpected or tally.disagreed else 0
