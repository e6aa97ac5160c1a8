"""Delay, reordering, duplication, corruption: told apart from loss."""

from __future__ import annotations

import time

import pytest

from probe.report.document import laws

from .triple import TARGETS, Run, Triple

pytestmark = pytest.mark.netns

ALL = [TARGETS[kind] for kind in ("icmp", "udp", "tcp")]


def test_replies_behind_the_threshold_are_late_and_no_outage_stays(triple: Triple, reflector: Run):
    capture = triple.capture()
    run = triple.start_measure(*ALL, TARGETS["udp6"], rate=500, duration=2.5, loss_threshold=0.3)
    capture.wait_for("icmp", 200)
    triple.netem("delay 600ms")
    time.sleep(0.8)
    triple.netem("delay 0ms")  # taking it away altogether would drop what it holds
    document = run.document()
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert counts["late"] > 100, flow["name"]
        assert (counts["lost"], flow["outages"]) == (0, []), flow["name"]
        assert counts["received"] + counts["late"] == counts["sent"]
        assert flow["rtt_ns"]["max"] > 500_000_000


def test_duplicates_and_reordering_are_counted_and_cost_nothing(triple: Triple, reflector: Run, measure):
    triple.netem("delay 5ms 4ms", "duplicate 10%")
    document = measure(*ALL, TARGETS["tcp6"], rate=500, duration=1.5, loss_threshold=0.5)
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert counts["received"] == counts["sent"], flow["name"]
        assert 0.04 * counts["sent"] < counts["duplicate"] < 0.3 * counts["sent"], flow["name"]
        assert counts["reordered"] > 0, flow["name"]
        assert (counts["lost"], counts["late"], flow["outages"]) == (0, 0, [])


def test_damaged_replies_are_counted_and_believed_in_nothing(triple: Triple, reflector: Run, measure):
    triple.netem("corrupt 20%", interface="a1")
    document = measure(*ALL, TARGETS["icmp6"], TARGETS["udp6"], rate=500, duration=1.5, loss_threshold=0.4)
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        # A bit may also hit the addresses or ports, or the MAC header; such a reply is nobody's.
        assert 0.05 * counts["sent"] < counts["corrupt"] <= counts["lost"], (flow["name"], counts)
        assert counts["received"] + counts["lost"] == counts["sent"]
        assert counts["late"] == 0
        assert flow["rtt_ns"]["max"] < 400_000_000


def test_damaged_probes_are_lost_on_the_way_out(triple: Triple, reflector: Run, measure):
    triple.netem("corrupt 20%", interface="b0")
    document = measure(TARGETS["udp"], TARGETS["tcp"], TARGETS["udp6"], rate=500, duration=1.5, loss_threshold=0.4)
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert counts["lost"] > 0.08 * counts["sent"]
        assert counts["lost_reverse"] == 0, (flow["name"], counts)
        assert counts["lost_forward"] >= 0.9 * counts["lost"], (flow["name"], counts)
