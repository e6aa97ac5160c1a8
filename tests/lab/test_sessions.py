"""The stand-ins' session tables, read in a real lab without agents: a few packets by hand are a kept session."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from probe.core.events import TimelineEvent
from probe.lab import namespace, topology
from probe.lab.firewall import KEPT_PACKETS
from probe.lab.lab import Lab
from probe.lab.plan import LabOptions, Plan

from .talk import needs_root, prefix

pytestmark = [pytest.mark.netns, needs_root]

CLIENT = {"east-west": "wl-a", "egress": "wl-a", "ingress": "jump"}
TARGET = {"east-west": "10.99.97.10", "egress": "198.51.100.130", "ingress": "203.0.113.10"}
SERVER = {"east-west": "wl-b", "egress": "inet", "ingress": "wl-a"}


@contextlib.contextmanager
def talkers(plan: Plan) -> Iterator[dict[str, tuple[socket.socket, socket.socket]]]:
    """A connected UDP client and its server on each path, on the agents' port."""

    def opened(connect: str = "") -> socket.socket:
        one = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        one.settimeout(5)
        if connect:
            one.connect((connect, 862))
        else:
            one.bind(("", 862))
        return one

    with contextlib.ExitStack() as stack:
        yield {
            path: (
                namespace.inside(plan.namespace_path(CLIENT[path]), opened, TARGET[path]),
                namespace.inside(plan.namespace_path(SERVER[path]), opened),
            )
            for path in CLIENT
        }


def talk(one: tuple[socket.socket, socket.socket], count: int) -> tuple[str, int]:
    """Send so many datagrams, each answered; where the server saw them come from."""
    client, server = one
    for _ in range(count):
        client.send(b"?")
        _, seen = server.recvfrom(9)
        server.sendto(b"!", seen)
        client.recv(9)
    return seen


def told(lab: Lab, moment: str) -> TimelineEvent:
    lab.note_sessions(moment)
    return [event for event in lab.events() if event.event == "sessions"][-1]


def test_a_session_is_found_by_its_many_packets_and_followed_to_the_other_unit(tmp_path):
    lab = Lab.up(LabOptions(session_pickup=False), prefix=prefix("ss"), state_dir=tmp_path / "lab", cloud=False)
    try:
        with talkers(lab.plan) as pairs:
            for one in pairs.values():
                talk(one, KEPT_PACKETS)
            assert told(lab, "before").detail == {"moment": "before", "unit": "fgt-a", "flows": {}}, "too few packets"

            seen = {path: talk(one, 2) for path, one in pairs.items()}
            before = told(lab, "before").detail["flows"]
            assert set(before) == {f"{path}-udp" for path in pairs}
            for path, (address, port) in seen.items():
                entry = before[f"{path}-udp"]
                assert entry["seen_as"] == f"{address}:{port}", "as the far end sees it, the Elastic IP included"
                assert (entry["way"], entry["out"], entry["back"]) == (True, 0, 0)

            lab.failover("graceful")
            lab.wait_moved("fgt-a")
            assert told(lab, "moved").detail["flows"] == dict.fromkeys(before), "the other unit knows none of them"

            topology.set_eips(lab.plan, {"203.0.113.10": "10.99.99.10"})
            topology.set_route(lab.plan, "transit", "0.0.0.0/0", "fgt-b-port2")
            seen = {path: talk(one, 2) for path, one in pairs.items()}
            after = told(lab, "end")
            assert (after.source, after.detail["unit"]) == ("lab", "fgt-b")
            for path, (address, port) in seen.items():
                entry = after.detail["flows"][f"{path}-udp"]
                assert (entry["known"], entry["way"]) == ("anew", True)
                assert entry["seen_as"] == f"{address}:{port}"
            assert after.detail["flows"]["ingress-udp"]["translated"] == "10.99.99.26"

            topology.set_eips(lab.plan, {"203.0.113.10": "10.99.99.90"})
            ways = {flow: entry["way"] for flow, entry in told(lab, "end").detail["flows"].items()}
            assert ways == {"east-west-udp": True, "egress-udp": False, "ingress-udp": False}

            client = namespace.inside(lab.plan.namespace_path("wl-a"), lambda: socket.socket(type=socket.SOCK_DGRAM))
            with client:  # a next drill's session, while the one before has not timed out
                client.settimeout(5)
                client.connect((TARGET["east-west"], 862))
                _, port = talk((client, pairs["east-west"][1]), KEPT_PACKETS + 2)
                talk(pairs["east-west"], KEPT_PACKETS)
            assert told(lab, "before").detail["flows"]["east-west-udp"]["seen_as"].endswith(f":{port}")
    finally:
        lab.down()


def test_a_table_that_cannot_be_read_is_told_and_not_raised(tmp_path, monkeypatch):
    lab = Lab.up(LabOptions(session_pickup=False), prefix=prefix("sx"), state_dir=tmp_path / "lab", cloud=False)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(topology, "eips", lambda plan: (_ for _ in ()).throw(OSError("no such namespace")))
            event = told(lab, "end")
        assert event.detail["error"] == "OSError: no such namespace"
        assert "flows" not in event.detail
    finally:
        lab.down()
