"""What session tables imply, from readings as the lab takes them."""

from __future__ import annotations

from typing import Any

import pytest

from probe.lab.truth import agrees, truths

ADDRESS = {"fgt-a": "10.99.99.90", "fgt-b": "10.99.99.10"}


def entry(known: str = "kept", **fields: Any) -> dict[str, Any]:
    """A session that carries packets both ways."""
    usual = {"state": "ESTABLISHED", "seen_as": "203.0.113.10:4000", "translated": "10.99.99.90", "way": True}
    return {"known": known, **usual, "out": 60, "back": 60, **fields}


def reading(moment: str, unit: str, flow: str, one: dict[str, Any] | None) -> dict[str, Any]:
    detail = {"moment": moment, "unit": unit, "flows": {flow: one}}
    return {"at_ns": 1, "event": "sessions", "source": "lab", "detail": detail}


def implied(flow: str, *after: tuple[str, dict[str, Any] | None], resets: bool = False) -> str:
    """From the tables of these units after the trigger, the last of them at the end."""
    events = [reading("before", "fgt-a", flow, entry(packets=0))]
    events += [reading("moved", unit, flow, one) for unit, one in after]
    events.append(reading("end", after[-1][0], flow, after[-1][1]))
    return truths(events, resets=resets)[flow].implied


@pytest.mark.parametrize(
    ("flow", "after", "verdict"),
    [
        ("east-west-tcp", entry(), "survived"),
        ("east-west-tcp", None, "lost"),
        ("east-west-tcp", entry(out=0, back=0), "lost"),
        ("east-west-tcp", entry(state="CLOSE"), "reset"),
        ("east-west-tcp", entry(back=0), "half"),
        ("egress-tcp", entry(way=False, back=0), "lost"),
        ("egress-udp", entry("anew"), "survived"),
        ("egress-udp", entry(way=False, back=0), "lost"),
        ("ingress-udp", entry("anew", seen_as="10.99.99.26:4000"), "rebound"),
        ("ingress-udp", entry("anew", seen_as="203.0.113.10:4001"), "rebound"),
        ("ingress-udp", None, "dark"),
        ("east-west-icmp", entry("anew", back=0), "half"),
    ],
)
def test_after_a_failover(flow: str, after: dict[str, Any] | None, verdict: str) -> None:
    assert implied(flow, ("fgt-b", after)) == verdict


def test_unknown_tcp_is_reset_where_the_firewall_answers_it() -> None:
    assert implied("east-west-tcp", ("fgt-b", None), resets=True) == "reset"
    assert implied("east-west-udp", ("fgt-b", None), resets=True) == "dark"


def test_without_a_failover() -> None:
    assert implied("east-west-udp", ("fgt-a", entry())) == "unaffected"
    assert implied("east-west-tcp", ("fgt-a", None)) == "reset", "it had the session: somebody has closed it"


def test_a_session_that_was_handed_over_and_then_vanished_was_closed_by_its_ends() -> None:
    assert implied("east-west-tcp", ("fgt-b", entry()), ("fgt-b", None)) == "reset"


def test_there_and_back() -> None:
    nowhere = entry(way=False, back=0)
    assert implied("egress-tcp", ("fgt-b", nowhere), ("fgt-a", entry())) == "survived"
    assert implied("egress-udp", ("fgt-b", entry("anew")), ("fgt-a", entry())) == "survived"
    elsewhere = entry("anew", seen_as="10.99.99.26:4000")
    assert implied("ingress-udp", ("fgt-b", elsewhere), ("fgt-a", entry())) == "rebound"


def test_nothing_is_implied_without_a_reading_at_both_ends() -> None:
    first = reading("before", "fgt-a", "x-tcp", entry())
    failed = {"event": "sessions", "detail": {"moment": "end", "unit": "fgt-b", "error": "gone"}}
    assert truths([]) == {}
    assert truths([first]) == {}
    assert truths([first, failed]) == {}
    assert truths([reading("end", "fgt-b", "x-tcp", entry())] * 2) == {}


def test_while_both_units_forward_one_s_table_implies_nothing() -> None:
    told = [reading("before", "fgt-a", "x-tcp", entry()), reading("end", "fgt-b", "x-tcp", None)]
    assert truths(told)["x-tcp"].implied == "lost"
    assert truths([*told, {"at_ns": 2, "event": "two_primaries", "source": "fortigate", "detail": {}}]) == {}


def test_what_fits() -> None:
    assert agrees("a-udp", "survived", "survived")
    assert agrees("a-udp", "unaffected", "survived"), "the tables know nothing of loss"
    assert not agrees("a-udp", "survived", "rebound")
    assert agrees("a-udp", "lost", "unobserved"), "which claims nothing"
    assert not agrees("a-udp", "rebound", "survived")
    assert agrees("a-icmp", "rebound", "survived"), "an echo tells nothing of its translation"
    assert not agrees("a-icmp", "dark", "survived")
    assert not agrees("a-tcp", "lost", "reset")
    assert agrees("a-tcp", "half", "dark"), "without a reply nobody knows what arrives"
    assert agrees("a-tcp", "lost", "dark"), "an old session's entry does not tell whether new ones work"
    assert not agrees("a-tcp", "reset", "dark")
    assert not agrees("a-tcp", "dark", "half")
