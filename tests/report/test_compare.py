"""Comparing sets of runs."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from probe.errors import UsageError
from probe.report.budgets import Budget
from probe.report.compare import Change, check, command, compare, junit, render
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


@pytest.mark.parametrize("width", [80, 140])
def test_rendering(width: int) -> None:
    stream = io.StringIO()
    render(compare([run_with(build.DOWN + build.S)], [run_with(None)]), [], Console(file=stream, width=width))
    assert "worse" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= width


def arguments(tmp_path: Path, candidate: dict[str, Any], **more: Any) -> argparse.Namespace:
    for name, document in (("a", run_with(build.DOWN + build.S)), ("b", candidate)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(document))
    return argparse.Namespace(
        baseline=str(tmp_path / "a"), candidate=str(tmp_path / "b"), **{"budget": None, "junit": None, **more}
    )


def test_command_says_by_status_whether_anything_got_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.xml"
    assert command(arguments(tmp_path, run_with(None), junit=str(file))) == 1
    assert ElementTree.parse(file).getroot().get("failures") == "1"
    assert "lost" in capsys.readouterr().out


def test_command_holds_the_candidate_to_budgets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget = tmp_path / "budget.yml"
    budget.write_text("- {name: strict, path: east-west, max_outage: 1500ms}\n")
    args = arguments(tmp_path, run_with(build.DOWN + 2 * build.S), budget=str(budget))
    assert command(args) == 1
    assert "EXCEEDED" in capsys.readouterr().out
    budget.write_text("- {name: strict, path: east-west, max_outage: 3s}\n")
    assert command(args) == 0


def test_s3_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match="S3"):
        command(argparse.Namespace(baseline="s3://bucket/x", candidate="y", budget=None, junit=None))
