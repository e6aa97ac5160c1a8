"""`python -m tests.bench dashboards`: what it compares, from documents; its drill is for the bench itself."""

from __future__ import annotations

from typing import Any

import pytest

from .bench.seen import DIRECTIONS, MS, WINDOWS, board_rows, cut_rows, excuses, gauge_rows, lane_rows, ok, sample_rows

START = 1_764_763_200_000  # ms
LANE = "east-west · f"
BOUNDS = ("lower", "estimate", "upper")


def outage(start_ms: int, end_ms: int, direction: str = "forward", censored: str = "no") -> dict[str, Any]:
    lasted = (end_ms - start_ms) * MS
    return {
        **{"direction": direction, "censored": censored},
        **{"start_ns": (START + start_ms) * MS + 123_456, "end_ns": (START + end_ms) * MS + 654_321},
        "duration_ns": dict(zip(BOUNDS, (lasted - MS, lasted, lasted + MS), strict=True)),
    }


def document(*outages: dict[str, Any], cut: dict[str, int] | None = None) -> dict[str, Any]:
    return {
        "run": {"started_ns": (START - 1000) * MS, "ended_ns": (START + 60_000) * MS},
        "flows": [{"name": "f", "path": "east-west", "outages": list(outages)}],
        "timeline": [{"event": "cut", "detail": cut}] if cut else [],
    }


def edges(run: dict[str, Any], *shown: tuple[int, int], directions: Any = ("any",)) -> list[bool]:
    lanes = {LANE: [(START + start, START + end) for start, end in shown]}
    return [ok(row) for row in lane_rows(run, lanes, directions)]


def test_a_millisecond_is_a_difference() -> None:
    run = document(outage(100, 140), outage(5000, 7000))
    assert edges(run, (100, 140), (5000, 7000)) == [True, True]
    assert edges(run, (100, 140), (5001, 7000)) == [True, False]
    assert edges(run, (100, 141), (5000, 7000)) == [False, True]


def test_an_outage_that_only_one_of_them_has_is_a_difference() -> None:
    assert edges(document(outage(100, 140)), (100, 140), (200, 240)) == [True, False]
    assert edges(document(outage(100, 140))) == [False]
    assert edges(document(), (100, 140)) == [False]
    assert [ok(row) for row in lane_rows(document(), {}, ["any"])] == [False], "a flow without a lane"
    assert edges(document(), (-9000, -8000), (61_000, 62_000)) == [], "not in the run"


def test_outages_of_both_directions_are_one_on_the_lane_of_any() -> None:
    run = document(outage(100, 300), outage(200, 400, "reverse"))
    assert edges(run, (100, 400)) == [True]
    lanes = {f"{LANE} forward": [(START + 100, START + 300)], f"{LANE} reverse": [(START + 200, START + 399)]}
    assert [ok(row) for row in lane_rows(run, lanes, DIRECTIONS)] == [True, False]


def test_an_outage_that_is_open_at_the_end_has_to_go_on() -> None:
    run = document(outage(100, 50_000, censored="end"))
    assert edges(run, (100, 70_000)) == [True]
    assert edges(run, (100, 40_000)) == [False]


def test_the_last_outage_alone_is_wanted_of_gauges() -> None:
    run = document(outage(100, 140), outage(4990, 7000, "reverse"), outage(5000, 7000))
    run["flows"][0]["agent"] = "a"
    for shown, right in (((5000, 7000), True), ((5000, 7001), False), ((4990, 7000), False)):
        (row,) = gauge_rows(run, "a", {LANE: [(START + shown[0], START + shown[1])]}, START + 60_000)
        assert ok(row) is right
    assert gauge_rows(run, "b", {}, START) == []


def test_gauges_know_of_an_open_outage_until_the_last_scrape() -> None:
    run = document(outage(100, 50_000, censored="end"))
    run["flows"][0]["agent"] = "a"
    for drawn_to, right in ((45_000, True), (39_999, False)):
        (row,) = gauge_rows(run, "a", {LANE: [(START + 100, START + drawn_to)]}, START + 40_000)
        assert ok(row) is right


@pytest.mark.parametrize("page", ["drill", "drill-from-gauges", "fleet"])
def test_a_query_without_data_is_a_fault_unless_it_cannot_have_any(page: str) -> None:
    panel = {"title": WINDOWS, "type": "state-timeline", "error": "", "answered": {"Samples": 1, "Edges": 0}}
    drawn = {"title": WINDOWS, "text": "east-west", "graphs": 0, "lanes": [{"spans": [{}]}]}
    result = {"errors": {}, "complaints": [], "panels": [panel], "drawn": [drawn]}
    (row,) = board_rows(page, result, excuses({"phases": []}))
    assert ok(row) is (page == "drill")
    assert "no data by query Edges" in row.note


def test_a_phase_that_the_report_has_is_wanted() -> None:
    query = ("releases", "Releases", "E")
    assert query in excuses({"phases": [{"name": "detect"}]})
    assert query not in excuses({"phases": [{"name": "full_recovery"}]})


def stored(missing: str = "") -> dict[str, bool]:
    """What a store that holds an outage says, but for one sample of it."""
    at = {"before": (99, 1.0), "start": (100, 0.0), "last": (139, 0.0), "end": (140, 1.0)}
    states = {("f", "forward"): [(START + ms, value) for name, (ms, value) in at.items() if name != missing]}
    lengths = {
        ("f", "forward", bound): [(START + 140, value)]
        for bound, value in zip(BOUNDS, (0.039, 0.04, 0.041), strict=True)
        if bound != missing
    }
    (row,) = sample_rows(document(outage(100, 140)), states, lengths)
    return {row.note: ok(row)}


def test_every_sample_of_an_outage_is_wanted() -> None:
    assert stored() == {"": True}
    for name in ("before", "start", "last", "end", *BOUNDS):
        assert stored(name) == {name: False}


@pytest.mark.parametrize(("least", "most", "holds"), [(39.5, 40.1, True), (41.5, 42.0, False), (38.0, 38.9, False)])
def test_a_cut_has_to_be_within_the_bounds_of_its_outage(least: float, most: float, holds: bool) -> None:
    begun = (START + 98) * MS
    cut = {"began_after_ns": begun, "began_before_ns": begun + MS}
    cut |= {"ended_after_ns": begun + MS + round(least * MS), "ended_before_ns": begun + round(most * MS)}
    (row,) = cut_rows(document(outage(100, 140), cut=cut))
    assert (row.tool, ok(row)) == ("f forward", holds)


def test_a_cut_that_nobody_saw_is_told() -> None:
    begun = (START + 98) * MS
    names = ("began_after_ns", "began_before_ns", "ended_after_ns", "ended_before_ns")
    cut = dict(zip(names, (begun, begun, begun + 40 * MS, begun + 40 * MS), strict=True))
    (row,) = cut_rows(document(outage(5000, 5040), cut=cut))
    assert (row.note, ok(row)) == ("0 outages", False)
