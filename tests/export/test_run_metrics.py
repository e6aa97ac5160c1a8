"""A stored run as metrics: values from the document, read back by the client's parser and by promtool."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from probe import cli
from probe.export.run_metrics import RUN_FAMILIES, markdown_table, openmetrics

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/report.json"


@pytest.fixture
def document():
    found = json.loads(GOLDEN.read_text())
    found["budgets"] = [{"name": "outage", "limit": 1, "value": 2, "ok": False}]
    return found


def samples(text):
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def by(text, name, **labels):
    wanted = {"fortios": "7.6.4", "scenario": "crash", **labels}
    return [s.value for s in samples(text).values() if s.name == name and s.labels.items() >= wanted.items()]


def test_values_are_those_of_the_document(document):
    text = openmetrics(document)
    run = document["run"]
    assert by(text, "haprobe_drill_info", run=run["id"], trigger="crash", host="lab", version="0.1.0") == [1]
    assert by(text, "haprobe_drill_end_timestamp_seconds") == [run["ended_ns"] / 1e9]
    for phase in document["phases"]:
        (seconds,) = by(text, "haprobe_drill_phase_seconds", phase=phase["name"])
        assert round(seconds * 1e9) == phase["end_ns"] - phase["start_ns"]
        (begun,) = by(text, "haprobe_drill_phase_start_timestamp_seconds", phase=phase["name"])
        assert round(begun * 1e6) == phase["start_ns"] // 1000
    assert by(text, "haprobe_drill_budget_ok", budget="outage") == [0]
    assert by(text, "haprobe_drill_diagnosis", code=document["diagnosis"][0]["code"]) == [1]


def test_flows_of_a_kind_are_taken_together(document):
    twin = json.loads(json.dumps(next(flow for flow in document["flows"] if flow["outages"])))
    kind = {key: twin[key] for key in ("path", "protocol", "session")}
    document["flows"] = [twin, {**twin, "name": "twin", "outages": [], "verdict": "unaffected"}]
    longest = max(twin["outages"], key=lambda outage: outage["duration_ns"]["estimate"])["duration_ns"]
    text = openmetrics(document)
    for bound in ("lower", "estimate", "upper"):
        assert by(text, "haprobe_drill_outage_seconds", bound=bound, **kind) == [longest[bound] / 1e9]
    assert by(text, "haprobe_drill_outages", **kind) == [len(twin["outages"])]
    assert by(text, "haprobe_drill_lost_probes", **kind) == [2 * twin["counts"]["lost"]]
    assert by(text, "haprobe_drill_flows", verdict="unaffected", **kind) == [1]
    assert by(text, "haprobe_drill_flows", verdict=twin["verdict"], **kind) == [1]
    assert sum(by(text, "haprobe_drill_flows", **kind)) == 2


def test_streams_are_a_kind_of_their_own_and_have_no_outages(document):
    tcp = next(flow for flow in document["flows"] if flow["protocol"] == "tcp" and flow["session"] == "kept")
    stream = {**tcp, "outages": [], "verdict": "survived", "stack": "kernel"}
    document["flows"] = [{**tcp, "outages": [], "verdict": "unaffected"}, stream]
    text = openmetrics(document)
    assert by(text, "haprobe_drill_flows", protocol="tcp", session="kept", verdict="unaffected") == [1]
    assert by(text, "haprobe_drill_flows", protocol="tcp", session="kept", verdict="survived") == [0]
    assert by(text, "haprobe_drill_flows", protocol="stream", session="kept", verdict="survived") == [1]
    for name in ("haprobe_drill_outages", "haprobe_drill_outage_seconds"):
        assert by(text, name, protocol="tcp") and not by(text, name, protocol="stream")


def test_a_budget_is_kept_when_all_of_its_limits_are(document):
    told = [("both", True), ("both", False), ("other", True), ("other", True)]
    document["budgets"] = [{"name": name, "limit": ["lost"], "value": "lost", "ok": ok} for name, ok in told]
    text = openmetrics(document)
    assert text.count("haprobe_drill_budget_ok{") == 2
    assert by(text, "haprobe_drill_budget_ok", budget="both") == [0]
    assert by(text, "haprobe_drill_budget_ok", budget="other") == [1]


def test_a_run_without_labels_or_bounds_is_told_too(document):
    document["run"]["labels"] = {}
    document["run"]["clock"]["max_error_ns"] = None
    text = openmetrics(document)
    (found,) = (s for s in samples(text).values() if s.name == "haprobe_drill_clock_max_error_seconds")
    assert (found.labels, found.value) == ({"fortios": "", "scenario": ""}, float("inf"))


def test_every_declared_family_is_filled_and_documented(document):
    text = openmetrics(document)
    assert {sample.name for sample in samples(text).values()} == set(RUN_FAMILIES)
    assert (ROOT / "docs/run-metrics.md").read_text() == markdown_table(), "make docs"


def test_command_writes_a_file_for_a_textfile_collector(tmp_path, capsys):
    file = tmp_path / "drill.prom"
    file.write_text("old")
    assert cli.main(["report", str(GOLDEN), "--openmetrics", str(file)]) == 0
    assert file.read_text() == openmetrics(json.loads(GOLDEN.read_text()))
    assert [path.name for path in tmp_path.iterdir()] == ["drill.prom"]
    assert all(sample.timestamp is None for sample in samples(file.read_text()).values())
    assert capsys.readouterr().out != ""
    assert cli.main(["report", str(GOLDEN), "--openmetrics", "-"]) == 0
    assert capsys.readouterr().out == file.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--stamped",), "--stamped is for --openmetrics only"),
        (("--openmetrics", "nowhere/drill.prom"), "nowhere/drill.prom"),
        (("--openmetrics", "folder"), "folder cannot be written"),
    ],
)
def test_command_says_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert cli.main(["report", str(GOLDEN), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_makes_blocks_of_a_stamped_file(tmp_path, document):
    (tmp_path / "run.om").write_text(openmetrics(document, stamped=True))
    made = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "run.om", "data"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "data/wal").mkdir()  # the dump asks for one
    shown = subprocess.run(
        ["promtool", "tsdb", "dump", "data"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert len(shown) == len(samples(openmetrics(document)))
    assert {line.split()[-1] for line in shown} == {str(document["run"]["ended_ns"] // 1_000_000)}
