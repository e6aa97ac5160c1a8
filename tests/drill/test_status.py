"""Reading a status, and finding twins."""

from __future__ import annotations

import pytest

from probe.drill.status import DEFAULT_LOSS_THRESHOLD_NS, parse, twins

from .fakes import FakeFlow, S, flow, poll

FLOW = {"name": "x", "protocol": "udp", "session": "kept", "path": "egress", "target": "h", "state": "up"}


def test_a_status_is_read_under_the_name_the_drill_gave_the_agent() -> None:
    status = parse("mine", {"agent": "its-own", "now_ns": 5, "ready": True, "flows": [{**FLOW, "counts": {"lost": 7}}]})
    assert status.agent == "mine"
    assert status.flows[0].key == ("mine", "x")
    assert status.flows[0].counts.lost == 7
    assert status.flows[0].loss_threshold_ns == DEFAULT_LOSS_THRESHOLD_NS


def test_a_stream_is_a_kind_of_its_own_and_silence_is_by_the_agents_clock() -> None:
    body = {**FLOW, "protocol": "tcp", "stack": "kernel", "last_rx_ns": 3 * S, "outages": 2, "stalls": 3}
    (read,) = parse("a", {"now_ns": 5 * S, "flows": [body]}).flows
    assert (read.kind, read.silent_ns, read.outages, read.stalls) == ("stream", 2 * S, 2, 3)
    (never,) = parse("a", {"now_ns": 5 * S, "flows": [FLOW]}).flows
    assert (never.kind, never.silent_ns, never.outages, never.stalls) == ("udp", 0, 0, 0)


def test_unknown_counts_of_a_newer_agent_are_ignored() -> None:
    assert parse("a", {"flows": [{**FLOW, "counts": {"teleported": 1, "sent": 2}}]}).flows[0].counts.sent == 2


def test_watchers_that_are_down_give_no_owner_but_a_reason() -> None:
    watchers = [
        {"name": "aws", "up": False, "reason": "timeout", "active_unit": "fgt-a"},
        {"name": "fortigate", "up": True, "reason": "", "active_unit": "fgt-b"},
    ]
    status = parse("a", {"flows": [], "watchers": watchers})
    assert status.active_units == ("fgt-b",)
    assert status.watchers_down == ("aws: timeout",)


@pytest.mark.parametrize("body", [[], {}, {"flows": 3}, {"flows": [{"name": "x"}]}, {"flows": ["x"]}, None])
def test_anything_else_is_refused(body: object) -> None:
    with pytest.raises(ValueError):
        parse("a", body)


def test_the_fakes_speak_the_same_status() -> None:
    status = parse("a", {"flows": [FakeFlow("x").status(FakeFlow("y").started_ns)]})
    assert status.flows[0].loss_threshold_ns == FakeFlow("x").loss_threshold_ns


def test_twins_by_name() -> None:
    pairs = twins([flow("a-to-b"), flow("a-to-b-fresh"), flow("other", target="h2")])
    assert pairs == {("a", "a-to-b"): ("a", "a-to-b-fresh"), ("a", "a-to-b-fresh"): ("a", "a-to-b")}


def test_twins_by_traits_when_names_do_not_tell() -> None:
    kept, fresh = flow("old", target="h1"), flow("new", session="fresh", target="h1")
    assert twins([kept, fresh, flow("new2", session="fresh", target="h2")])[kept.key] == fresh.key


def test_a_name_with_suffix_is_no_twin_when_it_is_kept_itself() -> None:
    assert twins([flow("x"), flow("x-fresh", session="kept", target="elsewhere")]) == {}


def test_twins_never_cross_agents() -> None:
    assert twins([flow("x", agent="a"), flow("x-fresh", agent="b")]) == {}


def test_owner_is_what_all_watchers_agree_on() -> None:
    assert poll(0, flow(agent="a"), flow(agent="b"), owner="fgt-a").owner == "fgt-a"
    assert poll(0, flow(), owner="").owner == ""
    assert poll(0, flow(), owner="").watched
    assert not poll(0, flow()).watched
