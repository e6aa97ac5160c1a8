"""Comparing sets of runs."""

from __future__ import annotations

import io
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from probe.report.budgets import Budget, check
from probe.report.compare import Change, compare, junit, render
from probe.report.document import new_document

from . import build


def run_with(up: int | None, name: str = "r") -> dict[str, Any]:
    flows = [build.flow("e", faults=(build.Fault(build.DOWN, up),)), build.flow("e-fresh", session="fresh")]
    return new_document(run={**build.RUN, "id": name}, flows=flows)


def cell(changes: list[Change], session: str = "kept") -> Change:
    return next(c for c in changes if c.session == session)


def test_medians_of_the_longest_absence() -> None:
    baseline = [run_with(build.DOWN + s * build.S) for s in (1, 2, 9)]
    candidate = [run_with(build.DOWN + s * build.S) for s in (4, 4, 5)]
    change = cell(compare(baseline, candidate))
    assert change.baseline is not None and change.candidate is not None
    assert change.baseline.median_ns == pytest.approx(2 * build.S, abs=4 * build.MS)
    assert change.delta_ns == pytest.approx(2 * build.S, abs=8 * build.MS)
    assert not change.worse


def test_a_run_that_never_came_back_is_counted_not_given_a_length() -> None:
    change = cell(compare([run_with(build.DOWN + build.S)], [run_with(build.DOWN + build.S), run_with(None)]))
    assert change.candidate is not None
    assert change.candidate.open_runs == 1
    assert change.candidate.median_ns == pytest.approx(build.S, abs=4 * build.MS)
    assert change.candidate.verdicts == {"survived": 1, "lost": 1}
    assert change.worse


def reset(name: str = "reset") -> dict[str, Any]:
    """A run in which a RST ended the session, and nothing was lost."""
    end = {"cause": "rst", "at_ns": build.PRIMARY, "from": "10.99.97.10", "ttl": 62}
    return new_document(run={**build.RUN, "id": name}, flows=[build.flow("e", session_end=end)])


def test_a_session_that_was_ended_has_no_length_either() -> None:
    back = [run_with(build.DOWN + s * build.S) for s in (1, 3)]
    change = cell(compare([*back, reset()], [reset(), reset()]))
    assert change.baseline is not None and change.candidate is not None
    assert change.baseline.median_ns == pytest.approx(2 * build.S, abs=4 * build.MS)
    assert (change.baseline.open_runs, change.candidate.open_runs) == (1, 2)
    assert change.candidate.median_ns is None and change.delta_ns is None


def test_better_is_not_worse_and_missing_is() -> None:
    lost, back = run_with(None), run_with(build.DOWN + build.S)
    assert not cell(compare([lost], [back])).worse
    gone = new_document(run=build.RUN, flows=[back["flows"][0]])
    assert cell(compare([back], [gone]), "fresh").worse


def test_junit_names_what_failed() -> None:
    changes = compare([run_with(build.DOWN + build.S)], [run_with(None)])
    results = check([run_with(None)], [Budget("quick", max_outage_ns=build.S)])
    suite = ElementTree.fromstring(junit(results, changes))
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    failed = {case.get("name"): case.find("failure") for case in suite.iter("testcase")}
    assert failed["east-west udp kept"] is not None
    assert failed["east-west udp kept"].get("message") == "survived, 1.00 s became lost"
    assert failed["east-west udp fresh"] is None


def test_the_two_limits_of_a_budget_are_cases_of_their_own() -> None:
    results = check([run_with(None)], [Budget("quick", max_outage_ns=build.S, verdicts=("lost", "unaffected"))])
    suite = ElementTree.fromstring(junit(results))
    failed = {case.get("name"): case.find("failure") is not None for case in suite.iter("testcase")}
    assert failed == {"quick: max_outage": True, "quick: verdict": False}


@pytest.mark.parametrize("odd", ["a\x00b", "a\x1b[31mb", "a\x7f\x08b", "a\ud800b", "a\ufffeb"])
def test_junit_is_xml_whatever_a_document_calls_its_paths_and_flows(odd: str) -> None:
    dark = build.flow(odd, path=odd, faults=(build.Fault(build.DOWN, None),))
    documents = [new_document(run=build.RUN, flows=flows) for flows in ([build.flow("a", path=odd)], [dark])]
    results = check(documents[1:], [Budget("quick", max_outage_ns=build.S)])
    written = junit(results, compare(documents[:1], documents[1:])).encode()
    _, verdict = ElementTree.fromstring(written).iter("testcase")
    assert str(verdict.get("name")).startswith("a") and str(verdict.get("name")).endswith("b udp kept")


@pytest.mark.parametrize("width", [80, 140])
def test_rendering(width: int) -> None:
    stream = io.StringIO()
    render(compare([run_with(build.DOWN + build.S)], [run_with(None)]), [], Console(file=stream, width=width))
    assert "worse" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= width


def blind(name: str = "blind") -> dict[str, Any]:
    """A run in which our own host was not sending for all of the time that matters."""
    stall = (build.START, build.END)
    return new_document(run={**build.RUN, "id": name}, flows=[build.flow("e", stall=stall)])


def test_an_unobserved_run_lends_no_length_to_the_median() -> None:
    [change] = compare(
        [blind(), {**run_with(build.DOWN + build.S), "flows": run_with(build.DOWN + build.S)["flows"][:1]}], [blind()]
    )
    assert change.baseline is not None and change.candidate is not None
    assert change.baseline.median_ns == pytest.approx(build.S, abs=4 * build.MS)
    assert change.candidate.median_ns is None
    assert change.delta_ns is None


def test_what_became_of_a_cell_has_a_word() -> None:
    back, lost = run_with(build.DOWN + build.S), run_with(None)
    alone = new_document(run=build.RUN, flows=lost["flows"][1:])
    kinds = {
        "same": ([back], [back, back]),
        "worse": ([back], [back, lost]),
        "better": ([lost], [back]),
        "mixed": ([lost, back], [lost, lost]),
        "gone": ([back], [alone]),
        "new": ([alone], [back]),
        "untold": ([lost], [blind()]),
    }
    for kind, (before, after) in kinds.items():
        change = cell(compare(before, after))
        assert change.kind == kind
        assert change.worse == (kind in ("worse", "gone"))
