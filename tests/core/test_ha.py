"""HA snapshots to changes: what is called a change, and that its interval always holds the true instant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.core.ha import (
    EipOwner,
    HaSnapshot,
    PrivateIpOwner,
    RouteTarget,
    Span,
    active_unit,
    changes,
    signals,
    unit_of,
)

UNITS = {"fgt-a": ["eni-a1", "eni-a2"], "fgt-b": ["eni-b1", "eni-b2"]}
TRANSIT = ("rtb-1", "0.0.0.0/0")


def snapshot(at: int, eip: str = "eni-a1", route: str = "eni-a2", took: int = 10, **more: object) -> HaSnapshot:
    return HaSnapshot(
        at,
        at + took,
        eips={"eipalloc-1": EipOwner("203.0.113.10", eip, "10.0.0.1" if eip == "eni-a1" else "10.0.0.2")},
        routes={TRANSIT: RouteTarget(route)},
        **more,  # type: ignore[arg-type]
    )


def test_nothing_changed() -> None:
    assert changes(snapshot(100), snapshot(200), UNITS) == []


def test_an_eip_move_names_both_units_and_spans_request_to_response() -> None:
    (change,) = changes(snapshot(100), snapshot(200, eip="eni-b1"), UNITS)
    assert (change.kind, change.old, change.new) == ("eip", "eni-a1", "eni-b1")
    assert (change.old_unit, change.new_unit) == ("fgt-a", "fgt-b")
    # Old was still true when we asked at 100, new was true when the answer had arrived at 210.
    assert (change.last_seen_old_ns, change.first_seen_new_ns) == (100, 210)


def test_a_route_move_becomes_a_timeline_event() -> None:
    (change,) = changes(snapshot(100), snapshot(201, route="eni-b2"), UNITS)
    event = change.to_timeline()
    assert (event.source, event.event) == ("aws", "route_moved")
    assert event.at_ns - event.uncertainty_ns <= 100
    assert event.at_ns + event.uncertainty_ns >= 211
    assert event.detail == {
        "route_table": "rtb-1",
        "destination": "0.0.0.0/0",
        "from": "eni-a2",
        "to": "eni-b2",
        "from_unit": "fgt-a",
        "to_unit": "fgt-b",
        "last_seen_old_ns": 100,
        "first_seen_new_ns": 211,
    }


def test_a_private_ip_move() -> None:
    before = HaSnapshot(0, 1, private_ips={"10.0.0.9": PrivateIpOwner("eni-a1", "203.0.113.9")})
    after = HaSnapshot(2, 3, private_ips={"10.0.0.9": PrivateIpOwner("eni-b1", "203.0.113.9")})
    (change,) = changes(before, after, UNITS)
    assert change.to_timeline().event == "private_ip_moved"
    assert change.to_timeline().detail["address"] == "10.0.0.9"
    assert change.to_timeline().detail["public_ip"] == "203.0.113.9", "the Elastic IP came along"


def test_a_secondary_address_that_changes_its_eip_but_not_its_place() -> None:
    before = HaSnapshot(0, 1, private_ips={"10.0.0.9": PrivateIpOwner("eni-a1", "203.0.113.9")})
    (change,) = changes(before, HaSnapshot(2, 3, private_ips={"10.0.0.9": PrivateIpOwner("eni-a1")}), UNITS)
    assert (change.to_timeline().event, change.old, change.new) == ("private_ip_eip_changed", "203.0.113.9", "")


def test_an_instance_that_stops_is_told_with_its_unit() -> None:
    units = {"fgt-a": ["eni-a1", "i-a"], "fgt-b": ["eni-b1", "i-b"]}
    before = HaSnapshot(0, 1, instances={"i-a": "running", "i-b": "running"})
    (change,) = changes(before, HaSnapshot(5, 9, instances={"i-a": "stopping", "i-b": "running"}), units)
    assert change.to_timeline().event == "instance_state_changed"
    assert (change.key, change.old, change.new) == ({"instance_id": "i-a", "unit": "fgt-a"}, "running", "stopping")
    assert (change.last_seen_old_ns, change.first_seen_new_ns) == (0, 9)


def test_each_signal_speaks_for_itself() -> None:
    state = HaSnapshot(
        0,
        1,
        eips={"e": EipOwner("203.0.113.10", "eni-b1"), "f": EipOwner("203.0.113.11", "")},
        routes={TRANSIT: RouteTarget("eni-a2", "blackhole"), ("rtb-1", "10.0.0.0/8"): RouteTarget("tgw-1")},
        private_ips={"10.0.0.9": PrivateIpOwner("eni-a1")},
    )
    assert signals(state, UNITS) == {
        "eip 203.0.113.10": "fgt-b",
        "eip 203.0.113.11": "",
        "route rtb-1 0.0.0.0/0": "",
        "private_ip 10.0.0.9": "fgt-a",
    }


def test_something_that_vanishes_moves_to_nowhere_and_back() -> None:
    gone = HaSnapshot(200, 210, eips={}, routes={TRANSIT: RouteTarget("eni-a2")})
    (away,) = changes(snapshot(100), gone, UNITS)
    assert (away.old, away.new, away.new_unit) == ("eni-a1", "", "")
    assert away.key["address"] == "203.0.113.10"
    (back,) = changes(gone, snapshot(300), UNITS)
    assert (back.old, back.new) == ("", "eni-a1")


def test_a_black_hole_is_not_a_move() -> None:
    after = HaSnapshot(200, 210, eips=snapshot(100).eips, routes={TRANSIT: RouteTarget("eni-a2", "blackhole")})
    (change,) = changes(snapshot(100), after, UNITS)
    assert change.to_timeline().event == "route_state_changed"
    assert (change.old, change.new) == ("active", "blackhole")


def test_a_move_there_and_back_between_two_polls_shows_in_the_association_id() -> None:
    def associated(at: int, association: str) -> HaSnapshot:
        return HaSnapshot(at, at + 1, eips={"e": EipOwner("203.0.113.10", "eni-a1", "10.0.0.1", association)})

    (change,) = changes(associated(1, "eipassoc-1"), associated(5, "eipassoc-2"), UNITS)
    assert change.to_timeline().event == "eip_associated_again"


def associated(at: int, **addresses: tuple[str, str]) -> HaSnapshot:
    """Address (allocation id) to its interface and association id; the routes are answered as well."""
    eips = {one: EipOwner(one, eni, "", association) for one, (eni, association) in addresses.items()}
    return HaSnapshot(at, at + 10, eips=eips, routes={TRANSIT: RouteTarget("eni-b2")})


def test_an_answer_that_shows_what_was_before_the_last_change_is_left_out() -> None:
    """EC2 is eventually consistent. The interval of a later change must not begin at an old answer."""
    known = associated(100, e=("eni-a1", "old"), f=("eni-a1", "f1")).on_top_of(None)
    moved = associated(200, e=("eni-b1", "new"), f=("eni-a1", "f1"))
    assert moved.up_to_date(known) == moved
    known = moved.on_top_of(known)
    stale = associated(300, e=("eni-a1", "old"), f=("eni-a1", "f1")).up_to_date(known)
    assert changes(known, stale, UNITS) == []
    assert stale.span("eip") is None and stale.span("route") == Span(300, 310)
    known = stale.on_top_of(known)
    assert known.eips["e"].eni == "eni-b1"
    (change,) = changes(known, associated(400, e=("eni-b1", "new"), f=("eni-b1", "f2")).up_to_date(known), UNITS)
    assert (change.key["address"], change.last_seen_old_ns) == ("f", 200)


def test_an_address_that_vanished_from_an_answer_may_come_back() -> None:
    known = associated(100, e=("eni-a1", "one")).on_top_of(None)
    for gone in (associated(200), associated(200, e=("", ""))):
        later = associated(300, e=("eni-a1", "one"))
        assert later.up_to_date(gone.on_top_of(known)) == later


def test_a_blind_spell_is_spanned() -> None:
    seen = snapshot(100)
    blind = HaSnapshot(200, 2200, spans={})  # nothing answered
    known = blind.on_top_of(seen)
    assert changes(seen, blind, UNITS) == []
    found = changes(known, snapshot(3000, eip="eni-b1", route="eni-b2"), UNITS)
    assert {(c.last_seen_old_ns, c.first_seen_new_ns) for c in found} == {(100, 3010)}


def test_a_half_answered_round_counts_for_the_half_it_answers() -> None:
    seen = snapshot(100)
    half = HaSnapshot(200, 250, eips=snapshot(200, eip="eni-b1").eips, spans={"eip": Span(200, 220)})
    (change,) = changes(seen, half, UNITS)
    assert (change.kind, change.last_seen_old_ns, change.first_seen_new_ns) == ("eip", 100, 220)
    # The routes keep the time at which they were last seen; nothing has vanished.
    known = half.on_top_of(seen)
    assert known.routes == seen.routes
    (change,) = changes(known, snapshot(300, eip="eni-b1", route="eni-b2"), UNITS)
    assert (change.kind, change.last_seen_old_ns) == ("route", 100)


@pytest.mark.parametrize(
    ("eip", "route", "expected"),
    [
        ("eni-a1", "eni-a2", "fgt-a"),
        ("eni-b1", "eni-b2", "fgt-b"),
        ("eni-b1", "eni-a2", ""),  # mid-failover
        ("", "eni-b2", ""),  # not associated at all
        ("eni-x", "eni-b2", ""),  # nobody's interface
        ("eni-b1", "igw-1", "fgt-b"),  # a gateway says nothing about the pair
        ("eni-b1", "eni-x", "fgt-b"),  # nor does another appliance's interface
    ],
)
def test_active_unit(eip: str, route: str, expected: str) -> None:
    assert active_unit(snapshot(0, eip, route), UNITS) == expected


def test_a_route_that_was_a_unit_s_stays_a_signal_wherever_it_leads() -> None:
    known = snapshot(0).on_top_of(None)
    for at, target in ((100, "eni-x"), (200, "eni-y")):
        known = snapshot(at, route=target).on_top_of(known)
        assert signals(known, UNITS)["route rtb-1 0.0.0.0/0"] == ""
        assert active_unit(known, UNITS) == ""
    assert active_unit(snapshot(300).on_top_of(known), UNITS) == "fgt-a"
    unanswered = HaSnapshot(400, 410, spans={}).on_top_of(known)
    assert active_unit(unanswered, UNITS) == ""


def test_no_signal_or_a_black_hole_leave_the_active_unit_unknown() -> None:
    assert active_unit(HaSnapshot(0, 1), UNITS) == ""
    assert active_unit(HaSnapshot(0, 1, routes={TRANSIT: RouteTarget("eni-a2", "blackhole")}), UNITS) == ""


def test_unit_of() -> None:
    assert unit_of(UNITS, "eni-b2") == "fgt-b"
    assert unit_of(UNITS, "") == unit_of({"x": [""]}, "") == ""


@given(
    true_change=st.integers(0, 10_000),
    polls=st.lists(st.tuples(st.integers(1, 500), st.integers(0, 300), st.booleans()), min_size=1, max_size=40),
    answered_at=st.floats(0, 1),
)
def test_the_interval_always_holds_the_true_change(
    true_change: int, polls: list[tuple[int, int, bool]], answered_at: float
) -> None:
    """Any pace, any latency, any failures: the server answers somewhere between request and response."""
    known: HaSnapshot | None = None
    now = 0
    for gap, took, answered in polls:
        now += gap
        new = now + int(took * answered_at) >= true_change
        current = snapshot(now, eip="eni-b1" if new else "eni-a1", took=took, spans=None if answered else {})
        if known is not None:
            for change in changes(known, current, UNITS):
                event = change.to_timeline()
                assert change.last_seen_old_ns <= true_change <= change.first_seen_new_ns
                assert event.at_ns - event.uncertainty_ns <= true_change <= event.at_ns + event.uncertainty_ns
        known = current.on_top_of(known)
        now += took
