"""Our own host stands still or loses its link: that is not the network's fault, and is not said to be."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from probe import cli
from probe.lab import namespace
from probe.report.document import laws

from .triple import MS, NETNS, TARGETS, Packet, Run, Triple, engines, wait_for

pytestmark = pytest.mark.netns

ALL = [TARGETS[kind] for kind in ("icmp", "udp", "tcp")]


def test_a_stalled_engine_makes_up_for_nothing_and_loses_nothing(triple: Triple, reflector: Run):
    capture = triple.capture()
    run = triple.start_measure(*ALL, rate=1000, duration=2, loss_threshold=0.3)
    capture.wait_for("udp", 600)
    engine = run.engine()
    os.kill(engine, signal.SIGSTOP)
    stopped_ns = time.time_ns()
    time.sleep(0.5)  # the stall itself
    continued_ns = time.time_ns()
    os.kill(engine, signal.SIGCONT)
    document = run.document()
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert counts["scheduled"] == 2000, flow["name"]
        assert counts["unsent"] >= 450, (flow["name"], counts)
        # Replies that waited in the ring meanwhile carry the kernel's stamp of their arrival: they are not late.
        assert counts["received"] == counts["sent"], (flow["name"], counts)
        assert flow["outages"] == []
        assert flow["session_end"]["cause"] == "none"
        # It was unobserved from the last probe before the stall to the first after it, as the router saw them.
        passed = sorted(p.at_ns for p in capture.probes(flow["protocol"]).values())
        _, before, behind = max((b - a, a, b) for a, b in itertools.pairwise(passed))
        assert before <= stopped_ns + 100 * MS < continued_ns <= behind
        spans = [u for u in flow["unobserved"] if u["end_ns"] - u["start_ns"] > 400 * MS]
        assert [u["cause"] for u in spans] == ["stall"], flow["unobserved"]
        # The engine reads the clock just before it sends; a busy host may stop it between the two.
        assert abs(spans[0]["start_ns"] - before) < 10 * MS
        assert abs(spans[0]["end_ns"] - behind) < 10 * MS
        # Wherever it says unobserved, a slot was missed, and no probe left.
        for span in flow["unobserved"]:
            assert span["end_ns"] - span["start_ns"] > 3 * MS // 2, flow["unobserved"]
            inside = [at for at in passed if span["start_ns"] + 10 * MS < at < span["end_ns"] - 10 * MS]
            assert inside == [], (span, inside[:3])
        # No burst afterwards, but for the 20 ms of a stall of the host's own.
        after = [at for at in passed if at >= continued_ns]
        most = max(sum(at <= other < at + MS for other in after) for at in after)
        assert most <= 25, flow["name"]
        assert flow["rtt_ns"]["max"] < 300 * MS


def test_a_link_that_goes_down_is_unobserved(triple: Triple, reflector: Run):
    capture = triple.capture()
    run = triple.start_measure(*ALL, rate=500, duration=2.5, loss_threshold=0.3)
    capture.wait_for("udp", 300)
    triple.link_down()
    down_ns = time.time_ns()
    wait_for(lambda: time.time_ns() > down_ns + 500 * MS)
    up_ns = time.time_ns()
    triple.link_up()
    document = run.document()
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert counts["scheduled"] == 1250
        assert counts["unsent"] > 100, (flow["name"], counts)
        # What was on its way when the link went is not the network's to lose.
        assert counts["lost"] == 0 and counts["dropped_locally"] <= 5, (flow["name"], counts)
        assert flow["outages"] == []
        causes = {u["cause"] for u in flow["unobserved"] if u["start_ns"] < up_ns and u["end_ns"] > down_ns}
        assert "link_down" in causes, flow["unobserved"]
        # Nothing that was written before leaves afterwards: each sequence once, in order, near its TX time.
        passed = [p for p in capture.packets() if (p.proto, p.reply) == (flow["protocol"], False)]
        sequences = [p.sequence for p in passed]
        assert sequences == sorted(set(sequences)), flow["name"]
        assert not any(down_ns + 20 * MS < p.at_ns < up_ns for p in passed)
        assert max(sequences) == counts["sent"] - 1
        assert flow["rtt_ns"]["max"] < 300 * MS
        assert flow["session_end"]["cause"] == "none"


def test_a_carrier_that_is_gone_is_unobserved(triple: Triple, reflector: Run):
    """Until the kernel notices it takes every probe, and throws it away."""
    capture = triple.capture()
    run = triple.start_measure(*ALL, rate=500, duration=3.5, loss_threshold=0.3)
    capture.wait_for("udp", 300)
    gone_ns = time.time_ns()
    triple.unplug()
    wait_for(lambda: time.time_ns() > gone_ns + 1500 * MS)
    back_ns = time.time_ns()
    triple.plug_in()
    document = run.document()
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert counts["scheduled"] == 1750
        assert flow["outages"] == [] and counts["lost"] == 0, (flow["name"], counts)
        missed = counts["unsent"] + counts["dropped_locally"]
        assert 700 < missed < 1100, (flow["name"], counts)
        span = max(flow["unobserved"], key=lambda u: u["end_ns"] - u["start_ns"])
        assert span["cause"] == "link_down", flow["unobserved"]
        # With the last that was answered: a few more came as far as the router, which was closing its end.
        last = max(p.at_ns for p in capture.probes(flow["protocol"]).values() if p.at_ns < back_ns)
        assert -MS < last - span["start_ns"] < 50 * MS and span["end_ns"] > back_ns


@pytest.mark.parametrize("far", [False, True])
def test_what_an_interface_of_ours_drops_is_not_loss(triple: Triple, reflector: Run, far: bool):
    """In place of some replies, or of some probes on their way to the reflector, frames that are too big for it."""
    router, gone = "b0" if far else "a1", {"icmp": set(), "udp": set(), "tcp": set()}

    def treat(packet: Packet, frame: bytes) -> list[tuple[float, bytes]]:
        if packet.reply == far or not 300 <= packet.sequence < 340:
            return [(0.0, frame)]
        gone[packet.proto].add(packet.sequence)
        return [(0.0, frame[:14] + bytes(2000))]

    targets = [TARGETS[kind] for kind in ("udp", "tcp")] if far else ALL  # no kernel tells of its drops
    triple.ip(triple.router, f"link set {router} mtu 3000")
    try:
        triple.impair(**{"out" if far else "back": treat})
        document = triple.start_measure(*targets, rate=500, duration=2, loss_threshold=0.3).document()
    finally:
        triple.ip(triple.router, f"link set {router} mtu 1500")
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert len(gone[flow["protocol"]]) == 40
        assert (counts["dropped_locally"], counts["lost"], flow["outages"]) == (40, 0, []), counts
        spans = [u["end_ns"] - u["start_ns"] for u in flow["unobserved"] if u["cause"] == "ring_drop"]
        assert 70 * MS < sum(spans) < 110 * MS, flow["unobserved"]  # 40 intervals


def test_a_reflector_that_stalls_is_not_loss(triple: Triple, reflector: Run):
    """Probes wait in its ring; the replies say how long they did, so that the delay stays the network's."""
    capture = triple.capture()
    run = triple.start_measure(TARGETS["udp"], TARGETS["tcp"], rate=1000, duration=1.5, loss_threshold=1)
    capture.wait_for("udp", 500)
    engine = reflector.engine("reflector")
    os.kill(engine, signal.SIGSTOP)
    time.sleep(0.4)
    os.kill(engine, signal.SIGCONT)
    document = run.document()
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        assert flow["counts"]["received"] == flow["counts"]["sent"], flow["counts"]
        # A quarter of the probes waited. The few it had stamped but not sent when it was stopped do show the wait.
        assert flow["rtt_ns"]["p99"] < 100 * MS


