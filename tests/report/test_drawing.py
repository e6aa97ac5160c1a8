"""Positions of the drawing: times become places, and nothing that is unknown is drawn as answered."""

from __future__ import annotations

from typing import Any

import pytest

from probe.report import phrases as say
from probe.report.document import new_document
from probe.report.drawing import Drawing, answered, draw, nice_step

from . import build


def drawing(document: dict[str, Any]) -> Drawing:
    lines = [line for line in say.timeline_lines(document) if line.event in say.HA_EVENTS]
    return draw(document, dict(enumerate(lines, 1)))


def test_incident_is_shown_enlarged_within_the_run() -> None:
    drawn = drawing(build.drill())
    assert drawn.full == pytest.approx((-5.012, 20.988))
    assert -2 < drawn.view[0] < 0
    assert 5.2 < drawn.view[1] < 10


def test_long_incident_is_shown_whole() -> None:
    fault = build.Fault(build.START + build.S, build.END - build.S)
    drawn = drawing(new_document(run=build.RUN, flows=[build.flow("a", faults=(fault,))]))
    assert drawn.view == drawn.full


def test_bars_stand_where_their_times_are() -> None:
    drawn = drawing(build.drill())
    start, end = drawn.view
    bar = next(b for b in drawn.groups[0].lanes[0].bars if b.kind == "outage")
    assert bar.x == pytest.approx((bar.start_s - start) / (end - start) * 100, abs=1e-3)
    assert bar.x + bar.width == pytest.approx((bar.end_s - start) / (end - start) * 100, abs=1e-3)
    assert "2531 probes lost" in bar.title


def test_directions_take_their_half_of_the_lane() -> None:
    lane = drawing(build.drill()).groups[1].lanes[0]
    forward, reverse = (b for b in lane.bars if b.kind == "outage")
    assert forward.y + forward.height == reverse.y


def test_answered_is_what_is_left() -> None:
    flow = build.flow(
        "a", faults=(build.Fault(build.DOWN, build.EIP),), stall=(build.START + build.S, build.START + 2 * build.S)
    )
    spans = answered(flow, (build.START, build.END))
    outage = flow["outages"][0]
    assert spans == [
        (build.START, build.START + build.S),
        (build.START + 2 * build.S, outage["edges_ns"]["last_ok"]),
        (outage["end_ns"], build.END),
    ]
    still_dark = build.flow("b", faults=(build.Fault(build.DOWN, None),))
    assert answered(still_dark, (build.START, build.END + build.S))[-1][1] < build.DOWN + build.MS


def test_labels_do_not_share_a_row_when_close() -> None:
    marks = drawing(build.drill()).marks
    assert [m.number for m in marks] == [1, 2, 3, 4, 5, 6]
    heartbeat, primary = marks[1], marks[2]
    assert abs(heartbeat.x - primary.x) < 2
    assert heartbeat.row != primary.row


def test_uncertainty_is_a_band() -> None:
    eip = next(m for m in drawing(build.drill()).marks if "EIP" in m.label)
    assert eip.band[3] - eip.band[2] == pytest.approx(0.262)


def test_flows_that_share_protocol_and_session_are_named() -> None:
    flows = [build.flow("one"), build.flow("two"), build.flow("three", session="fresh")]
    [group] = drawing(new_document(run=build.RUN, flows=flows)).groups
    assert [lane.label for lane in group.lanes] == ["one", "two", "UDP new"]


def test_flows_that_share_a_name_are_named_with_their_agent() -> None:
    [group] = drawing(build.alike()).groups
    assert [lane.label for lane in group.lanes] == ["a/u", "a/u-fresh", "b/u", "b/u-fresh"]


def test_ticks_are_round_and_inside() -> None:
    ticks = drawing(build.drill()).ticks
    assert "0" in [t.relative for t in ticks]
    assert "+5 s" in [t.relative for t in ticks]
    assert all(0 <= t.x <= 100 for t in ticks)


@pytest.mark.parametrize(("size", "step"), [(0.9, 1), (1, 1), (1.1, 2), (3, 5), (7, 10), (0.03, 0.05)])
def test_nice_step(size: float, step: float) -> None:
    assert nice_step(size) == pytest.approx(step)
