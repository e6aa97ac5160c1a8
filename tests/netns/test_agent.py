"""`haprobe run`: what it serves, what outlives a SIGKILL, reloads, privileges, and waiting for a network to come up."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from probe.report.document import laws

from .triple import (
    IPV4,
    SEQUENCE,
    TCP_PORT,
    UDP_PORT,
    Agent,
    Run,
    Triple,
    effective_capabilities,
    engines,
    wait_for,
)

pytestmark = pytest.mark.netns

FLOWS: list[dict[str, Any]] = [
    {"name": "icmp", "protocol": "icmp"},
    {"name": "udp", "protocol": "udp", "session": "both"},
    {"name": "tcp", "protocol": "tcp", "port": TCP_PORT},
]


def config(*flows: dict[str, Any], **more: Any) -> dict[str, Any]:
    common = {"path": "east-west", "target": IPV4, "rate": 200, "loss_threshold": "300ms"}
    return {"flows": [{**common, **flow} for flow in flows or FLOWS], **more}


@pytest.fixture
def agent(triple: Triple, reflector: Run, tmp_path: Path) -> Agent:
    agent = triple.agent(tmp_path)
    agent.configure(config())
    return agent.start().wait_ready()


def block(triple: Triple, name: str = "udp") -> None:
    """From now on the router drops the probes of all UDP flows."""
    assert name == "udp"
    triple.drop(f"udp dport {UDP_PORT}")


def outages_of(agent: Agent, flow: str) -> list[dict[str, Any]]:
    return [o for o in agent.outages() if o["flow"] == flow]


def make_outage(agent: Agent, triple: Triple) -> dict[str, Any]:
    """A closed outage of the flow `udp`."""
    known = len(outages_of(agent, "udp"))
    block(triple)
    wait_for(lambda: len(outages_of(agent, "udp")) > known, what="for the outage")
    triple.drop()
    return wait_for(lambda: [o for o in outages_of(agent, "udp")[known:] if o["censored"] == "no"], what="its end")[0]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_it_serves_sound_metrics_and_reports(agent: Agent, triple: Triple):
    outage = make_outage(agent, triple)
    assert outage["direction"] == "forward"
    report = agent.get("/api/v1/report")
    assert laws(report) == []
    flows = {flow["name"]: flow for flow in report["flows"]}
    assert set(flows) == {"icmp", "udp", "udp-fresh", "tcp"}
    (reported,) = flows["udp"]["outages"]
    assert {key: outage[key] for key in reported} == reported
    assert flows["udp"]["counts"]["lost_forward"] == flows["udp"]["counts"]["lost"] >= outage["lost"]
    assert flows["icmp"]["counts"]["lost"] == flows["tcp"]["counts"]["lost"] == 0

    status, metrics = agent.ask("/metrics")
    assert status == 200
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics, text=True, capture_output=True, timeout=20, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    labels = '{flow="udp",path="east-west",protocol="udp",session="kept"}'
    assert f"haprobe_outages_total{labels} 1\n" in metrics
    assert f"haprobe_last_outage_lost_probes{labels} {outage['lost']}\n" in metrics


def test_a_report_of_a_span_holds_that_span_alone(agent: Agent, triple: Triple):
    make_outage(agent, triple)
    clean_ns = time.time_ns()
    # A second of it, the loss threshold, and two steps of the agent's account until the end of the span is in it.
    wait_for(lambda: time.time_ns() > clean_ns + 2_200_000_000)
    later = agent.get(f"/api/v1/report?start_ns={clean_ns + 500_000_000}&end_ns={clean_ns + 1_000_000_000}")
    assert laws(later, settled=True) == []
    for flow in later["flows"]:
        assert (flow["outages"], flow["counts"]["lost"]) == ([], 0)
        assert 60 <= flow["counts"]["sent"] <= 260, flow["counts"]  # 100, widened to the samples around
        assert flow["rtt_ns"]["max"] > 0
    before = agent.get(f"/api/v1/report?end_ns={clean_ns}")
    assert laws(before) == []
    assert next(f for f in before["flows"] if f["name"] == "udp")["outages"]


def test_a_killed_agent_still_reports_its_outages_after_a_restart(agent: Agent, triple: Triple):
    closed = make_outage(agent, triple)
    block(triple)
    growing = wait_for(lambda: [o for o in outages_of(agent, "udp") if o["censored"] == "end"], what="an open one")[0]
    agent.kill()
    triple.drop()
    agent.start().wait_ready()
    found = outages_of(agent, "udp")
    assert [o["censored"] for o in found] == ["no", "end"]
    # Its raw records may have become more complete after it was asked for.
    assert [found[0][key] for key in closed if key != "evidence"] == [
        closed[key] for key in closed if key != "evidence"
    ]
    assert {closed["first_lost_seq"], closed["last_lost_seq"]} <= {
        record["sequence"] for record in found[0]["evidence"]
    }
    assert growing["first_lost_seq"] in {record["sequence"] for record in found[1]["evidence"]}
    assert found[1]["start_ns"] == growing["start_ns"]
    assert found[1]["lost"] >= growing["lost"]
    assert found[1]["duration_ns"]["lower"] <= found[1]["duration_ns"]["upper"]
    assert {o["path"] for o in found} == {"east-west"}
    # Whatever happens next is numbered apart from it.
    make_outage(agent, triple)
    assert len(outages_of(agent, "udp")) == 3
    assert laws(agent.get("/api/v1/report")) == []
    assert agent.stop() == 0


def test_the_engines_die_with_a_killed_agent(agent: Agent, triple: Triple):
    assert set(engines(agent.pid)) == {"sender"}
    agent.kill()  # fails unless they follow
    capture = triple.capture()
    time.sleep(0.1)  # twenty probes' time
    assert capture.packets() == []


def test_a_killed_engine_ends_the_agent_with_a_word(agent: Agent):
    os.kill(engines(agent.pid)["sender"], signal.SIGKILL)
    assert agent.process.wait(10) == 1
    assert "the sender process has ended unexpectedly" in agent.said()


def test_only_the_engine_holds_capabilities(triple: Triple, tmp_path: Path):
    agent = triple.agent(tmp_path, triple.far)
    agent.configure({"reflector": {"udp": UDP_PORT, "tcp": TCP_PORT}, **config({"name": "back", "protocol": "icmp"})})
    agent.start().wait_ready()
    assert effective_capabilities(agent.pid) == {0}
    processes = engines(agent.pid)
    assert set(processes) == {"sender", "reflector"}
    for pid in processes.values():
        assert all(held >> 13 & 1 for held in effective_capabilities(pid))  # CAP_NET_RAW
    assert agent.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in processes.values())


@pytest.mark.parametrize("how", ["SIGHUP", "POST"])
def test_a_reload_leaves_unchanged_flows_alone(agent: Agent, triple: Triple, how: str):
    make_outage(agent, triple)
    capture = triple.capture()
    capture.wait_for("tcp", 1)
    before = {name: agent.flow(name) for name in ("tcp", "udp")}
    faster = {"name": "icmp", "protocol": "icmp", "rate": 400}
    agent.configure(config(*FLOWS[1:], faster, {"name": "more", "protocol": "udp"}))
    reload(agent, how)
    wait_for(lambda: "more" in {f["name"] for f in agent.get("/api/v1/status")["flows"]}, what="for the new flow")
    agent.wait_ready()
    wait_for(lambda: agent.flow("more")["counts"]["sent"] > 0, what="for its probes to be counted")
    after = {name: agent.flow(name) for name in ("tcp", "udp", "icmp", "more")}
    for name, flow in before.items():
        assert after[name]["counts"]["sent"] >= flow["counts"]["sent"], name
    assert after["tcp"]["counts"]["lost"] == after["tcp"]["counts"]["reset"] == 0
    assert after["icmp"]["interval_ns"] == 2_500_000
    # It is another flow now: it began with 0 again, and counts what it has sent itself.
    anew = capture.probes("icmp")[0].port
    passed = [p for p in capture.packets() if (p.proto, p.reply, p.port) == ("icmp", False, anew)]
    assert after["icmp"]["counts"]["sent"] <= len(passed)
    assert after["more"]["counts"]["sent"] > 0
    # The same TCP session: one source port, and sequences without a gap.
    probes = capture.probes("tcp")
    assert len({p.port for p in probes.values()}) == 1
    assert sorted(probes) == list(range(min(probes), max(probes) + 1))
    report = agent.get("/api/v1/report")
    assert laws(report) == []
    assert next(f for f in report["flows"] if f["name"] == "tcp")["session_end"]["cause"] == "none"
    # Of a flow that is gone, what it found stays known.
    agent.configure(config(FLOWS[0]))
    reload(agent, how)
    wait_for(lambda: [f["name"] for f in agent.get("/api/v1/status")["flows"]] == ["icmp"], what="for the flows to go")
    assert len(outages_of(agent, "udp")) == 1
    wait_for(agent.is_ready)
    rtt = agent.get("/api/v1/report")["flows"][0]["rtt_ns"]
    assert 0 < rtt["min"] <= rtt["p99"] <= rtt["max"]


def reload(agent: Agent, how: str) -> None:
    if how == "SIGHUP":
        os.kill(agent.pid, signal.SIGHUP)
    else:
        assert agent.ask("/-/reload", "POST")[0] == 200


def test_a_bad_config_is_refused_with_the_reason_and_all_goes_on(agent: Agent):
    sent = agent.flow("udp")["counts"]["sent"]
    agent.config.write_text("flows:\n  - name: a\n    protocol: udp\n    target: 127.0.0.1\n    rate: fast\n")
    status, body = agent.ask("/-/reload", "POST")
    assert status == 400
    assert body.startswith(f"{agent.config}:5: flows[0].rate: 'fast' is not a number")
    os.kill(agent.pid, signal.SIGHUP)
    wait_for(lambda: "reload refused" in agent.said(), what="for the log")
    assert "haprobe_config_last_reload_successful 0.0" in agent.ask("/metrics")[1]
    wait_for(lambda: agent.flow("udp")["counts"]["sent"] > sent, what="for more probes")
    agent.configure(config({"name": "udp", "protocol": "udp"}, reflector={"udp": 8862}))
    status, body = agent.ask("/-/reload", "POST")
    assert status == 400
    assert "reflector" in body
    agent.configure(config())
    assert agent.ask("/-/reload", "POST")[0] == 200
    assert "haprobe_config_last_reload_successful 1.0" in agent.ask("/metrics")[1]


SLOW = {"protocol": "icmp", "rate": 1}
TOO_LATE = {
    "a key that is not there": (
        [{"name": "icmp", **SLOW}, {**FLOWS[1], "key_file": "/nowhere/stamp.key"}],
        {},
        "/nowhere/",
    ),
    "more flows than there is room for": ([{"name": f"f{i}", **SLOW} for i in range(300)], {}, "300 of them"),
    "another CPU": (FLOWS, {"engines": {"sender_cpu": 0}}, "engines"),
}


@pytest.mark.parametrize("what", TOO_LATE)
@pytest.mark.parametrize("how", ["SIGHUP", "POST"])
def test_a_config_that_cannot_be_carried_out_changes_nothing(agent: Agent, what: str, how: str):
    before = {flow["name"]: flow["interval_ns"] for flow in agent.get("/api/v1/status")["flows"]}
    flows, others, word = TOO_LATE[what]
    agent.configure(config(*flows, **others))
    if how == "POST":
        status, body = agent.ask("/-/reload", "POST")
        assert status == 400
        assert word in body
    else:
        os.kill(agent.pid, signal.SIGHUP)
        wait_for(lambda: "reload refused" in agent.said(), what="for the log")
        assert word in agent.said()
    assert "haprobe_config_last_reload_successful 0.0" in agent.ask("/metrics")[1]
    assert {flow["name"]: flow["interval_ns"] for flow in agent.get("/api/v1/status")["flows"]} == before
    sent = {name: agent.flow(name)["counts"]["sent"] for name in before}
    wait_for(lambda: all(agent.flow(name)["counts"]["sent"] > sent[name] for name in before), what="for more probes")


def test_an_agent_waits_for_its_network_and_its_reflector(triple: Triple, tmp_path: Path):
    agent = triple.agent(tmp_path)
    agent.configure(config())
    triple.link_down()
    try:
        agent.start()
        wait_for(lambda: "waiting for a way" in agent.said(), what="for the warning")
        wait_for(lambda: agent.ask("/-/healthy")[0] == 200)
        status, _ = agent.ask("/-/ready")
        assert status == 503
    finally:
        triple.link_up()
    capture = triple.capture()
    capture.wait_for("udp", 100)  # it has a way now, but nobody answers yet
    assert not agent.is_ready()
    triple.reflect()
    agent.wait_ready()
    wait_for(lambda: {f["state"] for f in agent.get("/api/v1/status")["flows"]} == {"up"}, what="for all to be up")
    assert laws(agent.get("/api/v1/report")) == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus")
def test_a_real_prometheus_scrapes_it_through_an_outage(agent: Agent, triple: Triple, tmp_path: Path):
    """The agent probes in its namespace and is scraped from the root namespace."""
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 250ms, scrape_timeout: 250ms}\n"
        f"scrape_configs: [{{job_name: haprobe, static_configs: [{{targets: ['{agent.address}']}}]}}]\n"
    )
    with Prometheus(tmp_path) as prometheus:
        wait_for(lambda: prometheus.value("up") == 1.0, 20, "for the first scrape")
        kept = 'flow="udp"'
        number = agent.flow("udp")["counts"]["sent"] + 60
        lost = range(number, number + 150)
        triple.drop(f"udp dport {UDP_PORT} @th,{SEQUENCE['udp']},32 {lost.start}-{lost.stop - 1}")
        wait_for(lambda: prometheus.value(f"haprobe_flow_up{{{kept}}}") == 0.0, what="for flow_up 0")
        wait_for(lambda: prometheus.value(f"haprobe_flow_up{{{kept}}}") == 1.0, what="for flow_up 1")
        wait_for(lambda: prometheus.value(f"haprobe_last_outage_lost_probes{{{kept}}}") == 150.0, what="for the count")
        (outage,) = outages_of(agent, "udp")
        assert (outage["lost"], outage["first_lost_seq"]) == (150, number)
        for bound in ("lower", "estimate", "upper"):
            seen = prometheus.value(f'haprobe_last_outage_duration_seconds{{{kept},bound="{bound}"}}')
            assert seen == pytest.approx(outage["duration_ns"][bound] / 1e9, abs=1e-9)
        for edge in ("start", "end"):
            seen = prometheus.value(f"haprobe_last_outage_{edge}_timestamp_seconds{{{kept}}}")
            assert seen == pytest.approx(outage[f"{edge}_ns"] / 1e9, abs=1e-5)
        assert prometheus.value(f"haprobe_outages_total{{{kept}}}") == 1.0
        names = set(prometheus.get("/api/v1/label/__name__/values"))
        contract = {"sent", "received", "lost", "late", "unsent", "scheduled"}
        assert {f"haprobe_probes_{name}_total" for name in contract} <= names
        forward = f'haprobe_probes_lost_by_direction_total{{{kept},direction="forward"}}'
        wait_for(lambda: prometheus.value(forward) == 150.0, what="for the counter")


class Prometheus:
    """A real one, in the root namespace, on a port of its own; it dies with this process."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._port = _free_port()

    def __enter__(self) -> Prometheus:
        command = [
            *("setpriv", "--pdeathsig", "KILL", "prometheus"),
            f"--config.file={self._directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]
        with (self._directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)

    def get(self, path: str) -> Any:
        import json
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> float | None:
        """Of the one series that the query names; None while there is none."""
        try:
            found = self.get(f"/api/v1/query?query={urllib.parse.quote(query)}")["result"]
        except OSError:
            return None
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def sources(agent: Agent) -> dict[str, str]:
    """The address that each flow is sent from."""
    info = re.findall(r'haprobe_flow_info{.*?flow="([^"]+)".*?source="([^"]+)"', agent.ask("/metrics")[1])
    return dict(info)


def test_kept_flows_keep_their_address_as_long_as_this_host_has_it(agent: Agent, triple: Triple):
    """Then they go on from another, which is another session; nothing has to be restarted."""
    old, new = "10.211.1.2", "10.211.7.2"
    kept = ("icmp", "udp", "tcp")
    assert sources(agent) == dict.fromkeys((*kept, "udp-fresh"), old)
    triple.ip(triple.router, "addr add 10.211.7.1/24 dev a1")
    triple.ip(triple.sender, f"addr add {new}/24 dev a0")
    try:
        triple.ip(triple.sender, "route replace default via 10.211.7.1")
        wait_for(lambda: sources(agent) == {**dict.fromkeys(kept, old), "udp-fresh": new}, what="for the new route")
        answered = {name: agent.flow(name)["counts"]["received"] for name in kept}
        wait_for(lambda: all(agent.flow(name)["counts"]["received"] > answered[name] + 200 for name in kept))
        assert agent.outages() == []
        assert {agent.flow(name)["verdict"] for name in kept} == {"unaffected"}
        triple.ip(triple.sender, f"addr del {old}/24 dev a0")
        wait_for(lambda: set(sources(agent).values()) == {new}, what="for the new address")
        answered = {name: agent.flow(name)["counts"]["received"] for name in kept}
        wait_for(lambda: all(agent.flow(name)["counts"]["received"] > answered[name] + 200 for name in kept))
        assert {agent.flow(name)["verdict"] for name in kept} == {"rebound"}
        assert agent.flow("udp-fresh")["verdict"] in ("unaffected", "survived")
    finally:
        triple.link_up()
        triple.ip(triple.sender, f"addr del {new}/24 dev a0")
        triple.ip(triple.router, "addr del 10.211.7.1/24 dev a1")


def test_an_interface_that_comes_and_goes_ends_no_agent(agent: Agent, triple: Triple):
    """The engine is told of a way when that is gone again, now and then."""
    names = ("icmp", "udp", "tcp", "udp-fresh")

    def flap() -> bool:
        triple.ip(triple.sender, "link add f0 type veth peer name f1", "link set f0 up", "link set f1 up")
        triple.ip(
            triple.sender, "addr add 10.211.9.1/24 dev f0", "neigh add 10.211.9.2 lladdr 02:00:00:00:00:09 dev f0"
        )
        triple.run(triple.sender, "sh", "-c", f"ip route add {IPV4}/32 via 10.211.9.2; ip link del f0")
        assert agent.process is not None and agent.process.poll() is None, agent.said()
        return "its new way cannot be taken" in agent.said()

    wait_for(flap, what="for a way that is gone when it is told")
    answered = {name: agent.flow(name)["counts"]["received"] for name in names}
    wait_for(lambda: all(agent.flow(name)["counts"]["received"] > answered[name] + 100 for name in names))
    assert {agent.flow(name)["detail"] for name in names} == {""}
