"""Scenarios as data: whole, told, and held against documents."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from probe.core.diagnosis import RULES
from probe.core.events import VERDICTS
from probe.drill.expected import markdown, mismatches
from probe.drill.scenarios import PATHS, PROTOCOLS, SCENARIOS, Scenario
from probe.lab.lab import Lab
from probe.lab.plan import LabOptions

COLUMNS = [f"{protocol}{new}" for new in ("", "-new") for protocol in PROTOCOLS]


def document(scenario: Scenario, *codes: str) -> dict[str, Any]:
    """One that is as expected."""
    matrix = {path: {column: right[0] for column, right in row.items()} for path, row in scenario.cells.items()}
    return {"matrix": matrix, "diagnosis": [{"code": code} for code in codes or (scenario.diagnosis,)]}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
def test_every_scenario_is_whole(scenario: Scenario) -> None:
    assert set(scenario.options) <= {one.name for one in fields(LabOptions)}
    assert scenario.diagnosis in {rule.code for rule in RULES}
    assert set(scenario.cells) == set(PATHS)
    for row in scenario.cells.values():
        assert sorted(row) == sorted(COLUMNS)
        assert {word for right in row.values() for word in right} <= {*VERDICTS, "recovered"}
    for step in scenario.steps:
        inspect.signature(getattr(Lab, step.do)).bind(None, **step.arguments)
    assert scenario.trigger != "script" or scenario.steps
    assert mismatches(document(scenario), scenario) == []


def test_what_is_not_as_expected_is_named() -> None:
    scenario = SCENARIOS["failover"]
    found = document(scenario)
    found["matrix"]["egress"]["tcp"] = "survived"
    del found["matrix"]["ingress"]
    found["diagnosis"] = [{"code": "second_failover"}, {"code": "failover_clean"}]
    told = mismatches(found, scenario)
    assert told[0] == "egress tcp: survived instead of lost"
    assert len(told) == 1 + len(COLUMNS) + 1
    assert told[-1] == "diagnosis second_failover, failover_clean instead of failover_clean"


def test_what_was_not_observed_is_not_wrong() -> None:
    scenario = SCENARIOS["failover"]
    found = document(scenario, "nat_sessions_lost", "probe_unreliable")
    found["matrix"]["egress"]["tcp"] = "unobserved"
    assert mismatches(found, scenario) == []
    found = document(scenario, "second_failover", "probe_unreliable")
    assert mismatches(found, scenario) != []
    assert mismatches(document(scenario, "nat_sessions_lost"), scenario) != [], "nothing excuses the missing code"


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "scenarios.md"
    assert page.read_text() == markdown(), "python -m probe.drill.expected > docs/scenarios.md"
