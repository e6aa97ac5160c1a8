"""The lab as a whole: what fails over, what survives it, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probe.errors import PrivilegeError
from probe.lab import conntrackd, namespace, processes, state, topology
from probe.lab.lab import Lab, LabError
from probe.lab.plan import UNITS, LabOptions, Plan

from .talk import alive, connect, echo_servers, needs_root, pings, prefix, tcp_works, udp_works

pytestmark = [pytest.mark.netns, needs_root]

# path: client, what it connects to
PATHS = {
    "east-west": ("wl-a", "10.99.97.10"),
    "ingress": ("jump", "203.0.113.10"),
    "egress": ("wl-a", "198.51.100.130"),
}
QUICK = {"api_latency_ms": 20, "propagation_ms": 20, "heartbeat_interval_ms": 50, "heartbeat_lost": 6}
MOVED = {"203.0.113.10": "10.99.99.10", "203.0.113.11": "10.99.99.122", "203.0.113.12": "10.99.99.42"}


@contextlib.contextmanager
def raised(tmp_path: Path, word: str, *, cloud: bool = False, **options) -> Iterator[Lab]:
    """A lab with echo servers, and the certainty that nothing of it is left afterwards."""
    name = prefix(word)
    lab = Lab.up(LabOptions(**{**QUICK, **options}), prefix=name, state_dir=tmp_path / "lab", cloud=cloud)
    try:
        with echo_servers(lab.plan, "wl-a", "wl-b", "inet"):
            yield lab
    finally:
        lab.down()
    assert namespace.existing(name) == []
    assert not lab.plan.state.exists()


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def by_hand(lab: Lab) -> None:
    """Fail over gracefully and move the cloud's part without a cloud."""
    before = lab.active_unit()
    lab.failover("graceful")
    lab.wait_moved(before)
    topology.set_eips(lab.plan, MOVED)
    topology.set_route(lab.plan, "transit", "0.0.0.0/0", "fgt-b-port2")


def sessions(lab: Lab, stack: contextlib.ExitStack) -> dict[str, object]:
    """An established TCP session on each path."""
    made = {path: stack.enter_context(connect(lab.plan, *ends)) for path, ends in PATHS.items()}
    assert all(alive(one) for one in made.values())
    return made


def works(lab: Lab, wait_s: float = 2.0) -> dict[str, tuple[bool, bool, bool]]:
    """New sessions on each path: (icmp, udp, tcp)."""
    ways = (pings, udp_works, tcp_works)
    return {path: tuple(way(lab.plan, *ends, wait_s) for way in ways) for path, ends in PATHS.items()}


ALL_WORK = dict.fromkeys(PATHS, (True, True, True))


def synchronised(lab: Lab, target: str, count: int) -> None:
    """Wait until the standby's conntrackd knows the sessions of the active one."""
    config = lab.plan.state / f"{target}-conntrackd.conf"
    argv = namespace.command_inside(lab.plan.namespace_path(target), ["conntrackd", "-C", str(config), "-e"])
    until(lambda: namespace.run(argv).count("ESTABLISHED") >= count)


def test_a_graceful_failover_moves_everything_and_its_unset_moves_it_back(tmp_path):
    with raised(tmp_path, "gr", cloud=True) as lab, contextlib.ExitStack() as stack:
        assert works(lab) == ALL_WORK
        held = sessions(lab, stack)
        synchronised(lab, "fgt-b", 3)

        at_ns = lab.failover("graceful")
        lab.wait_settled()

        assert lab.active_unit() == "fgt-b"
        status = lab.status()
        assert status["eips"] == MOVED
        assert status["routes"]["transit"] == {"0.0.0.0/0": "fgt-b-port2"}
        assert status["units"]["fgt-a"]["failover_set"]
        assert alive(held["east-west"])
        assert not alive(held["ingress"], 0.5)
        assert not alive(held["egress"], 0.5)
        assert works(lab) == ALL_WORK
        story = _story(lab, at_ns)
        assert story[:5] == ["trigger", "failover_set", "fgt-a secondary", "fgt-b primary", "AssociateAddress"]
        assert sorted(story[5:]) == ["ReplaceRoute", "applied eip", "applied route"]
        assert story[-1] == "applied route"  # the last call's effect; the EIP's may come before or after that call

        at_ns = time.time_ns()
        lab.unset()
        assert lab.active_unit() == "fgt-a"
        assert lab.status()["eips"]["203.0.113.10"] == "10.99.99.90"
        assert _story(lab, at_ns)[:3] == ["failover_unset", "fgt-b secondary", "fgt-a primary"]
        assert works(lab) == ALL_WORK
        assert alive(held["east-west"])


