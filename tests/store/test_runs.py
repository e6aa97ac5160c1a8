"""Runs on disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from probe.errors import UsageError
from probe.report import html
from probe.store.runs import load, load_all, new_run_id, store, to_json

GOLDEN = Path(__file__).parent.parent / "golden" / "report.json"


@pytest.fixture
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


def test_run_ids_sort_by_time() -> None:
    start = 1_764_763_200_000_000_000
    assert new_run_id(start + 45_000_000) == "20251203T120000.045Z"
    ids = [new_run_id(start + ms * 1_000_000) for ms in (0, 1, 999, 1000, 86_400_000)]
    assert ids == sorted(set(ids))


def test_stored_run_reads_back_alike(tmp_path: Path, document: dict[str, Any]) -> None:
    run = store(document, tmp_path / "deep" / "runs")
    assert run == tmp_path / "deep" / "runs" / document["run"]["id"]
    assert sorted(p.name for p in run.iterdir()) == ["report.html", "report.json"]
    assert (run / "report.html").read_text() == html.render(document)
    for path in (run, run / "report.json", tmp_path / "deep" / "runs"):
        assert load(path) == document
    assert [p.name for p in (tmp_path / "deep" / "runs").iterdir()] == [document["run"]["id"]]


def test_more_files_are_kept_verbatim_beside_it(tmp_path: Path, document: dict[str, Any]) -> None:
    run = store(document, tmp_path, {"awsd-fgt-b.log": "fgt-b # HA event\r\nHA state: primary\n"})
    assert (run / "awsd-fgt-b.log").read_bytes() == b"fgt-b # HA event\r\nHA state: primary\n"
    assert load(tmp_path) == document, "and are no run"


def test_a_run_is_stored_once(tmp_path: Path, document: dict[str, Any]) -> None:
    store(document, tmp_path)
    with pytest.raises(UsageError, match="stored already"):
        store(document, tmp_path)


@pytest.mark.parametrize("run_id", ["", "..", "a/b", ".hidden", "/etc"])
def test_an_id_cannot_lead_elsewhere(tmp_path: Path, document: dict[str, Any], run_id: str) -> None:
    document["run"]["id"] = run_id
    with pytest.raises(UsageError, match="cannot name a directory"):
        store(document, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        store(document, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_is_named(tmp_path: Path, document: dict[str, Any]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        store(document, tmp_path / "file" / "runs")


def test_several_runs(tmp_path: Path, document: dict[str, Any]) -> None:
    for run_id in ("b", "a"):
        document["run"]["id"] = run_id
        store(document, tmp_path)
    (tmp_path / ".c.x").mkdir()
    (tmp_path / ".c.x" / "report.json").write_text("{")  # one that was being written when something ended it
    assert [d["run"]["id"] for d in load_all(tmp_path)] == ["a", "b"]
    with pytest.raises(UsageError, match="holds 2 runs, name one of them; the newest are a, b"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a result document"),
        ("{}", "not a result document"),
        ("[" * 100_000, "not JSON"),
        ('{"schema": "haprobe.report/9"}', "schema haprobe.report/9 is of another haprobe"),
        ('{"schema": "haprobe.report/1"}', "not a sound result document: run: Field required"),
    ],
)
def test_what_is_no_run(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=message):
        load(file)


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "1e400", r'"\ud800"', r'"a\udfffb"', "1" + "0" * 5000])
def test_what_no_other_reader_takes_is_no_json(tmp_path: Path, document: dict[str, Any], value: str) -> None:
    document["run"]["config"] = {"x": 0}
    file = tmp_path / "x.json"
    file.write_text(json.dumps(document).replace('"config": {"x": 0}', f'"config": {{"x": {value}}}'))
    with pytest.raises(UsageError, match=r"x\.json: not JSON: "):
        load(file)


def test_what_is_stored_is_text(tmp_path: Path, document: dict[str, Any]) -> None:
    """A file's name, which `--record` puts into a document, may hold any octet."""
    document["run"]["record"] = {"file": os.fsdecode(b"r\xff"), "probes": 0, "complete": False, "reason": ""}
    (tmp_path / "x.json").write_text(to_json(document), "utf-8")
    assert load(tmp_path / "x.json")["run"]["record"]["file"] == "r?"


def test_a_place_that_is_closed_is_named(closed: Path, document: dict[str, Any]) -> None:
    for path in (closed, closed / "inside", closed / "inside" / "report.json"):
        with pytest.raises(UsageError, match=f"{closed}.*: Permission denied"):
            load(path)
    with pytest.raises(UsageError, match="cannot store the run: Permission denied"):
        store(document, closed / "inside")


def test_a_run_that_is_closed_is_not_passed_over(closed: Path, document: dict[str, Any]) -> None:
    store(document, closed.parent)
    with pytest.raises(UsageError, match=f"{closed / 'report.json'}: Permission denied"):
        load_all(closed.parent)


def test_a_name_too_long_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="File name too long"):
        load(tmp_path / ("n" * 300))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no run"):
        load(tmp_path)
