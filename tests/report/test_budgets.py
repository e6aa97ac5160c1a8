"""Budgets: reading them, and holding runs against them."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe.errors import ConfigError
from probe.report.budgets import Budget, check, load_budgets

from . import build


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "budget.yml"
    file.write_text(text)
    return file


def test_reading(tmp_path: Path) -> None:
    text = "- name: a\n  path: east-west\n  session: kept\n  max_outage: 5s\n  verdict: [survived, unaffected]\n"
    expected = [Budget("a", "east-west", "", "kept", 5 * build.S, ("survived", "unaffected"))]
    assert load_budgets(write(tmp_path, text)) == expected
    indented = "budgets:\n" + "".join(f"  {line}\n" for line in text.splitlines())
    assert load_budgets(write(tmp_path, indented)) == expected


def test_every_mistake_with_its_line(tmp_path: Path) -> None:
    text = "- name: a\n  max_outage: 5\n- {name: b, max_outge: 5s}\n- {verdict: fine, protocol: sctp}\n"
    with pytest.raises(ConfigError) as caught:
        load_budgets(write(tmp_path, text))
    problems = "\n".join(caught.value.problems)
    assert ":1: max_outage: '5' is not a duration" in problems
    assert ":3: max_outge: unknown; allowed:" in problems
    assert ":4: name: missing" in problems
    assert ":4: protocol: 'sctp'; allowed: icmp, udp, tcp" in problems
    assert ":4: verdict: 'fine'; allowed:" in problems


@pytest.mark.parametrize("text", ["", "a: 1\n", "- 5\n", "- {name: x\n", "[]\n"])
def test_what_is_no_budget_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="budget"):
        load_budgets(write(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_budgets(tmp_path / "none.yml")


def test_limits_are_held_against_the_upper_bound() -> None:
    document = build.drill()
    upper = max(o["duration_ns"]["upper"] for f in document["flows"] if f["path"] == "east-west" for o in f["outages"])
    budgets = [Budget("exact", "east-west", max_outage_ns=upper), Budget("less", "east-west", max_outage_ns=upper - 1)]
    exact, less = check([document], budgets)
    assert exact == {"name": "exact", "limit": upper, "value": upper, "ok": True}
    assert less["ok"] is False


def test_an_open_outage_is_over_every_limit() -> None:
    [result] = check([build.drill()], [Budget("tcp", "egress", "tcp", "kept", max_outage_ns=3600 * build.S)])
    assert result["ok"] is False


def test_verdicts() -> None:
    budgets = [
        Budget("new", session="fresh", verdicts=("recovered", "unaffected")),
        Budget("old", path="ingress", session="kept", verdicts=("survived",)),
    ]
    new, old = check([build.drill()], budgets)
    assert new["ok"] is True
    assert old == {"name": "old", "limit": ["survived"], "value": "lost", "ok": False}


def test_a_budget_on_nothing_does_not_pass() -> None:
    results = check([build.drill()], [Budget("typo", "eastwest", max_outage_ns=build.S, verdicts=("survived",))])
    assert [(r["value"], r["ok"]) for r in results] == [(None, False), (None, False)]


def test_of_several_runs_the_worst_counts() -> None:
    good, bad = build.drill(), build.drill(pickup=False)
    budget = [Budget("kept", "east-west", "tcp", "kept", verdicts=("survived",))]
    assert check([good], budget)[0]["ok"]
    assert check([good, bad], budget)[0] == {"name": "kept", "limit": ["survived"], "value": "lost", "ok": False}
