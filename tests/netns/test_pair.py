"""A failover between two plain firewalls that are not the product's lab: what becomes of old and new sessions, and what
is said about it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from probe.report.document import laws

from .pair import FAR, Pair, opened
from .triple import Agent, Run, Triple, sockets, wait_for

pytestmark = pytest.mark.netns
TARGETS = (f"icmp://{FAR}", f"udp://{FAR}", f"tcp://{FAR}:8620")
RATE = 100
PEER_TTL, FIREWALL_TTL = 252, 63  # 255 or 64 less the routers on the way: three, or one


@pytest.fixture(scope="module")
def both(network: Triple, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with opened(tmp_path_factory.mktemp("pair")) as pair:
        yield pair


@pytest.fixture
def pair(both: Pair) -> Iterator[Pair]:
    """Both firewalls, as new, the first one in use."""
    try:
        yield both
    finally:
        both.reset()


@dataclass
class Case:
    """How the second firewall is set up, and what must be found."""

    invalid: str = "drop"
    nat: str = ""
    synchronised: bool = False
    tcp: str = "survived"
    udp: str = "survived"
    codes: tuple[str, ...] = ()


RESET = "reject with tcp reset"
CASES = {
    "synchronised": Case(synchronised=True),
    "dropped": Case(tcp="lost", codes=("sessions_not_synchronised",)),
    "rejected": Case(RESET, tcp="reset", codes=("firewall_resets_sessions",)),
    "another-address": Case(nat="own", tcp="lost", udp="rebound", codes=("nat_sessions_lost",)),
    "shared-address-synchronised": Case(nat="shared", synchronised=True),
    "shared-address-rejected": Case(
        RESET, nat="shared", tcp="reset", udp="rebound", codes=("firewall_resets_sessions", "nat_sessions_lost")
    ),
}


def fail_over(pair: Pair, run: Run, synchronise: Callable[[], Any]) -> dict[str, Any]:
    """Crash the first firewall, and after a second's probes use the other one; the run's document."""
    ahead, behind = pair.capture(), pair.capture("b0", pair.side("y"))
    ahead.wait_for("udp", RATE // 2)
    wait_for(lambda: behind.handshakes() >= 20, what="for new TCP sessions")
    pair.crash("a")
    ahead.wait_for("udp", max(ahead.probes("udp")) + RATE)
    synchronise()
    reached = max(behind.probes("udp"))
    pair.use("b")
    behind.wait_for("udp", reached + 2 * RATE)
    run.interrupt()
    document = run.document()
    assert laws(document, settled=True) == []
    return document


def measured(pair: Pair, case: Case, path: str) -> dict[str, Any]:
    """The document of a failover. A host so busy that most of it went unobserved tries again: it can say nothing."""
    for _ in range(4):
        for letter in "ab":
            pair.rules(letter, invalid=case.invalid, nat=case.nat)
        pair.reflect()
        run = pair.start_measure(*TARGETS, rate=RATE, duration=300, session="both", loss_threshold=0.5, path=path)
        document = fail_over(pair, run, lambda: case.synchronised and pair.copy_sessions("a", "b"))
        if all(flow["verdict"] != "unobserved" for flow in document["flows"]):
            break
        pair.reset()
    return document


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_session_is_judged_as_it_fared(pair: Pair, case: Case):
    path = "egress" if case.nat else "east-west"
    document = measured(pair, case, path)
    flows = {(f["protocol"], f["session"]): f for f in document["flows"]}
    fresh = {(protocol, "fresh"): "survived" for protocol in ("icmp", "udp", "tcp")}
    # An echo's translation cannot be seen: ICMP survives, whatever it went through.
    kept = {("icmp", "kept"): "survived", ("udp", "kept"): case.udp, ("tcp", "kept"): case.tcp}
    assert {key: flow["verdict"] for key, flow in flows.items()} == kept | fresh
    new = {f"{protocol}-new": "recovered" for protocol in ("icmp", "udp", "tcp")}
    assert document["matrix"] == {path: {"icmp": "survived", "udp": case.udp, "tcp": case.tcp} | new}
    codes = [d["code"] for d in document["diagnosis"] if d["code"] != "probe_unreliable"]
    assert codes == list(case.codes)
    end = flows["tcp", "kept"]["session_end"]
    assert end["cause"] == {"lost": "silent", "reset": "rst", "survived": "none"}[case.tcp]
    if case.tcp == "reset":
        assert (end["from"], end["ttl"], end["peer_ttl"], end["by"]) == (FAR, FIREWALL_TTL, PEER_TTL, "firewall")
        assert end["at_ns"] > flows["tcp", "kept"]["outages"][-1]["start_ns"]
    if case.tcp != "survived":
        assert end["again_ns"] == max(o["end_ns"] for o in flows["tcp", "fresh"]["outages"])
    assert all(f["session_end"]["cause"] == "none" for key, f in flows.items() if key != ("tcp", "kept"))
    assert flows["udp", "kept"]["rebound"] == (case.udp == "rebound")


# As many old sessions, and new ones a second. The suite shares its machine; alone on one, 1000 is to pass as well.
MANY = int(os.environ.get("HAPROBE_TEST_SESSIONS", "100"))


def states(agent: Agent) -> Counter[str]:
    """Kept flows by their state."""
    flows = agent.get("/api/v1/status")["flows"]
    return Counter(flow["state"] for flow in flows if flow["session"] == "kept")


def port(line: str) -> str:
    """The port that a session of the table was opened from."""
    return line.partition("sport=")[2].split()[0]


@pytest.mark.timeout(900)
def test_many_old_sessions_and_as_many_new_ones_a_second(pair: Pair, tmp_path: Path):
    """Half of the old ones are known to the second firewall; it resets the others."""
    pair.rules("a")
    pair.rules("b", invalid=RESET)
    pair.reflect()
    agent = pair.agent(tmp_path)
    tcp = {"protocol": "tcp", "path": "east-west", "target": FAR, "port": 8620, "loss_threshold": "500ms"}
    old = [{"name": f"old-{n}", "session": "kept", "rate": 2, **tcp} for n in range(MANY)]
    agent.configure({"flows": [*old, {"name": "new", "session": "fresh", "rate": MANY, **tcp}]})
    agent.start().wait_ready(300)
    wait_for(lambda: states(agent) == {"up": MANY}, 300, "for every session")
    ahead = pair.capture()
    pair.crash("a")
    wait_for(lambda: len(ahead.packets()) >= 7 * MANY, 300, "for seven probes of each old session")
    ahead.close()
    kept = [line for line in pair.conntrack("a", "-L", "-o", "save").splitlines() if "ESTABLISHED" in line]
    assert len(kept) == MANY
    known = {line.partition("--sport ")[2].split()[0] for line in kept[::2]}
    assert pair.copy_sessions("a", "b", lambda line: line.partition("--sport ")[2].split()[0] in known) == MANY // 2
    pair.use("b")
    wait_for(lambda: states(agent) == {"up": MANY // 2, "ended": MANY // 2}, 300, "for every session's end")
    wait_for(lambda: agent.flow("new")["state"] == "up", what="for new sessions")

    def judged() -> bool:
        """Until the loss threshold has passed for what came back, an outage is open whose first replies are in."""
        nonlocal document
        document = agent.get("/api/v1/report")
        assert laws(document) == []
        verdicts = Counter(flow["verdict"] for flow in document["flows"] if flow["session"] == "kept")
        return verdicts == {"survived": MANY // 2, "reset": MANY // 2}

    document: dict[str, Any] = {}
    wait_for(judged, what="for each session's verdict")
    for flow in document["flows"]:
        end = flow["session_end"]
        assert (end["cause"], end["by"]) == (("rst", "firewall") if flow["verdict"] == "reset" else ("none", "unknown"))
    new = document["flows"][-1]
    assert (new["verdict"], new["counts"]["reset"], new["counts"]["icmp_error"]) == ("survived", 0, 0)
    # Nothing is left in the host, nor half open in the firewall, once it has ended.
    # While the way was switched, a SYN may have gone by the second firewall and its answer by the first.
    astray = {port(line) for line in pair.conntrack("b", "-L", "-p", "tcp").splitlines() if "SYN_SENT" in line}
    assert agent.stop() == 0
    assert sockets(pair.run(pair.sender, "ss", "-Hatun")) == []
    assert all(pair.run(name, "nft", "list", "ruleset").strip() == "" for name in (pair.sender, pair.far))
    left = [line for line in pair.conntrack("b", "-L", "-p", "tcp").splitlines() if port(line) not in astray]
    states_left = Counter(line.split()[3] for line in left)
    assert set(states_left) <= {"CLOSE", "TIME_WAIT"}, states_left
