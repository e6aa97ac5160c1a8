"""How kept sessions end: reset by the far end, dropped in silence on the way, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probe.lab import processes
from probe.report.document import laws

from .triple import IPV4, IPV6, MS, TARGETS, TCP_PORT, UDP_PORT, Run, Triple, sockets, wait_for

ECHO_PORT = 7007

pytestmark = pytest.mark.netns


def named(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Flows by protocol and session, `tcp` or `tcp-fresh`; `6` behind the protocol for IPv6."""
    found = {}
    for flow in document["flows"]:
        family = "6" if ":" in flow["target"] else ""
        found[f"{flow['protocol']}{family}{'-fresh' if flow['session'] == 'fresh' else ''}"] = flow
    return found


def test_a_reflector_that_starts_anew_resets_the_sessions_of_the_old_one(triple: Triple, reflector: Run):
    capture = triple.capture()
    run = triple.start_measure(
        *(TARGETS[kind] for kind in ("tcp", "tcp6", "udp")), rate=500, duration=4, session="both", loss_threshold=0.3
    )
    capture.wait_for("tcp", 300)
    # Nobody answers while it is away, not even that host's kernel.
    triple.drop(f"ip saddr {IPV4}", f"ip6 saddr {IPV6}")
    reflector.kill()
    triple.reflect()
    triple.drop()
    document = run.document()
    assert laws(document, settled=True) == []
    flows = named(document)
    for kind, address in (("tcp", IPV4), ("tcp6", IPV6)):
        old, new = flows[kind], flows[f"{kind}-fresh"]
        end = old["session_end"]
        # A reflector sends with TTL 255 and there is one router: the address and TTL tell who ended the session.
        assert (end["cause"], end["from"], end["ttl"]) == ("rst", address, 254)
        assert (end["peer_ttl"], end["by"]) == (254, "peer")
        assert old["verdict"] == "reset"
        assert old["counts"]["reset"] == 1
        assert document["run"]["started_ns"] < end["at_ns"] < document["run"]["ended_ns"]
        assert new["verdict"] == "survived"
        assert [o["censored"] for o in new["outages"]] == ["no"]
        # Its last outage was never seen to end, and no probe was sent once the session was over.
        assert old["outages"][-1]["censored"] == "end"
        assert old["counts"]["scheduled"] < new["counts"]["scheduled"] == 2000
        assert end["again_ns"] == new["outages"][-1]["end_ns"]
    for kind in ("udp", "udp-fresh"):
        assert flows[kind]["verdict"] == "survived", flows[kind]["outages"]
        assert flows[kind]["outages"][-1]["censored"] == "no"
    assert document["matrix"]["default"]["tcp"] == "reset"
    assert document["matrix"]["default"]["tcp-new"] == "recovered"
    codes = {finding["code"] for finding in document["diagnosis"]}
    assert "peer_resets_sessions" in codes and "firewall_resets_sessions" not in codes


def test_a_session_that_is_dropped_in_silence_is_lost_and_new_ones_are_not(triple: Triple, reflector: Run):
    capture = triple.capture()
    run = triple.start_measure(
        *(TARGETS[kind] for kind in ("tcp", "udp")), rate=500, duration=2.2, session="both", loss_threshold=0.3
    )
    capture.wait_for("tcp", 300)
    port = {p.port for p in capture.probes("tcp").values()}
    assert len(port) == 1
    triple.drop(f"tcp sport {port.pop()} tcp dport {TCP_PORT}")
    document = run.document()
    assert laws(document, settled=True) == []
    flows = named(document)
    old = flows["tcp"]
    (outage,) = old["outages"]
    assert (outage["censored"], old["session_end"]["cause"], old["verdict"]) == ("end", "silent", "lost")
    assert outage["last_lost_seq"] == old["counts"]["sent"] - 1
    assert outage["lost"] == old["counts"]["lost"] == old["counts"]["sent"] - outage["first_lost_seq"]
    assert old["session_end"]["at_ns"] == outage["start_ns"]
    assert old["counts"]["reset"] == 0
    for kind in ("tcp-fresh", "udp", "udp-fresh"):
        assert (flows[kind]["counts"]["lost"], flows[kind]["outages"]) == (0, []), kind
        assert flows[kind]["session_end"]["cause"] == "none"
    assert document["matrix"] == {
        "default": {"tcp": "lost", "tcp-new": flows["tcp-fresh"]["verdict"]}
        | {"udp": flows["udp"]["verdict"], "udp-new": flows["udp-fresh"]["verdict"]}
    }