def test_a_crash_is_noticed_by_missed_heartbeats(tmp_path):
    with raised(tmp_path, "cr", cloud=True) as lab, contextlib.ExitStack() as stack:
        held = sessions(lab, stack)
        synchronised(lab, "fgt-b", 3)
        at_ns = lab.failover("crash")
        assert lab.status()["units"]["fgt-a"]["role"] == "dead"
        assert processes.inside([lab.plan.namespace("fgt-a")]) == []
        lab.wait_moved("fgt-a")
        with pytest.raises(LabError, match="fgt-a is dead"):
            lab.failover("graceful")
        assert topology.routes(lab.plan)["transit"] == {"0.0.0.0/0": "fgt-b-port2"}
        assert topology.eips(lab.plan) == MOVED

        events = {one.event: one for one in lab.events(at_ns)}
        assert events["trigger"].at_ns == at_ns
        assert events["trigger"].detail["kind"] == "crash"
        # 6 x 50 ms after the last heartbeat, which was at most one interval before the crash.
        silence_ns = events["heartbeat_lost"].at_ns - at_ns
        assert 250e6 - 10e6 <= silence_ns < 2e9
        assert events["heartbeat_lost"].detail["silence_ns"] >= 300e6
        assert alive(held["east-west"], 3.0)
        assert works(lab) == ALL_WORK

        lab.unset()  # repairs the unit, which comes back as secondary
        roles = {name: one["role"] for name, one in lab.status()["units"].items()}
        assert roles == {"fgt-a": "secondary", "fgt-b": "primary"}
        assert alive(held["east-west"])


def test_sessions_are_forgotten_by_both_units_also_after_a_failover(tmp_path):
    # Forgetting takes longer than a quick lab's peer would wait for a heartbeat.
    with raised(tmp_path, "fo", heartbeat_lost=600) as lab, contextlib.ExitStack() as stack:
        held = sessions(lab, stack)
        synchronised(lab, "fgt-b", 3)
        by_hand(lab)
        assert alive(held["east-west"])

        lab.forget_sessions()
        for name in UNITS:
            assert namespace.inside(lab.plan.namespace_path(name), conntrackd.sessions) == []
            assert conntrackd.Conntrackd(lab.plan, name).statistics() == {"internal": 0, "external": 0}
        assert not alive(held["east-west"], 0.5)
        lab.wait_settled()
        assert lab.active_unit() == "fgt-b"
        assert works(lab) == ALL_WORK
        stack.enter_context(connect(lab.plan, *PATHS["east-west"]))
        synchronised(lab, "fgt-a", 1)


@pytest.mark.parametrize("reset", [False, True])
def test_without_session_pickup_old_tcp_sessions_are_gone(tmp_path, reset):
    with raised(tmp_path, "np", session_pickup=False, reset_sessionless_tcp=reset) as lab:
        with contextlib.ExitStack() as stack:
            held = sessions(lab, stack)
            by_hand(lab)
            for path in ("east-west", "ingress"):
                if reset:
                    with pytest.raises(ConnectionResetError):
                        alive(held[path])
                else:
                    assert not alive(held[path], 0.7)
        assert works(lab) == ALL_WORK


