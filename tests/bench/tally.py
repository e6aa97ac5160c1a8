"""What the drills of a bench said, held to the scenario's expectation and to the stand-ins' session tables. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from probe.core.verdict import WORST_FIRST
from probe.drill.expected import mismatches
from probe.drill.scenarios import Scenario
from probe.lab.truth import agrees, truths

COLUMNS = ("runs", "as expected", "as the tables imply", "spoiled by the host", "failed")


@dataclass
class Tally:
    """What all runs said. Keys of `confusion` are (flow class, implied, given)."""

    runs: int = 0
    failed: list[str] = field(default_factory=list)  # drills that gave no document, or broke off
    unexpected: list[str] = field(default_factory=list)
    disagreed: list[str] = field(default_factory=list)
    spoiled: list[str] = field(default_factory=list)  # our own host stalled: they count all the same
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
        spoiled = _spoiled(document)
        if spoiled:
            self.spoiled.append(f"{scenario.name} {number}: spoiled by the host: {spoiled}")
        self.unexpected += wrong
        self.disagreed += off
        row = self._row(scenario.name)
        row["runs"] += 1
        row["as expected"] += not wrong
        row["as the tables imply"] += not off
        row["spoiled by the host"] += bool(spoiled)
        return wrong + off + self.spoiled[-1:] * bool(spoiled)

    def fail(self, name: str, number: int, why: str) -> list[str]:
        """Take in a drill that gave no document."""
        self.failed.append(f"{name} {number}: failed: {why}")
        row = self._row(name)
        row["runs"] += 1
        row["failed"] += 1
        return self.failed[-1:]

    @property
    def good(self) -> bool:
        """Whether every run was as expected, and as the tables imply."""
        return not (self.failed or self.unexpected or self.disagreed)

    def text(self) -> str:
        """For people: per scenario, then per class of flow what was given against what is implied."""
        lines = ["| scenario | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
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
        lines += [f"- {text}" for text in (*self.failed, *self.unexpected, *self.disagreed, *self.spoiled)]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, Any]:
        """The same as JSON."""
        confusion = [
            {"class": kind, "implied": implied, "given": given, "count": count}
            for (kind, implied, given), count in sorted(self.confusion.items())
        ]
        names = ("runs", "per_scenario", "failed", "unexpected", "disagreed", "spoiled", "unobserved", "unjudged")
        return {**{name: getattr(self, name) for name in names}, "confusion": confusion}

    def _row(self, name: str) -> dict[str, int]:
        return self.per_scenario.setdefault(name, dict.fromkeys(COLUMNS, 0))


def _spoiled(document: Mapping[str, Any]) -> str:
    """What our own host kept from being seen in a run; empty: nothing that matters."""
    unseen = [flow["name"] for flow in document["flows"] if flow["verdict"] == "unobserved"]
    if unseen:
        return f"unobserved: {', '.join(unseen)}"
    stalled = any(one["code"] == "probe_unreliable" for one in document["diagnosis"])
    return "stalls of its own overlap an outage" if stalled else ""
