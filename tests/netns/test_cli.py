"""What a person at a shell sees: exit statuses, messages, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from probe.report.document import laws

from .triple import TARGETS, Run, Triple, wait_for

pytestmark = pytest.mark.netns

WITHOUT_RAW = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]
GRANTED_BY = ("root", "setcap cap_net_raw", "AmbientCapabilities=CAP_NET_RAW")


@pytest.mark.parametrize("command", ["measure", "reflect", "run"])
def test_without_the_privilege_it_says_how_to_grant_it(triple: Triple, tmp_path: Path, command: str):
    config = tmp_path / "agent.yml"
    config.write_text("flows: [{name: a, protocol: icmp, target: 10.211.2.2}]")
    arguments = {
        "measure": ["icmp://10.211.2.2"],
        "reflect": ["--udp", "8862"],
        "run": ["--config.file", str(config), "--journal.dir", str(tmp_path), "--web.listen-address", "127.0.0.1:0"],
    }[command]
    run = triple.start(triple.sender, command, *arguments, wrap=WITHOUT_RAW)
    assert run.end() == 3, run.said()
    assert "CAP_NET_RAW" in run.said()
    assert all(way in run.said() for way in GRANTED_BY)
    assert "Traceback" not in run.said()
    assert run.stdout.read_text() == ""


def test_a_stamp_reflector_that_is_not_there_is_named(triple: Triple):
    run = triple.start_measure("udp://10.211.2.2:863", rate=200, duration=0.5, loss_threshold=0.3)
    document = run.document(status=5)
    assert re.search(r"no reply from 10\.211\.2\.2 .*`haprobe reflect --udp 863`", run.said()), run.said()
    assert laws(document, settled=True) == []
    assert document["flows"][0]["verdict"] == "dark"


def test_a_tcp_reflector_that_is_not_there_is_named(triple: Triple):
    run = triple.start_measure("tcp://10.211.2.2:8621", duration=0.5)
    assert run.end() == 5
    assert "10.211.2.2 port 8621" in run.said()
    assert "haprobe reflect --tcp 8621" in run.said()
    assert run.stdout.read_text() == ""


def test_a_host_without_a_way_to_it_is_named(triple: Triple):
    triple.ip(triple.sender, "route del default")
    try:
        run = triple.start_measure("icmp://192.0.2.77", duration=0.5)
        assert run.end() == 5, run.said()
        assert "192.0.2.77" in run.said()
    finally:
        triple.link_up()


def test_a_port_in_use_is_named(triple: Triple, reflector: Run):
    run = triple.start(triple.far, "reflect", "--udp", "862")
    assert run.end() == 2
    assert "862" in run.said()
    assert "in use" in run.said()


def test_ctrl_c_ends_a_measurement_early_and_prints_its_result(triple: Triple, reflector: Run):
    capture = triple.capture()
    run = triple.start_measure(TARGETS["icmp"], TARGETS["tcp"], rate=500, duration=60, loss_threshold=0.5)
    capture.wait_for("icmp", 300)
    run.interrupt()
    document = run.document()
    assert laws(document, settled=True) == []
    for flow in document["flows"]:
        counts = flow["counts"]
        assert 200 <= counts["scheduled"] < 5000
        assert counts["received"] == counts["sent"]
        assert flow["outages"] == []
        # It was told when it was asked to stop, and sent nothing after it.
        assert max(capture.probes(flow["protocol"])) == counts["sent"] - 1
    assert "Traceback" not in run.said()


def test_ctrl_c_before_the_first_answer_is_no_crash(triple: Triple):
    """Nobody accepts the TCP session; the user gives up waiting."""
    capture = triple.capture()
    run = triple.start_measure("tcp://10.211.2.2:8621", duration=60)
    wait_for(capture.handshakes, what="for the SYN")
    run.interrupt()
    assert run.end(10) == 5, run.said()
    assert "nothing was sent to 10.211.2.2 yet" in run.said()
    assert "Traceback" not in run.said()
    assert capture.packets() == []


@pytest.mark.parametrize("when", ["starting", "waiting"])
def test_ctrl_c_before_the_first_probe_is_nobodys_fault(triple: Triple, when: str):
    """The engine is being started, or the only flow's first probe is due some time in the next quarter of an hour."""
    capture = triple.capture()
    run = triple.start_measure(TARGETS["icmp"], rate=0.001, duration=7200)
    run.engine()
    if when == "waiting":
        wait_for(lambda: "no answer yet" in run.said(), what="for the progress")
    run.interrupt()
    document = run.document()
    assert laws(document, settled=True) == []
    assert document["flows"][0]["counts"]["scheduled"] == 0 and document["flows"][0]["outages"] == []
    assert "ended before the first probe; nothing was measured" in run.said()
    assert "Traceback" not in run.said()
    assert capture.packets() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_no_engine_outlives_the_group_that_it_is_not_in(triple: Triple, number: signal.Signals):
    """A terminal that closes, or a shell that is killed, ends the process group; engines lead one of their own."""
    run = triple.start(
        *(triple.sender, "measure", TARGETS["icmp"], "--rate", "100", "--duration", "60"),
        wrap=["setsid"],
    )
    engine = run.engine()
    assert os.getpgid(run.pid) == run.pid
    wait_for(lambda: os.getpgid(engine) != run.pid, what="for the engine to lead its own")
    os.killpg(run.pid, number)
    run.end()
    wait_for(lambda: not Path(f"/proc/{engine}").exists(), what="for the engine's end")