def test_an_engine_that_never_answers_again_is_told(
    triple: Triple, reflector: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setattr("probe.supervise.STOP_S", 0.5)
    monkeypatch.setattr("probe.measure.CONNECT_S", 0.5)
    pids: list[int] = []

    def stop_it(pid: int) -> None:
        pids.append(pid)
        os.kill(pid, signal.SIGSTOP)

    def run() -> int:
        engine = threading.Timer(1.0, lambda: stop_it(wait_for(lambda: engines(os.getpid()).get("sender"))))
        engine.start()
        try:
            return cli.main(
                ["-q", "measure", TARGETS["udp"], "--rate", "500", "--duration", "2", "--json", str(result)]
            )
        finally:
            engine.join()

    result = tmp_path / "result.json"
    assert namespace.inside(NETNS / triple.sender, run) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert f"the probing process (pid {pids[0]}) did not answer" in said and "missing from this result" in said
    document = json.loads(result.read_text())
    assert laws(document) == []
    assert 0 < document["flows"][0]["counts"]["sent"] < 1000


def test_an_engine_that_is_killed_is_told_and_is_no_result(triple: Triple, reflector: Run):
    capture = triple.capture()
    run = triple.start_measure(TARGETS["udp"], rate=500, duration=3)
    capture.wait_for("udp", 100)
    os.kill(run.engine(), signal.SIGKILL)
    assert run.end(10) == 1, run.said()
    assert "sender process has ended unexpectedly" in run.said()
