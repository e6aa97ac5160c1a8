"""The router drops exactly known probes: what haprobe says about them is compared with that."""

from __future__ import annotations

from typing import Any

import pytest

from probe.report.document import laws

from .triple import IPV4, IPV6, MS, SEQUENCE, TARGETS, TCP_PORT, UDP_PORT, Run, Triple

pytestmark = pytest.mark.netns

LOST = range(2000, 2500)


def rule(match: str, kind: str, sequences: range) -> str:
    return f"{match} @th,{SEQUENCE[kind]},32 {sequences.start}-{sequences.stop - 1}"


# One blackout a flow, all in one run: target, way, the router's rule for it.
BLACKOUTS = {
    "udp": ("forward", rule(f"ip daddr {IPV4} udp dport {UDP_PORT}", "udp", LOST)),
    "udp6": ("reverse", rule(f"ip6 saddr {IPV6} udp sport {UDP_PORT}", "udp_reply", LOST)),
    "tcp": ("forward", rule(f"ip daddr {IPV4} tcp dport {TCP_PORT}", "tcp", LOST)),
    "tcp6": ("reverse", rule(f"ip6 saddr {IPV6} tcp sport {TCP_PORT}", "tcp", LOST)),
    "icmp": ("round_trip", rule(f"ip daddr {IPV4} icmp type echo-request", "icmp", LOST)),
    "icmp6": ("round_trip", rule(f"ip6 saddr {IPV6} icmpv6 type echo-reply", "icmp", LOST)),
}
COUNT_OF = {"forward": "lost_forward", "reverse": "lost_reverse", "round_trip": "lost_unattributed"}


@pytest.fixture(scope="module")
def blackout(network: Triple):
    """(document, capture in front of the router) of one run with all the blackouts."""
    try:
        network.reflect()
        network.drop(*(drop for _, drop in BLACKOUTS.values()))
        capture = network.capture()
        document = network.start_measure(*TARGETS.values(), rate=1000, duration=2.8, loss_threshold=0.4).document()
    finally:
        network.reset()
    return document, capture


def family_of(kind: str) -> int:
    return 6 if kind.endswith("6") else 4


def flow_of(document: dict[str, Any], kind: str) -> dict[str, Any]:
    wanted = (kind.removesuffix("6"), IPV6 if family_of(kind) == 6 else IPV4)
    (flow,) = [f for f in document["flows"] if (f["protocol"], f["target"]) == wanted]
    return flow


def test_the_whole_run_obeys_the_laws(blackout):
    assert laws(blackout[0], settled=True) == []


@pytest.mark.parametrize("kind", BLACKOUTS)
def test_a_blackout_of_known_probes_is_one_outage_with_exactly_these(blackout, kind: str):
    direction, _ = BLACKOUTS[kind]
    flow = flow_of(blackout[0], kind)
    (outage,) = flow["outages"]
    assert (outage["direction"], outage["censored"]) == (direction, "no")
    assert (outage["lost"], outage["first_lost_seq"], outage["last_lost_seq"]) == (500, 2000, 2499)
    counts = flow["counts"]
    assert counts["lost"] == counts[COUNT_OF[direction]] == 500
    assert counts["late"] == counts["duplicate"] == counts["corrupt"] == counts["dropped_locally"] == 0
    assert flow["verdict"] == "survived"


@pytest.mark.parametrize("kind", BLACKOUTS)
def test_its_bounds_hold_what_the_router_saw(blackout, kind: str):
    document, capture = blackout
    (outage,) = flow_of(document, kind)["outages"]
    edges, length = outage["edges_ns"], outage["duration_ns"]
    # Of what went unobserved, only the part between the first and the last loss shortens the lower bound.
    spare = outage["tx_error_ns"]
    assert 0 <= edges["last_lost"] - edges["first_lost"] - length["lower"] <= outage["unobserved_ns"] + spare
    assert 0 <= length["upper"] - (edges["first_ok"] - edges["last_ok"]) <= spare
    # When the probes of the edges came to the router: its blackout began with the first that it dropped, and ended
    # with the first that it let pass again.
    probes = capture.probes(kind.removesuffix("6"), family_of(kind))
    router = dict(zip(edges, (probes[number].at_ns for number in (1999, 2000, 2499, 2500)), strict=True))
    assert length["lower"] <= router["first_ok"] - router["first_lost"] <= length["upper"]
    # A TX time is read just before the frame leaves, so the router is never earlier, and not much later.
    for edge, at_ns in edges.items():
        assert -50_000 <= router[edge] - at_ns <= 5 * MS, edge