def test_the_progress_goes_to_stderr_unless_it_is_quiet(triple: Triple, reflector: Run):
    loud = triple.start_measure(TARGETS["icmp"], rate=200, duration=1.2, loss_threshold=0.3)
    assert json.loads(json.dumps(loud.document()))["flows"]
    assert re.search(r"\d/1\.2 s  sent \d+  answered \d+", loud.said()), loud.said()
    quiet = triple.start(
        triple.sender, "-q", "measure", TARGETS["icmp"], "--rate", "200", "--duration", "0.5", "--loss-threshold", "0.3"
    )
    assert quiet.end() == 0
    assert quiet.said() == ""
    assert "icmp-10.211.2.2" in quiet.stdout.read_text()


def test_the_result_goes_to_files_too(triple: Triple, tmp_path: Path, reflector: Run):
    run = triple.start(
        *(triple.sender, "measure", TARGETS["icmp"], "--rate", "200", "--duration", "0.5", "--loss-threshold", "0.3"),
        *("--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html"), "--path", "east-west"),
    )
    assert run.end() == 0, run.said()
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["matrix"] == {"east-west": {"icmp": "unaffected"}}
    assert "<html" in (tmp_path / "a.html").read_text()
    assert "east-west" in run.stdout.read_text() or "unaffected" in run.stdout.read_text()


def test_the_interface_can_be_chosen(triple: Triple, reflector: Run, measure):
    document = measure(TARGETS["icmp"], rate=200, duration=0.5, interface="a0", loss_threshold=0.3)
    assert document["flows"][0]["counts"]["received"] > 0
    run = triple.start_measure(TARGETS["icmp"], duration=0.5, interface="nope0")
    assert run.end() == 2
    assert "nope0" in run.said()


def test_the_engine_runs_where_it_is_told_to(triple: Triple):
    words = [TARGETS["icmp"], "--rate", "100", "--duration", "5", "--cpu", "0", "--realtime"]
    run = triple.start(triple.sender, "measure", *words)
    engine = run.engine()
    wait_for(lambda: os.sched_getscheduler(engine) == os.SCHED_FIFO, what="for the engine's priority")
    assert os.sched_getaffinity(engine) == {0}
    assert os.sched_getscheduler(run.pid) == os.SCHED_OTHER
    assert run.end() == 0


def test_a_cpu_that_is_not_there_is_named(triple: Triple):
    run = triple.start(triple.sender, "measure", TARGETS["icmp"], "--cpu", "4095")
    assert run.end() == 2
    assert "no CPU 4095 to run on; allowed: 0" in run.said()


def test_a_reflector_ends_when_its_interface_is_gone_and_not_when_that_is_down(triple: Triple):
    triple.ip(triple.far, "link add x0 type veth peer name x1", "link set x0 up", "link set x1 up")
    run = triple.reflect(triple.far, "--udp", "8862", "--echo", "8863", "--interface", "x0")
    triple.ip(triple.far, "link set x0 down", "link set x0 name y0", "link set y0 up", "link set y0 down")
    with pytest.raises(subprocess.TimeoutExpired):
        run.end(1.0)
    triple.ip(triple.far, "link del y0", "link add x0 type veth peer name x1", "link del x0")
    assert run.end() == 5
    assert "interface x0 is gone" in run.said() and "Traceback" not in run.said()
