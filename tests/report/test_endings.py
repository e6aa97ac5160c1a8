"""How ended sessions read."""

from __future__ import annotations

from probe.core.events import SessionEnd
from probe.report.endings import endings

from .build import DOWN, MS, ROUTE, drill, flow


def row(**end):
    one = flow("f", **({"session_end": {**SessionEnd("f").to_document(), **end}} if end else {}))
    return next(iter(endings({"flows": [one]})), None)


def test_a_reset_says_whose_it_was_to_the_microsecond():
    told = {"cause": "rst", "at_ns": ROUTE + 1234, "from": "10.99.97.10", "ttl": 63, "peer_ttl": 252, "by": "firewall"}
    found = row(**told, again_ns=ROUTE - 2 * MS)
    assert found.how == "RST from 10.99.97.10, TTL 63, the far end's is 252: not by the far end"
    assert found.at == "12:00:09.994001" and found.again == "-0.002001 s"
    assert row(**{**told, "by": "peer", "peer_ttl": 254}).how.endswith("the far end's is 254: sent by the far end")


def test_the_other_ways_to_end():
    told = {"from": "10.99.96.1", "ttl": 63, "by": "firewall", "icmp_type": 3, "icmp_code": 13}
    how = row(cause="icmp", at_ns=ROUTE, **told).how
    assert how == "ICMP prohibited (type 3 code 13) from 10.99.96.1, TTL 63: not by the far end"
    assert row(cause="icmp", at_ns=ROUTE, **{**told, "icmp_code": 99}).how.startswith("ICMP type 3 code 99 from ")
    too_big = {**told, "from": "2001:db8::1", "icmp_type": 2, "icmp_code": 0}
    assert row(cause="icmp", at_ns=ROUTE, **too_big).how.startswith("ICMP packet too big (type 2 code 0) from 2001:")
    found = row(cause="silent", at_ns=DOWN)
    assert (found.how, found.again) == ("silence", "not seen")


def test_a_session_that_goes_on_has_no_row():
    assert row() is None and row(cause="none") is None


def test_of_a_failover_s_lost_sessions_all_are_told_with_when_new_ones_worked():
    rows = endings(drill())
    assert [r.flow for r in rows] == ["jumphost/ingress-tcp", "workload-a/egress-tcp"]
    assert all(r.how == "silence" and r.again.startswith("+") for r in rows)
