"""A scenario as a user types it: its drill gives what it is expected to give, and what the session tables imply.

All others are for `python -m tests.bench scenarios`.
"""

from __future__ import annotations

from pathlib import Path

from probe.drill.expected import mismatches
from probe.drill.scenarios import SCENARIOS
from probe.lab.truth import agrees, readings, truths
from probe.report.document import laws

from .test_drill import drill, nothing_left, pytestmark  # noqa: F401


def test_in_one_zone_with_connectionless_sync_every_old_session_lives(tmp_path: Path) -> None:
    scenario = SCENARIOS["single-az-connectionless"]
    document = drill(tmp_path / "drill", "--scenario", scenario.name)
    assert laws(document, settled=True) == []
    assert mismatches(document, scenario) == []

    moved = {e["detail"]["address"] for e in document["timeline"] if e["event"] == "private_ip_moved"}
    assert moved == {"10.99.99.92", "10.99.99.108"}
    told = readings(document["timeline"])
    assert [(one["moment"], one["unit"]) for one in told] == [
        ("before", "fgt-a"),
        ("moved", "fgt-b"),
        ("end", "fgt-b"),
    ]
    kept = {one["name"]: one for one in document["flows"] if one["session"] == "kept" and one.get("stack") != "kernel"}
    assert set(told[0]["flows"]) == set(kept)
    handed_over = {flow for flow, one in told[1]["flows"].items() if one and one["known"] == "kept"}
    assert handed_over == set(kept), "UDP and ICMP too"
    for flow, truth in truths(document["timeline"]).items():
        assert truth.implied == "survived", truth
        assert kept[flow]["verdict"] == "unobserved" or agrees(flow, truth.implied, kept[flow]["verdict"])
