"""Delay, reordering, duplication, damage: told apart from loss. Which packets meet with what is known beforehand."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from probe.report.document import laws

from .triple import TARGETS, Packet, Run, Triple

pytestmark = pytest.mark.netns

ALL = [TARGETS[kind] for kind in ("icmp", "udp", "tcp", "icmp6", "udp6", "tcp6")]
Copies = list[tuple[float, bytes]]


class Treatment:
    """A rule for the relay that keeps count, per flow, of what it did to which sequences."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: dict[tuple[str, int], set[int]] = {}

    def mark(self, packet: Packet) -> None:
        with self._lock:
            self._done.setdefault((packet.proto, packet.family), set()).add(packet.sequence)

    def of(self, flow: dict[str, Any]) -> set[int]:
        return self._done.get((flow["protocol"], 6 if ":" in flow["target"] else 4), set())


class Delay(Treatment):
    """Sequences 200..499 come 600 ms later."""

    def __call__(self, packet: Packet, frame: bytes) -> Copies:
        if not 200 <= packet.sequence < 500:
            return [(0.0, frame)]
        self.mark(packet)
        return [(0.6, frame)]


class Copy(Treatment):
    """Every tenth comes twice; of those at 5, 15, ... each is overtaken by some that follow it."""

    def __call__(self, packet: Packet, frame: bytes) -> Copies:
        if packet.sequence % 10 == 0:
            self.mark(packet)
            return [(0.0, frame), (0.001, frame)]
        return [(0.05 if packet.sequence % 10 == 5 else 0.0, frame)]


class Damage(Treatment):
    """One bit of every fifth is turned round: of the transport's header or payload, another place each time."""

    def __call__(self, packet: Packet, frame: bytes) -> Copies:
        if packet.sequence % 5:
            return [(0.0, frame)]
        self.mark(packet)
        # Not the ports nor the ICMP identifier: a packet with those damaged is nobody's.
        first = (34 if packet.family == 4 else 54) + 8
        damaged = bytearray(frame)
        damaged[first + packet.sequence // 5 % (len(frame) - first)] ^= 1 << packet.sequence % 8
        return [(0.0, bytes(damaged))]


def test_replies_behind_the_threshold_are_late_and_no_outage_stays(triple: Triple, reflector: Run, measure):
    delay = Delay()
    triple.impair(back=delay)
    document = measure(*ALL, rate=300, duration=2.5, loss_threshold=0.3)
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert counts["late"] == len(delay.of(flow)) == 300, flow["name"]
        assert (counts["lost"], flow["outages"]) == (0, []), flow["name"]
        assert counts["received"] == counts["sent"] - 300


def test_duplicates_and_reordering_are_counted_and_cost_nothing(triple: Triple, reflector: Run, measure):
    copy = Copy()
    triple.impair(back=copy)
    document = measure(*ALL, rate=300, duration=1.5, loss_threshold=0.5)
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert (counts["received"], counts["lost"], counts["late"]) == (counts["sent"], 0, 0), flow["name"]
        assert counts["duplicate"] == len(copy.of(flow)) >= 40, flow["name"]
        overtaken = len(range(5, counts["sent"] - 10, 10))
        assert overtaken <= counts["reordered"] <= overtaken + 5, flow["name"]
        assert flow["outages"] == []


def test_duplicated_probes_are_one_probe(triple: Triple, reflector: Run, measure):
    copy = Copy()
    triple.impair(out=copy)
    document = measure(*ALL, rate=300, duration=1.5, loss_threshold=0.5)
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert (counts["received"], counts["lost"]) == (counts["sent"], 0), flow["name"]
        assert counts["duplicate"] == len(copy.of(flow)), flow["name"]


def test_damaged_replies_are_counted_and_not_believed(triple: Triple, reflector: Run, measure):
    damage = Damage()
    triple.impair(back=damage)
    document = measure(*ALL, rate=300, duration=1.5, loss_threshold=0.4)
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert counts["corrupt"] == counts["lost"] == len(damage.of(flow)) >= 80, (flow["name"], counts)
        assert counts["received"] == counts["sent"] - counts["lost"]
        # The reflector got them all.
        assert counts["lost_forward"] == 0
        assert flow["protocol"] == "icmp" or counts["lost_reverse"] >= 0.9 * counts["lost"], flow["name"]
        assert (counts["late"], counts["duplicate"], flow["outages"]) == (0, 0, [])
        assert flow["session_end"]["cause"] == "none"


def test_damaged_probes_are_lost_on_the_way_out(triple: Triple, reflector: Run, measure):
    damage = Damage()
    triple.impair(out=damage)
    document = measure(*ALL, rate=300, duration=1.5, loss_threshold=0.4)
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert counts["lost"] == len(damage.of(flow)) >= 80, (flow["name"], counts)
        assert counts["lost_reverse"] == counts["corrupt"] == 0, (flow["name"], counts)
        assert flow["protocol"] == "icmp" or counts["lost_forward"] >= 0.9 * counts["lost"], flow["name"]
        assert flow["session_end"]["cause"] == "none"