@pytest.mark.parametrize("address", [IPV4, f"[{IPV6}]"])
def test_a_listener_that_repeats_its_lost_answers_hides_no_outage(triple: Triple, address: str):
    """The far kernel would send each SYN/ACK again after a second, when the way back is clear."""
    triple.reflect(triple.far, "--echo", str(ECHO_PORT))
    triple.nft(
        "table inet faults {",
        "counter asked { }",
        "counter lost { }",
        "chain forward {",
        "type filter hook forward priority 0;",
        f"tcp dport {ECHO_PORT} tcp flags & (syn|ack) == syn counter name asked",
        "}",
        "}",
    )
    run = triple.start_measure(f"tcp://{address}:{ECHO_PORT}", rate=100, duration=4.5, session="fresh")
    wait_for(lambda: counted(triple, "asked") > 50)
    answers = f"tcp sport {ECHO_PORT} tcp flags & (syn|ack) == syn|ack"
    triple.run(triple.router, "nft", f"add rule inet faults forward {answers} counter name lost drop")
    wait_for(lambda: counted(triple, "lost") >= 150)
    triple.run(triple.router, "nft", "insert rule inet faults forward accept")
    lost = counted(triple, "lost")
    document = run.document()
    assert laws(document, settled=True) == []
    [flow] = document["flows"]
    assert (flow["counts"]["lost"], flow["counts"]["late"]) == (lost, 0)
    (outage,) = flow["outages"]
    assert outage["last_lost_seq"] - outage["first_lost_seq"] + 1 == outage["lost"] == lost
    assert flow["rtt_ns"]["max"] < 900 * MS


def test_a_router_that_reflects_answers_for_nobody_else(triple: Triple):
    """Its interface takes what it passes on for its own: both have its MAC address."""
    triple.reflect(triple.router)
    targets = [TARGETS[kind] for kind in ("udp", "udp6")]
    own = ["udp://10.211.1.1", "udp://[fd11:1::1]"]
    fresh = triple.start_measure(*targets, *own, rate=100, duration=1, session="both", loss_threshold=0.3)
    for flow in fresh.document(status=5)["flows"]:
        counts = flow["counts"]
        far = any(address in flow["name"] for address in (IPV4, IPV6.replace(":", ".")))
        assert counts["received"] == (0 if far else counts["sent"]) and counts["sent"] > 0, flow["name"]


def test_behind_a_bridge_each_request_is_answered_once(tmp_path: Path):
    """The reflector's rings see it on the port, and again on the bridge."""
    triple = Triple.open(tmp_path, "bridge")
    try:
        triple.ip(triple.far, f"addr del {IPV4}/24 dev b1", "link add hb0 type bridge", "link set b1 master hb0")
        triple.ip(triple.far, "link set hb0 up", f"addr add {IPV4}/24 dev hb0", "route add default via 10.211.2.1")
        own_sysfs = ["unshare", "-m", "sh", "-c", 'mount -t sysfs none /sys && exec "$@"', "sh"]
        reflector = triple.start(triple.far, "reflect", "--udp", "862", "--tcp", str(TCP_PORT), wrap=own_sysfs)
        wait_for(lambda: "reflecting" in reflector.said())
        run = triple.start_measure(TARGETS["udp"], TARGETS["tcp"], rate=200, duration=1, loss_threshold=0.5)
        for flow in run.document()["flows"]:
            assert flow["counts"]["received"] == flow["counts"]["sent"] > 0 == flow["counts"]["duplicate"]
    finally:
        triple.close()