def test_a_split_makes_both_primary_until_it_is_healed(tmp_path):
    with raised(tmp_path, "ls") as lab:
        at_ns = lab.failover("split")
        until(lambda: [one["role"] for one in lab.status()["units"].values()] == ["primary", "primary"], 20)
        lost = [event.detail["unit"] for event in lab.events(at_ns) if event.event == "heartbeat_lost"]
        assert sorted(lost) == list(UNITS)
        assert lab.active_unit() == ""
        lab.unset()
        assert lab.active_unit() == "fgt-a", "the higher priority keeps the role"


def test_a_vip_bound_to_the_old_address_leaves_ingress_dark(tmp_path):
    with raised(tmp_path, "vi", session_pickup=False, vip_extip="fixed") as lab:
        assert works(lab) == ALL_WORK
        by_hand(lab)
        assert works(lab, 0.5) == {**ALL_WORK, "ingress": (False, False, False)}


def test_a_secondary_forwards_nothing_although_routes_lead_to_it(tmp_path):
    with raised(tmp_path, "se", session_pickup=False) as lab:
        topology.set_eips(lab.plan, MOVED)
        topology.set_route(lab.plan, "transit", "0.0.0.0/0", "fgt-b-port2")
        assert works(lab, 0.2) == dict.fromkeys(PATHS, (False, False, False))


def test_unset_without_failback_leaves_the_role_where_it_is(tmp_path):
    with raised(tmp_path, "nf", session_pickup=False, failback_on_unset=False) as lab:
        by_hand(lab)
        for kind in ("graceful", "crash"):
            with pytest.raises(LabError, match=r"fgt-a is failed over .*--unset"):
                lab.failover(kind)
        lab.unset()
        assert lab.active_unit() == "fgt-b"
        assert not lab.status()["units"]["fgt-a"]["failover_set"]


def test_a_lab_is_found_again_and_raised_over_an_old_one(tmp_path):
    state_dir, name = tmp_path / "lab", prefix("tw")
    bystander = prefix("twin") + "wl-a"  # starts with the other's prefix but for the dash
    namespace.create(bystander)
    try:
        first = Lab.up(LabOptions(session_pickup=False), prefix=name, state_dir=state_dir, cloud=False)
        old = [one.pid for one in first._record.processes]
        with pytest.raises(LabError, match=f"pid {os.getpid()}"):
            Lab.up(prefix=name, state_dir=state_dir, cloud=False)
        assert first.active_unit() == "fgt-a", "the one in use is left alone"
        first._claim.release()  # as the end of its process would
        second = Lab.up(LabOptions(session_pickup=False), prefix=name, state_dir=state_dir, cloud=False)
        for child in first._children.values():
            assert child.wait(5) == -signal.SIGKILL
        found = Lab.load(state_dir=state_dir)
        assert found is not None
        assert found.active_unit() == "fgt-a"
        assert not set(old) & {one.pid for one in found._record.processes}
        second.down()
        assert Lab.load(state_dir=state_dir) is None
        assert namespace.existing(bystander) == [bystander]
    finally:
        namespace.remove(bystander)