def test_a_mixed_blackout_is_attributed_probe_by_probe(triple: Triple, reflector: Run, measure):
    """1000..1399 are dropped on the way out, replies to 1300..1699 on the way back."""
    out, back = range(1000, 1400), range(1300, 1700)
    triple.drop(
        rule(f"udp dport {UDP_PORT}", "udp", out),
        rule(f"udp sport {UDP_PORT}", "udp_reply", back),
        rule(f"tcp dport {TCP_PORT}", "tcp", out),
        rule(f"tcp sport {TCP_PORT}", "tcp", back),
    )
    document = measure(TARGETS["udp"], TARGETS["tcp6"], rate=1000, duration=2, loss_threshold=0.4)
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert (counts["lost_forward"], counts["lost_reverse"], counts["lost_unattributed"]) == (400, 300, 0)
        found = [(o["direction"], o["lost"], o["first_lost_seq"], o["last_lost_seq"]) for o in flow["outages"]]
        assert sorted(found) == [("forward", 400, 1000, 1399), ("reverse", 300, 1400, 1699)]
        assert {o["episode"] for o in flow["outages"]} == {1}


# Flaps: every second one below the shortest outage of three probes, one that is told apart by a single probe, and one
# of the way back that begins while the way out is dark.
OUT = (range(500, 502), range(600, 603), range(700, 710), range(711, 721), range(1000, 1200))
BACK = (range(900, 905), range(1150, 1250), range(1400, 1403), range(1500, 1502))


def test_flaps_stay_windows_of_their_own_in_one_episode(triple: Triple, reflector: Run, measure):
    """2, 3, 10, 10 and 200 probes on the way out; 5, 100 that overlap the 200, 3 and 2 on the way back."""
    rules = [rule(f"udp dport {UDP_PORT}", "udp", span) for span in OUT]
    rules += [rule(f"udp sport {UDP_PORT}", "udp_reply", span) for span in BACK]
    rules += [rule(f"tcp dport {TCP_PORT}", "tcp", span) for span in OUT]
    rules += [rule(f"tcp sport {TCP_PORT}", "tcp", span) for span in BACK]
    triple.drop(*rules)
    capture = triple.capture()
    document = measure(TARGETS["udp"], TARGETS["tcp"], rate=1000, duration=2, loss_threshold=0.4)
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        # Of the 100 replies half were never asked for.
        assert (counts["lost_forward"], counts["lost_reverse"], counts["lost_unattributed"]) == (225, 60, 0)
        found = [(o["direction"], o["first_lost_seq"], o["last_lost_seq"], o["lost"]) for o in flow["outages"]]
        assert sorted(found) == [
            ("forward", 600, 602, 3),
            ("forward", 700, 709, 10),
            ("forward", 711, 720, 10),
            ("forward", 1000, 1199, 200),
            ("reverse", 900, 904, 5),
            ("reverse", 1200, 1249, 50),
            ("reverse", 1400, 1402, 3),
        ]
        assert {o["episode"] for o in flow["outages"]} == {1}
        assert {o["censored"] for o in flow["outages"]} == {"no"}
        assert flow["verdict"] == "survived"
        # The router dropped from the first of a run up to the next probe that it let pass, by its own clock.
        at = {sequence: p.at_ns for sequence, p in capture.probes(flow["protocol"]).items()}
        for outage in flow["outages"]:
            first, last = outage["first_lost_seq"], outage["last_lost_seq"]
            assert outage["duration_ns"]["lower"] <= at[last + 1] - at[first] + 5 * MS
            assert outage["duration_ns"]["upper"] >= at[last] - at[first]
