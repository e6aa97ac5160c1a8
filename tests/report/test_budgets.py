"""Budgets: reading them, and holding runs against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probe.errors import ConfigError
from probe.report import phrases as say
from probe.report.budgets import Budget, check, load_budgets
from probe.report.document import new_document
from probe.report.document import problems as problems_of

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


def test_one_verdict_needs_no_list(tmp_path: Path) -> None:
    assert load_budgets(write(tmp_path, "- {name: a, path: '', verdict: recovered}\n")) == [
        Budget("a", verdicts=("recovered",))
    ]


def problems(tmp_path: Path, text: str) -> list[str]:
    """What is said about a file, without the file's directory."""
    with pytest.raises(ConfigError) as caught:
        load_budgets(write(tmp_path, text))
    return [line.removeprefix(f"{tmp_path}/") for line in caught.value.problems]


def test_every_mistake_with_its_line(tmp_path: Path) -> None:
    text = "- name: a\n  max_outage: 5\n- {name: b, max_outge: 5s}\n- {verdict: fine, protocol: sctp}\n"
    found = problems(tmp_path, text)
    for start in (
        "budget.yml:2: [0].max_outage: 5 is not a duration; allowed: 0s to 2400h",
        "budget.yml:3: [1].max_outge: unknown key (did you mean max_outage?); allowed: name,",
        "budget.yml:3: [1]: limits nothing; allowed: max_outage, a duration such as 5s, and/or verdict",
        "budget.yml:4: [2].name: is missing; allowed: any text",
        "budget.yml:4: [2].protocol: 'sctp' does not fit; allowed: icmp, udp, tcp, stream",
        "budget.yml:4: [2].verdict: 'fine' is not known; allowed: unaffected, survived,",
    ):
        assert any(line.startswith(start) for line in found), (start, found)
    assert len(found) == 6
    indented = problems(tmp_path, "budgets:\n" + "".join(f"  {line}\n" for line in text.splitlines()))
    assert "budget.yml:3: budgets[0].max_outage: 5 is not a duration" in indented[0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("verdict: []", "[0].verdict: holds no verdict"),
        ("verdict:", "[0].verdict: None is not known"),
        ("verdict: no", "[0].verdict: False is not known"),
        ("verdict: [survived, {a: b}]", "[0].verdict: {'a': 'b'} is not known"),
        ("max_outage: 50s", "[0].max_outage: is given twice, first in line 2"),
        ("path: [a, b]", "[0].path: ['a', 'b'] is not text"),
        ("path: 5", "[0].path: 5 is not text"),
        ("path:", "[0].path: None is not text"),
        ("session: old", "[0].session: 'old' does not fit"),
        ("path: 2026-13-45", "is not valid YAML: '2026-13-45' is no usable timestamp"),
        ("path: " + "[" * 2000, "is nested too deeply"),
    ],
)
def test_what_could_pass_for_something_else_is_a_mistake(tmp_path: Path, line: str, said: str) -> None:
    (found,) = problems(tmp_path, f"- name: x\n  max_outage: 5s\n  {line}\n")
    where, _, what = found.partition(": ")
    assert where in ("budget.yml:3", "budget.yml:1" if "nested" in said else "budget.yml:3")
    assert what.startswith(said)


@pytest.mark.parametrize("limit", ["9" * 400 + "s", "2401h", "", "5"])
def test_a_limit_is_a_duration_that_can_be_told(tmp_path: Path, limit: str) -> None:
    (found,) = problems(tmp_path, f"- name: x\n  max_outage: {limit}\n")
    assert found.startswith("budget.yml:2: [0].max_outage: ") and "; allowed: 0s to 2400h" in found


@pytest.mark.parametrize("name", ["", "''", "5", "2026-01-01", '"a\\x01b"'])
def test_a_name_is_text_that_can_be_printed(tmp_path: Path, name: str) -> None:
    (found,) = problems(tmp_path, f"- name: {name}\n  max_outage: 5s\n")
    assert found.startswith("budget.yml:1: [0].name: ")


@pytest.mark.parametrize("text", ["", "a: 1\n", "- 5\n", "- {name: x\n", "[]\n", "budgets: []\n", "budgets: {}\n", "5"])
def test_what_is_no_budget_file(tmp_path: Path, text: str) -> None:
    assert all(line.startswith("budget.yml:") and "; allowed: " in line for line in problems(tmp_path, text))


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


