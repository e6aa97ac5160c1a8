"""Holds a drill's document to what its scenario is expected to give. Sans-IO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probe.core.diagnosis import RULES
from probe.drill.scenarios import PATHS, PROTOCOLS, SCENARIOS, Scenario

_CAVEATS = frozenset(rule.code for rule in RULES if rule.caveat)


def mismatches(document: Mapping[str, Any], scenario: Scenario) -> list[str]:
    """Every cell of the matrix, and the first diagnosis, that is not as expected; one phrase each.

    A cell that is `unobserved` is neither right nor wrong. Where our own host stalled, `probe_unreliable` stands where
    `failover_clean` would.
    """
    found = []
    for path, row in scenario.cells.items():
        for column, right in row.items():
            given = document["matrix"].get(path, {}).get(column, "missing")
            if given not in (*right, "unobserved"):
                found.append(f"{path} {column}: {given} instead of {' or '.join(right)}")
    codes = [one["code"] for one in document["diagnosis"]]
    others = [code for code in codes if code != "probe_unreliable"]
    clean = scenario.diagnosis == "failover_clean" and len(others) < len(codes) and _CAVEATS.issuperset(others)
    if not clean and others[:1] != [scenario.diagnosis]:
        found.append(f"diagnosis {', '.join(codes) or 'none'} instead of {scenario.diagnosis}")
    return found


def markdown() -> str:
    """The page of the documentation."""
    lines = [
        "# Scenarios of the lab",
        "",
        "`haprobe drill --lab --scenario NAME` rehearses one, `haprobe lab scenarios` lists them. Generated from"
        " `probe/drill/scenarios.py`; `python -m tests.bench scenarios` holds the drill to it.",
        "",
        "Verdicts are given for icmp / udp / tcp, old sessions first, new ones behind them.",
    ]
    for scenario in SCENARIOS.values():
        lines += ["", f"## {scenario.name}", "", f"{_sentence(scenario.summary)} {_sentence(scenario.expects)}", ""]
        steps = "; ".join([scenario.trigger, *(step.describe() for step in scenario.steps)])
        lines.append(f"Trigger: {steps}. First diagnosis: `{scenario.diagnosis}`.")
        if scenario.cells:
            lines += ["", "| path | old sessions | new sessions |", "|---|---|---|"]
            lines += [f"| {path} | {_cell(scenario, path, '')} | {_cell(scenario, path, '-new')} |" for path in PATHS]
    return "\n".join(lines) + "\n"


def _cell(scenario: Scenario, path: str, kind: str) -> str:
    return " / ".join(" or ".join(scenario.cells[path][f"{protocol}{kind}"]) for protocol in PROTOCOLS)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


if __name__ == "__main__":
    print(markdown(), end="")
