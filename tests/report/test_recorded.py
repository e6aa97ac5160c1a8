"""What drills of the lab's scenarios came to, judged again: the right diagnosis first, and no wrong one.

Recorded by `python -m tests.bench.failures --record tests/report/recorded`: true flows and events, no lab needed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from probe.drill.expected import mismatches
from probe.drill.scenarios import SCENARIOS
from probe.report import html, text
from probe.report import phrases as say
from probe.report.document import new_document
from probe.report.questions import answers

RECORDED = {path.stem: path for path in sorted((Path(__file__).parent / "recorded").glob("*.json"))}
ABOUT_HA = {"eip_routes_not_moved", "eip_moved_routes_not", "routes_moved_eip_not", "moved_but_ingress_dark"}


def document(name: str, told: Callable[[Mapping[str, Any]], bool] = lambda event: True, **run: Any) -> dict[str, Any]:
    """The run's document, made anew of the events that `told` lets pass."""
    recorded = json.loads(RECORDED[name].read_text())
    return new_document(
        run={**recorded["run"], **run},
        flows=recorded["flows"],
        timeline=[event for event in recorded["timeline"] if told(event)],
    )


def not_the_labs(event: Mapping[str, Any]) -> bool:
    return bool(event["source"] != "lab")


def codes(made: Mapping[str, Any]) -> list[str]:
    return [finding["code"] for finding in made["diagnosis"]]


def everything(made: Mapping[str, Any]) -> str:
    stream = io.StringIO()
    text.render(made, Console(file=stream, width=140))
    return stream.getvalue() + html.render(made)


def test_every_failure_of_the_cloud_is_recorded() -> None:
    assert set(RECORDED) <= set(SCENARIOS)
    assert {name for name, one in SCENARIOS.items() if one.options.get("api_faults") and "iam" in name} <= set(RECORDED)


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("told", [lambda event: True, not_the_labs], ids=["lab and watchers", "watchers alone"])
def test_the_right_diagnosis_is_first_and_none_is_wrong(name: str, told: Callable[[Mapping[str, Any]], bool]) -> None:
    """A real account has no lab that tells what happened: the watchers must do."""
    made, scenario = document(name, told), SCENARIOS[name]
    assert codes(made)[:1] == [scenario.diagnosis]
    assert set(codes(made)) <= {scenario.diagnosis, *scenario.also}
    assert mismatches(made, scenario) == []
    assert all(finding["evidence"] for finding in made["diagnosis"])
    assert all(finding["check_first"] for finding in made["diagnosis"] if finding["code"] != "failover_clean")
    assert len(answers(made)) == 5
    assert everything(made)


@pytest.mark.parametrize("name", RECORDED)
def test_without_any_watcher_nothing_is_said_about_what_nobody_saw(name: str) -> None:
    made = document(name, lambda event: False, config={})
    assert not ABOUT_HA & set(codes(made))
    assert "split_brain" not in codes(made)
    assert {phase["name"] for phase in made["phases"]} <= {"full_recovery"}


@pytest.mark.parametrize("name", RECORDED)
def test_phases_that_nobody_saw_are_told_to_be_missing(name: str) -> None:
    made = document(name)
    found = {phase["name"] for phase in made["phases"]}
    missing = set(say.PHASES) - found
    told = " ".join(say.phase_gaps(made))
    assert all(phase in told for phase in missing)
    assert not any(f"{phase}:" in told for phase in found)
    for phase in made["phases"]:
        assert phase["start_ns"] <= phase["end_ns"]
        assert (phase["share"] is None) == ("full_recovery" not in found)


@pytest.mark.parametrize(
    ("name", "evidence", "check"),
    [
        ("iam-denied-eip", "AssociateAddress 203.0.113.10: UnauthorizedOperation", "simulate-principal-policy"),
        ("iam-denied-routes", "0.0.0.0/0 still points at fgt-a, not at fgt-b", "simulate-principal-policy"),
        ("iam-denied", "UnauthorizedOperation", "simulate-principal-policy"),
        ("endpoint-unreachable", "DescribeInstances", "management interface to the EC2 API"),
        ("edge-route-rewritten", "no Elastic IP and no route moved", "Edge (gateway) route tables"),
        ("edge-route-failback", "still points at fgt-b, not at fgt-a", "Edge (gateway) route tables"),
        ("edge-route-ingress", "10.99.99.0/28 points back at fgt-a, not at fgt-b", "terraform apply"),
        ("dns-fails", "DescribeInstances", "show system dns"),
        ("api-throttled", "RequestLimitExceeded", "Who else calls EC2"),
        ("route-forgotten", "0.0.0.0/0 still points at fgt-a, not at fgt-b", "is the table listed?"),
        ("split-brain", "fgt-b became primary", "heartbeat interfaces"),
    ],
)
def test_evidence_and_checks_are_those_of_the_failure(name: str, evidence: str, check: str) -> None:
    first = document(name)["diagnosis"][0]
    assert any(evidence in line for line in first["evidence"])
    assert any(check in line for line in first["check_first"])


@pytest.mark.parametrize("told", [lambda event: True, not_the_labs], ids=["lab and watchers", "watchers alone"])
def test_watchers_that_are_cut_off_together_are_both_named(told: Callable[[Mapping[str, Any]], bool]) -> None:
    made = document("watchers-cut-off", told)
    (blind,) = (one for one in made["diagnosis"] if one["code"] == "watcher_blind")
    for name in ("aws", "fortigate"):
        assert any(line.startswith(f"watcher {name}: blind for") for line in blind["evidence"])


@pytest.mark.parametrize("name", [name for name in RECORDED if name.startswith(("watcher-", "watchers-"))])
def test_a_blind_watcher_costs_the_report_nothing_else(name: str) -> None:
    made = document(name)
    assert "watcher_blind" in codes(made)
    assert set(say.PHASES) == {phase["name"] for phase in made["phases"]}
    packets = [flow for flow in made["flows"] if flow.get("stack") != "kernel"]
    assert len(packets) == 18
    assert {cell for row in made["matrix"].values() for cell in row.values()} <= {
        "survived", "recovered", "rebound", "lost", "unaffected"
    }  # fmt: skip
