"""Every law, broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe import cli
from probe.report.document import laws

from . import build


def first_outage(document: dict[str, Any]) -> dict[str, Any]:
    outage: dict[str, Any] = document["flows"][0]["outages"][0]
    return outage


def add(*path: Any, by: int = 1) -> Callable[[dict[str, Any]], None]:
    """A change that adds to one number of the document."""

    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] += by

    return change


def probe(number: int, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one record of the first outage: its last that passed, first and second lost, last lost, first that
    passed again.
    """
    return lambda document: first_outage(document)["evidence"][number].update(changes)


COUNTS = ("flows", 0, "counts")
OUTAGE = ("flows", 0, "outages", 0)
EVIDENCE = (*OUTAGE, "evidence")


@pytest.mark.parametrize(
    ("change", "law"),
    [
        (add(*COUNTS, "scheduled"), "scheduled = sent + unsent"),
        (add(*COUNTS, "received"), "sent = received + late + lost + dropped_locally + pending"),
        (add(*COUNTS, "lost_reverse"), "lost = lost_forward + lost_reverse + lost_unattributed"),
        (add(*OUTAGE, "duration_ns", "lower", by=10**10), "lower <= estimate <= upper"),
        (add(*OUTAGE, "edges_ns", "last_ok", by=10**9), "last_ok <= first_lost"),
        (add(*OUTAGE, "start_ns"), "start_ns is the TX time"),
        (add(*OUTAGE, "end_ns"), "end_ns is the TX time"),
        (add(*OUTAGE, "last_lost_seq", by=-1), "lost fits first_lost_seq..last_lost_seq"),
        (lambda d: d["flows"][0]["outages"].append(first_outage(d)), "a lost probe is in at most one outage"),
        (lambda d: first_outage(d).update(direction="reverse"), "a lost probe is in one outage of its direction"),
        (lambda d: first_outage(d)["evidence"].reverse(), "evidence: sequence ascends"),
        (lambda d: first_outage(d)["evidence"].insert(1, first_outage(d)["evidence"][1]), "evidence: sequence ascends"),
        (add(*EVIDENCE, 2, "tx_ns", by=10**12), "evidence: tx_ns ascends"),
        (add(*EVIDENCE, 0, "rx_ns", by=-(10**9)), "evidence: rx_ns >= tx_ns"),
        (probe(1, rx_ns=build.END), "evidence: only what was received has an rx_ns"),
        (add(*EVIDENCE, 1, "tx_ns"), "evidence: first_lost is the record of"),
        (probe(1, fate="lost_reverse"), "evidence: first_lost is the record of"),
        (add(*EVIDENCE, 3, "tx_ns"), "evidence: last_lost is the record of"),
        (probe(2, fate="late"), "evidence: nothing passed between first_lost and last_lost"),
        (add(*EVIDENCE, 0, "tx_ns"), "evidence: nothing passed between last_ok and first_lost"),
        (add(*EVIDENCE, 4, "tx_ns", by=-1), "evidence: nothing passed between last_lost and first_ok"),
        (lambda d: d["flows"].append(d["flows"][0]), "2 flows of this name"),
        (lambda d: d["matrix"]["egress"].update(tcp="survived"), "matrix"),
        (lambda d: d["timeline"].reverse(), "timeline"),
        (add("phases", 0, "start_ns", by=10**12), "phases: detect ends before it starts"),
    ],
)
def test_broken_law_is_named(change: Callable[[dict[str, Any]], None], law: str) -> None:
    document = build.drill()
    assert laws(document, settled=True) == []
    change(document)
    assert any(law in line for line in laws(document, settled=True)), laws(document)


def test_the_flow_is_named_with_figures() -> None:
    document = build.drill()
    document["flows"][6]["counts"]["unsent"] += 3
    [line] = laws(document)
    assert line.startswith("jumphost/ingress-icmp: scheduled = sent + unsent: scheduled 12999, unsent 20")


def test_pending_probes_break_a_law_only_once_they_should_be_settled() -> None:
    document = build.drill()
    counts = document["flows"][0]["counts"]
    counts["received"] -= 4
    counts["pending"] += 4
    assert laws(document) == []
    [line] = laws(document, settled=True)
    assert "4 pending" in line


def test_anything_at_all_gets_an_answer() -> None:
    assert laws({})[0].startswith("document: schema:")


def test_a_document_that_contradicts_itself_is_shown_and_said_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(build.GOLDEN.read_text())
    assert cli.main(["report", str(build.GOLDEN), "--json", str(tmp_path / "same.json")]) == 0
    assert capsys.readouterr().err == ""
    for flow in document["flows"]:
        flow["counts"]["received"] += 1
    (tmp_path / "report.json").write_text(json.dumps(document))
    assert cli.main(["report", str(tmp_path), "--json", str(tmp_path / "same.json")]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"haprobe: {tmp_path}: not all of its figures can be true: ")
    assert "sent = received + late + lost" in told[0]
    assert told[-1].endswith(" more like that")
    assert len(told) == 6
    assert cli.main(["compare", str(build.GOLDEN), str(tmp_path)]) in (0, 1)
    assert f"{tmp_path} (run {document['run']['id']}): not all" in capsys.readouterr().err
