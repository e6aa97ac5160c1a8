"""Where nothing is lost, nothing is said to be."""

from __future__ import annotations

from typing import Any

import pytest

from probe.report.document import laws
from probe.session.sender import LATEST_NS

from .triple import TARGETS, TCP_PORT, UDP_PORT, Run, Triple

pytestmark = pytest.mark.netns

HOSTS = ("127.0.0.1", "[::1]")
LOOPBACK = [url for host in HOSTS for url in (f"icmp://{host}", f"udp://{host}", f"tcp://{host}:{TCP_PORT}")]


def check_clean(document: dict[str, Any], flows: int, probes: int) -> None:
    assert laws(document, settled=True) == []
    assert len(document["flows"]) == flows
    for flow in document["flows"]:
        counts = flow["counts"]
        assert counts["scheduled"] == probes, flow["name"]
        assert counts["received"] == counts["sent"] > 0, (flow["name"], counts)
        trouble = ("lost", "late", "duplicate", "reordered", "corrupt", "dropped_locally", "icmp_error", "pending")
        assert {name: counts[name] for name in trouble} == dict.fromkeys(trouble, 0), flow["name"]
        assert flow["outages"] == []
        assert flow["session_end"]["cause"] == "none"
        # A machine that pauses us is seen to; what came due in a short pause was still sent.
        assert counts["unsent"] > 0 or flow["verdict"] == "unaffected"
        longest = max((span["end_ns"] - span["start_ns"] for span in flow["unobserved"]), default=0)
        assert counts["unsent"] > 0 or longest <= LATEST_NS + 2 * flow["interval_ns"], flow["unobserved"]
        assert {span["cause"] for span in flow["unobserved"]} <= {"stall"}
        assert 0 < flow["rtt_ns"]["min"] <= flow["rtt_ns"]["p50"] <= flow["rtt_ns"]["p99"] <= flow["rtt_ns"]["max"]


def test_every_kind_of_flow_is_answered_in_full(triple: Triple, reflector: Run, measure):
    document = measure(*TARGETS.values(), rate=1000, duration=2, session="both", loss_threshold=0.5)
    check_clean(document, 12, 2000)


def test_a_host_can_probe_itself(triple: Triple, measure):
    triple.reflect(triple.sender)
    check_clean(measure(*LOOPBACK, rate=500, duration=1, session="both", loss_threshold=0.5), 12, 500)


@pytest.mark.parametrize("where", ["everywhere", "on the tunnel"])
def test_every_kind_of_flow_is_answered_through_a_tunnel(triple: Triple, measure, where: str):
    """A WireGuard, tun, PPP or GRE interface has no Ethernet: the kernel is handed packets, and hands packets up."""
    tunnel = triple.tunnel()
    ports = ("--udp", str(UDP_PORT), "--tcp", str(TCP_PORT))
    triple.reflect(triple.far, *ports, *(() if where == "everywhere" else ("--interface", "t0")))
    hosts = (tunnel.IPV4, f"[{tunnel.IPV6}]")
    targets = [url for host in hosts for url in (f"icmp://{host}", f"udp://{host}", f"tcp://{host}:{TCP_PORT}")]
    check_clean(measure(*targets, rate=100, duration=1.5, session="both", loss_threshold=0.5), 12, 150)


def test_a_tunnel_that_is_asked_for_is_taken_though_the_route_leads_elsewhere(triple: Triple, measure):
    triple.tunnel()
    triple.reflect()
    capture = triple.capture()
    targets = [TARGETS[kind] for kind in ("udp", "tcp")]
    check_clean(measure(*targets, rate=100, duration=1, interface="t0", loss_threshold=0.5), 2, 100)
    assert capture.packets() == []


def test_a_fresh_tcp_probe_needs_no_listener_of_ours(triple: Triple, reflector: Run, measure):
    """Nobody listens on port 9: the far kernel's RST is an answer too."""
    document = measure("tcp://10.211.2.2:9", "tcp://[fd11:2::2]:9", rate=200, duration=1, session="fresh")
    check_clean(document, 2, 200)
    assert [flow["counts"]["reset"] for flow in document["flows"]] == [f["counts"]["sent"] for f in document["flows"]]


def test_the_kernel_stays_quiet_and_sessions_are_closed(triple: Triple, reflector: Run, measure):
    """Neither host's own stack resets a session of ours, and a kept session ends with one exact RST."""
    triple.nft(
        "table inet seen {",
        "counter out { }",
        "counter back { }",
        "chain forward {",
        "type filter hook forward priority 0;",
        f"tcp dport {TCP_PORT} tcp flags & rst == rst counter name out",
        f"tcp sport {TCP_PORT} tcp flags & rst == rst counter name back",
        "}",
        "}",
    )
    measure(TARGETS["tcp"], TARGETS["tcp6"], rate=500, duration=1)
    counted = triple.run(triple.router, "nft", "list", "counters")
    assert [line.split()[1] for line in counted.splitlines() if "packets" in line] == ["2", "0"]