def with_bounds(flow: dict[str, Any], *bounds: tuple[int, int], tx_error_ns: int = 0) -> dict[str, Any]:
    """A flow whose outages have these lower and upper bounds."""
    for outage, (lower, upper) in zip(flow["outages"], bounds, strict=True):
        outage["duration_ns"] = {"lower": lower, "estimate": (lower + upper) // 2, "upper": upper}
        outage["tx_error_ns"] = tx_error_ns
    return flow


def test_how_well_tx_times_are_known_counts() -> None:
    flow = build.flow("a", faults=(build.Fault(build.DOWN, build.DOWN + 5 * build.S - 4 * build.MS),))
    lower, upper = (flow["outages"][0]["duration_ns"][bound] for bound in ("lower", "upper"))
    assert upper <= 5 * build.S
    flow = with_bounds(flow, (lower - 3 * build.MS, upper + 5 * build.MS), tx_error_ns=8 * build.MS)
    [result] = check([new_document(run=build.RUN, flows=[flow])], [Budget("x", max_outage_ns=5 * build.S)])
    assert (result["value"], result["ok"]) == (upper + 5 * build.MS, False)


def test_what_one_outage_leaves_open_is_not_added_to_another() -> None:
    long = build.Fault(build.DOWN, build.DOWN + 4 * build.S)
    flow = build.flow("a", faults=(long, build.Fault(build.DOWN + 10 * build.S, build.DOWN + 11 * build.S)))
    short = flow["outages"][1]
    short["edges_ns"]["last_ok"] -= 3 * build.S  # nothing was observed before it
    outer = [o["end_ns"] - o["edges_ns"]["last_ok"] for o in flow["outages"]]
    flow = with_bounds(
        flow, *[(o["duration_ns"]["lower"], upper) for o, upper in zip(flow["outages"], outer, strict=True)]
    )
    [result] = check([new_document(run=build.RUN, flows=[flow])], [Budget("x", max_outage_ns=5 * build.S)])
    assert result == {"name": "x", "limit": 5 * build.S, "value": 4 * build.S + 2 * build.MS, "ok": True}


def test_outages_that_touch_are_judged_as_one() -> None:
    flow = build.flow("a", faults=build.path_faults("ingress"))
    first, last = flow["outages"]
    whole = last["edges_ns"]["first_ok"] - first["edges_ns"]["last_ok"]
    bounds = [(o["duration_ns"]["lower"], o["duration_ns"]["upper"] + build.MS) for o in flow["outages"]]
    flow = with_bounds(flow, *bounds, tx_error_ns=build.MS)
    [result] = check([new_document(run=build.RUN, flows=[flow])], [Budget("x", max_outage_ns=build.S)])
    assert result["value"] == whole + 2 * build.MS  # either edge may be that much farther out


def test_an_open_outage_is_over_every_limit() -> None:
    [result] = check([build.drill()], [Budget("tcp", "egress", "tcp", "kept", max_outage_ns=3600 * build.S)])
    assert result["ok"] is False
    assert result["unbounded"] == ["workload-a/egress-tcp"]
    assert say.budget(result).endswith(" s, and longer than is known on workload-a/egress-tcp (limit 60 min 00.0 s)")


def test_an_outage_that_began_before_the_run_is_over_every_limit() -> None:
    flow = build.flow("a", faults=(build.Fault(build.DOWN, build.DOWN + build.S),))
    flow["outages"][0]["censored"], flow["outages"][0]["edges_ns"]["last_ok"] = "start", 0
    [result] = check([new_document(run=build.RUN, flows=[flow])], [Budget("x", max_outage_ns=5 * build.S)])
    assert not result["ok"] and result["unbounded"] == ["workload-a/a"]
    assert problems_of({**build.drill(), "budgets": [result]}) == []


RESET = {"cause": "rst", "at_ns": build.PRIMARY, "from": "10.99.97.10", "ttl": 62, "peer_ttl": 250}


@pytest.mark.parametrize("cause", ["rst", "fin"])
@pytest.mark.parametrize("twin", [False, True])
def test_a_session_that_was_ended_is_over_every_limit(cause: str, twin: bool) -> None:
    flows = [build.flow("a", protocol="tcp", session_end={**RESET, "cause": cause})]
    flows += [build.flow("a-fresh", protocol="tcp", session="fresh")] if twin else []
    document = new_document(run=build.RUN, flows=flows)
    assert (document["flows"][0]["session_end"]["again_ns"] is not None) == twin  # new sessions do not save it
    [result] = check([document], [Budget("x", session="kept", max_outage_ns=5 * build.S)])
    assert result == {"name": "x", "limit": 5 * build.S, "value": 0, "ok": False, "unbounded": ["workload-a/a"]}
    assert say.budget(result) == "x: longer than is known on workload-a/a (limit 5.000 s)"


def test_the_resets_of_new_sessions_are_answers() -> None:
    document = new_document(run=build.RUN, flows=[build.flow("a", protocol="tcp", session="fresh", session_end=RESET)])
    assert check([document], [Budget("x", max_outage_ns=5 * build.S)])[0]["ok"]


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


def test_what_was_not_observed_keeps_no_limit() -> None:
    seen = build.flow("a", session="fresh", faults=(build.Fault(build.DOWN, build.DOWN + build.S),))
    blind = build.flow("b", session="fresh", path="egress", stall=(build.START, build.END))
    document = new_document(run=build.RUN, flows=[seen, blind])
    paths = ("egress", "east-west", "")
    alone, other, every = check([document, document], [Budget("x", path, max_outage_ns=3 * build.S) for path in paths])
    assert alone == {"name": "x", "limit": 3 * build.S, "value": None, "ok": False, "unobserved": ["workload-a/b"]}
    assert other["ok"] and other["value"] == every["value"] and "unobserved" not in other
    assert not every["ok"] and every["unobserved"] == ["workload-a/b"]
    assert say.budget(alone) == "x: nothing is known of workload-a/b (limit 3.000 s)"
    assert say.budget(every) == "x: 1.002 s, and nothing is known of workload-a/b (limit 3.000 s)"
    assert problems_of({**document, "budgets": [alone, other, every]}) == []


def test_an_outage_is_judged_also_where_the_rest_was_not_observed() -> None:
    stalled = build.flow("a", faults=(build.Fault(build.DOWN, build.DOWN + build.S),))
    document = new_document(run=build.RUN, flows=[stalled])
    document["flows"][0]["verdict"] = "unobserved"
    [result] = check([document], [Budget("x", max_outage_ns=3 * build.S)])
    assert result["ok"] and result["value"] > build.S


def test_of_several_runs_the_worst_counts() -> None:
    good, bad = build.drill(), build.drill(pickup=False)
    budget = [Budget("kept", "east-west", "tcp", "kept", verdicts=("survived",))]
    assert check([good], budget)[0]["ok"]
    assert check([good, bad], budget)[0] == {"name": "kept", "limit": ["survived"], "value": "lost", "ok": False}
