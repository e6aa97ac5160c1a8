"""Merging events of several sources, and the phases cut from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from probe.core.events import Outage, StallRecord, TimelineEvent
from probe.core.timeline import merge, origin, phases, probe_events, within
from probe.core.verdict import FlowRecord

MS = 1_000_000
S = 1_000 * MS
T0 = 1_700_000_000 * S


def at(seconds: float, event: str, source: Any = "lab", uncertainty_ms: int = 0, **detail: Any) -> TimelineEvent:
    return TimelineEvent(T0 + round(seconds * S), source, event, uncertainty_ms * MS, detail)


def flow(*spans: tuple[float, float | None], verdict: Any = "survived", **more: Any) -> FlowRecord:
    outages = []
    for number, (start_s, end_s) in enumerate(spans, 1):
        start, end = T0 + round(start_s * S), T0 + round((end_s or 20) * S)
        outages.append(
            Outage(
                flow="f",
                id=number,
                direction="round_trip",
                start_ns=start,
                end_ns=end,
                last_ok_ns=start - 2 * MS,
                first_lost_ns=start,
                last_lost_ns=end - 2 * MS if end_s else end,
                first_ok_ns=end if end_s else 0,
                lower_ns=0,
                estimate_ns=end - start,
                upper_ns=end - start,
                lost=10,
                first_lost_seq=1,
                last_lost_seq=10,
                censored="no" if end_s else "end",
            )
        )
    fields: dict[str, Any] = {"name": "f", "protocol": "udp", "session": "kept", "path": "egress", "agent": "a"}
    return FlowRecord(**{**fields, "outages": tuple(outages), "verdict": verdict, **more})


CRASH = [
    at(0, "trigger"),
    at(4.0, "heartbeat_lost", unit="fgt-b"),
    at(4.1, "role_change", unit="fgt-b", role="primary"),
    at(4.6, "api_call", operation="AssociateAddress", result="ok", duration_ms=100),
    at(5.0, "api_call", operation="ReplaceRoute", result="ok", duration_ms=100),
]
BACK = flow((0.001, 5.2))


def lengths(*args: Any, **kwargs: Any) -> dict[str, tuple[float, float]]:
    """Phase name to (start, end) in seconds from T0."""
    return {p.name: ((p.start_ns - T0) / S, (p.end_ns - T0) / S) for p in phases(*args, **kwargs)}


def test_merge_is_in_order_with_causes_first_and_no_event_twice() -> None:
    moved = at(5, "eip_moved", "aws", 100, address="203.0.113.10")
    role = at(5, "role_change", unit="fgt-b", role="primary")
    late = at(6, "applied")
    assert merge([late, moved], [moved, role]) == [role, moved, late]


def test_trigger_told_by_drill_and_lab_appears_once_with_the_more_telling_detail() -> None:
    short, long = at(0, "trigger", kind="crash"), at(0, "trigger", kind="crash", unit="fgt-a")
    assert merge([short], [long]) == [long]
    assert merge([long], [short]) == [long]


def test_a_span_tells_who_was_blind_when_it_began() -> None:
    def turn(seconds: float, name: str, watcher: str) -> TimelineEvent:
        return at(seconds, name, "aws", watcher=watcher)

    down, back, other = turn(1, "watcher_down", "aws"), turn(3, "watcher_up", "aws"), turn(2, "watcher_down", "fgt")
    role = at(5, "role_change")
    told = [down, other, back, role]
    assert within(told, T0 + 4 * S, T0 + 9 * S) == [other, role]
    assert within(told, T0 + 2 * S + 1, T0 + 4 * S) == [down, other, back]
    assert within(told, T0, T0 + 4 * S) == [down, other, back]


def test_phases_carry_their_share_of_the_outage() -> None:
    shares = {p.name: p.share for p in phases(CRASH, [BACK])}
    assert shares == {
        "detect": pytest.approx(4 / 5.2, abs=1e-4),
        "role_change": pytest.approx(0.6 / 5.2, abs=1e-4),
        "cloud_api": pytest.approx(0.5 / 5.2, abs=1e-4),
        "data_plane": pytest.approx(0.2 / 5.2, abs=1e-4),
        "full_recovery": 1.0,
    }
    dark = phases(CRASH, [flow((0.001, None), verdict="dark")])
    assert {p.share for p in dark} == {None}, "of an outage without an end nobody knows a share"


def test_phases_of_a_crash() -> None:
    assert lengths(CRASH, [BACK]) == {
        "detect": (0, 4.0),
        "role_change": (4.0, 4.6),
        "cloud_api": (4.6, 5.1),
        "data_plane": (5.0, 5.2),
        "full_recovery": (0, 5.2),
    }


def test_uncertainty_is_that_of_both_edges() -> None:
    polled = [*CRASH[:3], at(4.7, "eip_moved", "aws", 130), at(5.0, "route_moved", "aws", 125)]
    found = {p.name: p.uncertainty_ns for p in phases(polled, [BACK])}
    assert found["cloud_api"] == 255 * MS
    assert found["data_plane"] == 125 * MS + 2 * MS  # the gap between the last lost and the first answered probe
    assert found["detect"] == 0


def test_missing_sources_leave_phases_out() -> None:
    assert set(lengths(CRASH[:1], [BACK])) == {"full_recovery"}  # no HA source at all
    assert set(lengths(CRASH[:3], [BACK])) == {"detect", "role_change", "data_plane", "full_recovery"}
    assert set(lengths([CRASH[0], *CRASH[3:]], [BACK])) == {"cloud_api", "data_plane", "full_recovery"}
    assert lengths([], []) == {}


def test_without_a_trigger_the_first_loss_starts_the_clock() -> None:
    found = lengths(CRASH[1:], [BACK])
    assert found["detect"] == (0.001, 4.0)
    assert origin(CRASH[1:], [BACK]) == T0 + MS


def test_an_outage_alone_is_no_failover() -> None:
    assert phases([], [BACK]) == []


def test_no_recovery_where_a_path_stays_dark() -> None:
    found = lengths(CRASH, [BACK, flow((0.001, None), verdict="dark")])
    assert "full_recovery" not in found
    assert "data_plane" not in found


def test_lost_sessions_do_not_hold_back_the_recovery() -> None:
    assert lengths(CRASH, [BACK, flow((0.001, None), verdict="lost")])["full_recovery"] == (0, 5.2)


def stream(*stalls: StallRecord, path: str = "egress", verdict: Any = "survived") -> FlowRecord:
    return flow(protocol="tcp", stack="kernel", stalls=stalls, path=path, verdict=verdict)


FROZEN = StallRecord(T0 + MS, T0 + 8 * S)


def test_where_streams_alone_tell_the_last_of_them_to_go_on_is_the_recovery() -> None:
    found = lengths(CRASH, [stream(FROZEN), stream(StallRecord(T0 + MS, T0 + 6 * S))])
    assert found["full_recovery"] == (0, 8)
    assert found["data_plane"] == (5.0, 8)
    assert lengths(CRASH, [BACK, stream(FROZEN, path="ingress")])["full_recovery"] == (0, 8)


def test_a_stream_that_goes_on_later_than_packets_do_does_not_hold_back_the_recovery() -> None:
    assert lengths(CRASH, [BACK, stream(FROZEN)])["full_recovery"] == (0, 5.2)


@pytest.mark.parametrize("stall", [replace(FROZEN, censored="end"), StallRecord(T0 - 3 * S, T0 - 2 * S)])
def test_a_stall_that_went_on_or_was_over_before_is_no_recovery(stall: StallRecord) -> None:
    assert "full_recovery" not in lengths(CRASH, [stream(stall, verdict="reset")])


def test_a_route_nobody_probes_does_not_turn_phases_round() -> None:
    later = [*CRASH, at(6.0, "api_call", operation="ReplaceRoute", result="ok", duration_ms=100)]
    found = lengths(later, [BACK])
    assert found["cloud_api"] == (4.6, 6.1)
    assert found["data_plane"] == (5.0, 5.2)


def test_a_second_takeover_is_not_part_of_the_first_failover() -> None:
    again = [*CRASH, at(12, "role_change", unit="fgt-a", role="primary"), at(13, "api_call", operation="ReplaceRoute")]
    assert lengths(again, [BACK])["cloud_api"] == (4.6, 5.1)


@pytest.mark.parametrize("starts_s", [10.0, 12.2], ids=["a crash: dark before the takeover", "graceful"])
def test_the_second_failover_s_outage_is_not_the_first_s_recovery(starts_s: float) -> None:
    again = [*CRASH, at(12, "role_change", "lab", unit="fgt-a", role="primary"), at(13, "api_call", operation="X")]
    twice = flow((0.001, 5.2), (starts_s, 14))
    assert lengths(again, [twice])["full_recovery"] == (0, 5.2)
    assert lengths(again, [twice])["data_plane"] == (5.0, 5.2)
    assert lengths(CRASH, [twice])["full_recovery"] == (0, 14), "of one failover everything counts"


def test_what_the_second_failover_alone_brings_back_was_dark_since_the_first() -> None:
    again = [*CRASH, at(12, "role_change", "lab", unit="fgt-a", role="primary")]
    assert lengths(again, [BACK, flow((0.002, 13))])["full_recovery"] == (0, 13)


def test_probe_events_tell_the_edges_with_the_gap_beside_them() -> None:
    start, end = probe_events([flow((1, 5))])
    assert (start.event, start.at_ns, start.uncertainty_ns) == ("outage_start", T0 + S, 2 * MS)
    assert (end.event, end.at_ns, end.uncertainty_ns) == ("outage_end", T0 + 5 * S, 2 * MS)
    assert start.detail == {"flow": "f", "agent": "a", "direction": "round_trip", "episode": 0}
    assert [e.event for e in probe_events([flow((1, None))])] == ["outage_start"]


def test_calls_told_to_the_second_give_way_to_polled_changes_and_are_better_than_nothing() -> None:
    logged = [at(n, "api_call", "aws", 1000, operation="ReplaceRoute", result="ok") for n in (3.5, 5.5)]
    polled = [at(4.6, "eip_moved", "aws", 120), at(5.0, "route_moved", "aws", 120)]
    roles = CRASH[:3]
    both = sorted([*roles, *logged, *polled], key=lambda e: e.at_ns)
    assert lengths(both, [BACK], trigger_ns=T0)["cloud_api"] == (4.6, 5.0)
    alone = sorted([*roles, *logged], key=lambda e: e.at_ns)
    (cloud,) = [p for p in phases(alone, [BACK], trigger_ns=T0) if p.name == "cloud_api"]
    assert (cloud.start_ns - T0, cloud.end_ns - T0, cloud.uncertainty_ns) == (3.5 * S, 5.5 * S, 2 * S)
    exact = sorted([*CRASH, *logged], key=lambda e: e.at_ns)
    assert lengths(exact, [BACK], trigger_ns=T0) == lengths(CRASH, [BACK], trigger_ns=T0)


def test_a_role_that_was_polled_is_no_earlier_than_its_cause() -> None:
    polled = at(-0.4, "role_change", "fortigate", 500, unit="fgt-b", role="primary")
    found = lengths([polled, at(0, "trigger", "user")], [BACK])
    assert found["detect"] == (0, 0)


def test_the_lab_knows_the_instants_that_the_units_are_asked_for() -> None:
    polled = [
        at(-1, "role_change", "fortigate", 2000, unit="fgt-a", role="primary"),  # an earlier one, told roughly
        at(0.2, "role_change", "fortigate", 2000, unit="fgt-b", role="primary"),
        at(4.9, "api_call", "fortigate", operation="ReplaceRoute", result="ok", duration_ms=900),
    ]
    told = sorted([*CRASH, *polled], key=lambda event: event.at_ns)
    assert lengths(told, [BACK]) == lengths(CRASH, [BACK])