def counted(triple: Triple, name: str) -> int:
    """Packets that a counter of the router's table has seen."""
    return int(triple.run(triple.router, "nft", f"list counter inet faults {name}").split("packets")[1].split()[0])


def test_a_host_without_its_reflector_refuses_and_the_flow_counts_it(triple: Triple, reflector: Run):
    """The far host's kernel answers in the reflector's place: RST, and port unreachable."""
    capture = triple.capture()
    run = triple.start_measure(*(TARGETS[k] for k in ("tcp", "udp")), rate=200, duration=2, loss_threshold=0.3)
    capture.wait_for("tcp", 100)
    reflector.kill()
    document = run.document()
    assert laws(document, settled=True) == []
    flows = named(document)
    # As far away as the reflector was, though of another initial TTL: it is the far host itself, and no firewall.
    end = flows["tcp"]["session_end"]
    assert (end["cause"], end["ttl"], end["peer_ttl"], end["by"]) == ("rst", 63, 254, "peer")
    assert flows["tcp"]["verdict"] == "reset"
    assert flows["udp"]["counts"]["icmp_error"] > 0
    assert flows["udp"]["counts"]["lost"] > 50
    assert flows["udp"]["verdict"] == "dark"
    assert {o["censored"] for o in flows["udp"]["outages"]} == {"end"}
    refused = flows["udp"]["session_end"]
    assert (refused["cause"], refused["from"], refused["by"]) == ("icmp", IPV4, "peer")
    assert (refused["icmp_type"], refused["icmp_code"], refused["ttl"]) == (3, 3, 63)


def test_sessions_that_a_router_refuses_by_icmp_end_by_it_and_passing_errors_end_nothing(
    triple: Triple, reflector: Run
):
    capture = triple.capture()
    run = triple.start_measure(
        *(TARGETS[k] for k in ("icmp", "udp", "tcp", "udp6")),
        rate=100,
        duration=300,
        session="kept",
        loss_threshold=0.5,
    )
    capture.wait_for("tcp", 50)
    # Linux sends one such error a second to each host; here all are to be seen.
    for family in ("ipv4.icmp_ratelimit", "ipv6.icmp.ratelimit"):
        triple.run(triple.router, "sysctl", "-qw", f"net.{family}=0")
    refuse = "reject with icmp type admin-prohibited"

    def reject(*rules: str) -> None:
        chain = ("table inet faults {", "chain forward {", "type filter hook forward priority 0; policy accept;")
        triple.nft("flush ruleset", *chain, *rules, "}", "}")

    def later(kind: str, more: int = 60, family: int = 4) -> None:
        capture.wait_for(kind, max(capture.probes(kind, family)) + more, family)

    reject(f"ip6 daddr {IPV6} reject with icmpv6 type no-route")  # for a while
    later("udp", family=6)
    reject(f"ip daddr {IPV4} {refuse}")  # for good
    later("udp")
    later("udp", family=6)
    run.interrupt()
    document = run.document()
    assert laws(document, settled=True) == []
    flows = named(document)
    for kind in ("icmp", "udp", "tcp"):
        end, outage = flows[kind]["session_end"], flows[kind]["outages"][-1]
        assert (end["cause"], end["from"], end["ttl"], end["by"]) == ("icmp", "10.211.1.1", 64, "firewall"), kind
        assert (end["icmp_type"], end["icmp_code"]) == (3, 13)
        assert outage["censored"] == "end" and end["at_ns"] >= outage["start_ns"]
        assert flows[kind]["verdict"] == "dark"  # there is no new session that would tell the path from the session
        assert flows[kind]["counts"]["icmp_error"] >= 10
    passed = flows["udp6"]
    assert passed["counts"]["icmp_error"] >= 10 and passed["session_end"]["cause"] == "none"
    assert [o["censored"] for o in passed["outages"]] == ["no"]