def test_what_a_killed_up_left_is_removed(tmp_path):
    state_dir, name = tmp_path / "lab", prefix("ki")
    code = (
        "import os, signal, sys; from pathlib import Path; from probe.lab.lab import *\n"
        "def step(text):\n"
        "    if text.startswith('cloud'): os.kill(os.getpid(), signal.SIGKILL) if sys.argv[3] == 'early' else None\n"
        "Lab.up(LabOptions(session_pickup=False), step, prefix=sys.argv[1], state_dir=Path(sys.argv[2]), cloud=False)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for moment in ("early", "late"):
        done = subprocess.run([sys.executable, "-c", code, name, str(state_dir), moment], check=False)
        assert done.returncode == -signal.SIGKILL
        assert len(namespace.existing(name)) == 10
    plan = Plan(name, state_dir)
    left = processes.inside(state.namespaces(plan))
    assert len(left) == len(UNITS)
    lab = Lab.up(LabOptions(session_pickup=False), prefix=name, state_dir=state_dir, cloud=False)
    assert not any(one.alive for one in left)
    lab.down()
    assert namespace.existing(name) == []


def test_a_part_that_does_not_start_takes_the_lab_down_and_is_named(tmp_path, monkeypatch):
    broken = tmp_path / "bin"
    broken.mkdir()
    (broken / "conntrackd").write_text("#!/bin/sh\necho no kernel support >&2\nexit 1\n")
    (broken / "conntrackd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken}:{os.environ['PATH']}")
    name = prefix("br")
    with pytest.raises(LabError, match=r"fgt-[ab] of the lab ended: .*conntrackd of fgt-[ab] did not start"):
        Lab.up(prefix=name, state_dir=tmp_path / "lab", cloud=False)
    assert namespace.existing(name) == []


def test_a_missing_tool_is_named_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match=r"apt-get install .*nftables"):
        Lab.up(prefix=prefix("mi"), state_dir=tmp_path / "lab")


def test_root_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PrivilegeError, match="CAP_SYS_ADMIN"):
        Lab.up(prefix=prefix("ro"), state_dir=tmp_path / "lab")


# A stand-in for an agent: serves what it was given, from the descriptor it was given.
AGENT = """
import http.server, json, os, socket, sys
assert os.environ["LISTEN_FDS"] == "1" and int(os.environ["LISTEN_PID"]) == os.getpid()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"argv": sys.argv[1:], "netns": os.stat("/proc/self/ns/net").st_ino}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
listener = socket.socket(fileno=3)
server = http.server.HTTPServer(listener.getsockname(), Handler, bind_and_activate=False)
server.socket = listener
print("serving", flush=True)
server.serve_forever()
"""


def test_agents_probe_in_their_namespace_and_answer_in_ours(tmp_path):
    with raised(tmp_path, "ag", session_pickup=False) as lab:
        handles = lab.start_agents(
            tmp_path / "agents", lambda config, address, journal: [sys.executable, "-c", AGENT, str(config), address]
        )
        hosts = {"workload-a": "wl-a", "workload-b": "wl-b", "jumphost": "jump", "internet": "inet"}
        assert {one.name for one in handles} == set(hosts)
        for one in handles:
            with urllib.request.urlopen(one.url, timeout=10) as answer:
                told = json.load(answer)
            assert told["argv"] == [str(tmp_path / f"agents/{one.name}.yml"), one.url.removeprefix("http://")]
            assert told["netns"] == lab.plan.namespace_path(hosts[one.name]).stat().st_ino
            assert one.log.read_text() == "serving\n"
            assert processes.identify("", one.pid).alive
        other = Lab.load(state_dir=lab.plan.state)
        assert other is not None
        assert other.status()["agents"] == {one.name: one.url for one in handles}
        lab.stop_agents()
        assert not any(processes.identify("", one.pid).alive for one in handles)
        assert lab.status()["agents"] == {}


def test_a_program_runs_in_the_namespace_of_a_host(tmp_path):
    with raised(tmp_path, "ru", session_pickup=False) as lab:
        with lab.run_in("jump", ["ip", "-o", "-4", "addr", "show", "eth0"], stdout=subprocess.PIPE, text=True) as one:
            assert "198.51.100.10/25" in one.communicate()[0]


def _story(lab: Lab, since_ns: int) -> list[str]:
    """The events that matter, in order, in a few words."""
    words = []
    for one in lab.events(since_ns):
        detail = one.detail
        if one.event == "role_change":
            words.append(f"{detail['unit']} {detail['role']}")
        elif one.event == "applied":
            words.append(f"applied {detail['what']}")
        elif one.event == "api_call" and not detail["operation"].startswith("Describe"):
            words.append(detail["operation"])
        elif one.event in ("trigger", "failover_set", "failover_unset"):
            words.append(one.event)
    return words