def test_a_sender_that_is_killed_leaves_nothing_behind(triple: Triple, reflector: Run):
    """No rule, no port, and no session that the far end would go on answering."""
    capture = triple.capture()
    run = triple.start_measure(TARGETS["tcp"], TARGETS["udp"], rate=200, duration=300, session="both")
    capture.wait_for("tcp", 50)
    engine = processes.identify("sender", run.engine())
    held = triple.run(triple.sender, "ss", "-Hltun").splitlines()
    assert len(held) > 10  # both kept sessions' ports, and those of the fresh ones
    run.kill()
    wait_for(lambda: not engine.alive, what="for the engine to follow")
    assert sockets(triple.run(triple.sender, "ss", "-Hatun")) == []
    for name in triple.names:
        assert triple.run(name, "nft", "list", "ruleset").strip() == ""


def test_a_translation_that_changes_is_seen(triple: Triple, reflector: Run):
    """The kept UDP flow is answered again, but behind another port: its session did not survive."""
    capture = triple.capture()
    run = triple.start_measure(TARGETS["udp"], rate=500, duration=2.5, session="both", loss_threshold=0.3)
    capture.wait_for("udp", 600)
    kept = next(port for port, count in _ports(capture).items() if count > 200)
    triple.nft(
        "table ip nat {",
        "chain there { type filter hook prerouting priority -300;",
        f"udp sport {kept} udp dport {UDP_PORT} @th,{64},32 800-899 drop",
        f"udp sport {kept} udp dport {UDP_PORT} @th,{64},32 >= 900 udp sport set 7000",
        "}",
        "chain back { type filter hook prerouting priority -300;",
        f"udp sport {UDP_PORT} udp dport 7000 udp dport set {kept}",
        "}",
        "}",
    )
    document = run.document()
    assert laws(document, settled=True) == []
    flows = named(document)
    assert flows["udp"]["rebound"] is True
    assert flows["udp"]["verdict"] == "rebound"
    assert flows["udp-fresh"]["verdict"] == "unaffected" or flows["udp-fresh"]["unobserved"]
    (outage,) = flows["udp"]["outages"]
    assert (outage["lost"], outage["first_lost_seq"]) == (100, 800)


def _ports(capture: Any) -> dict[int, int]:
    ports: dict[int, int] = {}
    for packet in capture.packets():
        if packet.proto == "udp" and not packet.reply:
            ports[packet.port] = ports.get(packet.port, 0) + 1
    return ports


def test_a_link_local_target_is_reached_on_the_interface_that_it_names(triple: Triple):
    """The router asks the sender, though its first route to all link-local addresses leads the other way."""
    listed = triple.run(triple.sender, "ip", "-6", "-br", "addr", "show", "dev", "a0", "scope", "link")
    host = f"{listed.split()[2].partition('/')[0]}%a1"
    triple.reflect(triple.sender, "--udp", str(UDP_PORT), "--tcp", str(TCP_PORT), "--echo", str(ECHO_PORT))
    triple.ip(triple.router, "-6 route del fe80::/64 dev a1", "-6 route add fe80::/64 dev a1 metric 300")
    try:
        targets = ("icmp://[{}]", "udp://[{}]", f"tcp://[{{}}]:{TCP_PORT}", f"tcp+stream://[{{}}]:{ECHO_PORT}")
        options = {"rate": 200, "duration": 1.5, "loss_threshold": 0.3}
        document = triple.start_measure(*(t.format(host) for t in targets), name=triple.router, **options).document()
    finally:
        triple.ip(triple.router, "-6 route append fe80::/64 dev a1 metric 256 proto kernel")
        triple.ip(triple.router, "-6 route del fe80::/64 dev a1 metric 300")
    assert laws(document, settled=True) == []
    assert [flow["target"] for flow in document["flows"]] == [host] * len(targets)
    for flow in document["flows"]:
        assert flow["counts"]["received"] == flow["counts"]["sent"] > 200, (flow["protocol"], flow["counts"])
