"""Every way in which an agent fails to answer, and what the user is told about it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probe.drill.client import AgentClient, AgentEndpoint, AgentPool, log_tail
from probe.errors import ConfigError, PeerError

from .fakes import MS, FakeAgent, FakeFlow, S


@pytest.fixture
def agent():
    with FakeAgent("wl", [FakeFlow("x")]) as agent:
        yield agent


def ask(endpoint: AgentEndpoint, timeout_s: float = 1.0) -> str:
    """The error of a status request."""
    client = AgentClient(endpoint, timeout_s)
    try:
        with pytest.raises(PeerError) as caught:
            client.status()
        return str(caught.value)
    finally:
        client.close()


def closed_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_status_and_report(agent: FakeAgent) -> None:
    client = AgentClient(AgentEndpoint("mine", agent.url))
    assert client.ready() == ""
    assert client.status().flows[0].key == ("mine", "x")
    now_ns = time.time_ns()
    assert client.report(now_ns - S, now_ns)["flows"][0]["name"] == "x"
    client.close()


def test_refused_names_agent_url_and_what_to_check() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    message = ask(AgentEndpoint("wl-b", url))
    assert f"agent wl-b ({url}/api/v1/status)" in message
    assert "haprobe run" in message


def test_refused_tells_how_the_log_ends_where_there_is_one(tmp_path: Path) -> None:
    log = tmp_path / "wl-b.log"
    log.write_text("haprobe: starting\nhaprobe: UDP port 862 is in use\n")
    message = ask(AgentEndpoint("wl-b", f"http://127.0.0.1:{closed_port()}", log=log))
    assert message.endswith(f"the last words of its log {log}: haprobe: UDP port 862 is in use")


def test_a_silent_agent_costs_no_more_than_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        begun = time.monotonic()
        message = ask(AgentEndpoint("mute", f"http://127.0.0.1:{server.getsockname()[1]}"), 0.2)
    assert "no answer in time" in message
    assert time.monotonic() - begun < 5


def test_something_that_is_no_agent(agent: FakeAgent) -> None:
    agent.answers["/api/v1/status"] = (200, "<html>hello</html>")
    assert "does this URL name an agent's web port?" in ask(AgentEndpoint("wl", agent.url))
    agent.answers["/api/v1/status"] = (404, "<html>gone</html>")
    assert "HTTP 404; does this URL name" in ask(AgentEndpoint("wl", agent.url))
    agent.answers["/api/v1/status"] = (500, "KeyError 'x'")
    assert "HTTP 500 (KeyError 'x'); its log says why" in ask(AgentEndpoint("wl", agent.url))


def test_a_report_that_is_none(agent: FakeAgent) -> None:
    agent.answers["/api/v1/report"] = (200, "[]")
    client = AgentClient(AgentEndpoint("wl", agent.url))
    with pytest.raises(PeerError, match=r"agent wl .*/api/v1/report"):
        client.report(0, 1)
    client.close()


def test_a_bad_url_is_a_peer_error_as_well() -> None:
    assert "its url must look like" in ask(AgentEndpoint("x", "ftp://127.0.0.1"))


def test_password_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    with FakeAgent("wl", [], password="s3cret") as agent:
        assert "agents.wl.username and .password_file" in ask(AgentEndpoint("wl", agent.url))
        client = AgentClient(AgentEndpoint("wl", agent.url, username="drill", password_file=file))
        assert client.status().agent == "wl"
        client.close()


def test_files_that_cannot_be_used_name_the_field(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ConfigError, match=r"agents\.wl\.password_file"):
        AgentClient(AgentEndpoint("wl", "http://127.0.0.1:1", password_file=missing))
    with pytest.raises(ConfigError, match=r"missing:1: agents\.wl: "):
        AgentClient(AgentEndpoint("wl", "https://127.0.0.1:1", ca_file=missing))


def test_plain_http_behind_an_https_url_is_said(agent: FakeAgent) -> None:
    assert "https" in ask(AgentEndpoint("wl", agent.url.replace("http:", "https:")))


def test_a_poll_carries_who_answered_and_who_did_not(agent: FakeAgent) -> None:
    gone = AgentEndpoint("gone", f"http://127.0.0.1:{closed_port()}")
    with AgentPool([AgentEndpoint("wl", agent.url), gone]) as pool:
        poll = pool.poll()
        documents, missing = pool.reports(poll.wall_ns - S, poll.wall_ns)
    assert [a.agent for a in poll.agents] == ["wl"]
    assert list(poll.failures) == ["gone"]
    assert list(documents) == ["wl"]
    assert isinstance(missing["gone"], PeerError)


def test_an_agent_whose_clock_is_off_is_asked_by_its_clock_and_answers_by_ours(agent: FakeAgent) -> None:
    agent.ahead_ns = -8 * S
    end_ns = time.time_ns() - S
    agent.flows[0].started_ns = end_ns - 10 * S
    agent.flows[0].outages = [(end_ns - 3 * S, end_ns - 2 * S)]
    with AgentPool([AgentEndpoint("wl", agent.url)]) as pool:
        before, _ = pool.reports(end_ns - 4 * S, end_ns)
        pool.poll()
        after, _ = pool.reports(end_ns - 4 * S, end_ns)
        (offset,) = pool.apart().values()
    assert abs(offset.ahead_ns + 8 * S) <= offset.error_ns
    # Asked by our clock it tells of a span that it has not seen yet; had it, of one that was over long before.
    assert [f["counts"]["sent"] for f in before["wl"]["flows"]] != [f["counts"]["sent"] for f in after["wl"]["flows"]]
    (outage,) = after["wl"]["flows"][0]["outages"]
    assert abs(outage["start_ns"] - (end_ns - 3 * S)) <= 10 * MS + offset.error_ns
    assert outage["duration_ns"]["lower"] <= S <= outage["duration_ns"]["upper"]


def test_clocks_that_agree_as_far_as_can_be_told_are_left_alone(agent: FakeAgent) -> None:
    agent.ahead_ns = 3 * MS
    with AgentPool([AgentEndpoint("wl", agent.url)]) as pool:
        pool.poll()
        now_ns = time.time_ns()
        documents, _ = pool.reports(now_ns - S, now_ns)
        assert (pool.apart(), pool.ahead_ns("wl")) == ({}, 0)
    assert documents["wl"]["run"]["started_ns"] == now_ns - S
    assert documents["wl"]["run"]["clock"]["max_error_ns"] == 1000, "as the agent says"


def test_a_clock_that_is_not_told_is_not_compared(agent: FakeAgent) -> None:
    agent.answers["/api/v1/status"] = (200, '{"flows": []}')
    with AgentPool([AgentEndpoint("wl", agent.url)]) as pool:
        pool.poll()
        assert pool.apart() == {}


def test_agents_are_asked_at_the_same_time() -> None:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    endpoints = [AgentEndpoint(f"m{n}", f"http://127.0.0.1:{s.getsockname()[1]}") for n, s in enumerate(servers)]
    begun = time.monotonic()
    with AgentPool(endpoints) as pool:
        assert len(pool.poll().failures) == 4
    assert time.monotonic() - begun < 7, "four timeouts of 2 s each must overlap"
    for server in servers:
        server.close()


def test_ready_is_waited_for(agent: FakeAgent) -> None:
    agent.not_ready = "flow x connects"
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        agent.not_ready = ""

    with AgentPool([AgentEndpoint("wl", agent.url)]) as pool:
        pool.wait_ready(5, tell)
    assert told == ["waiting for wl"]


def test_not_ready_in_time_names_agent_reason_and_log(agent: FakeAgent, tmp_path: Path) -> None:
    agent.not_ready = "flow x: next hop does not answer ARP"
    log = tmp_path / "wl.log"
    log.write_text("".join(f"line {n}\n" for n in range(50)))
    with AgentPool([AgentEndpoint("wl", agent.url, log=log)]) as pool:
        with pytest.raises(PeerError) as caught:
            pool.wait_ready(0.2)
    message = str(caught.value)
    assert "agent wl is not ready after 0.2 s: flow x: next hop does not answer ARP" in message
    assert "line 49" in message
    assert "line 30" not in message


def test_an_agent_that_died_is_not_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "wl.log"
    log.write_text("PrivilegeError: CAP_NET_RAW\n")
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and still a zombie
    endpoint = AgentEndpoint("wl", f"http://127.0.0.1:{closed_port()}", log=log, pid=child.pid)
    begun = time.monotonic()
    with AgentPool([endpoint]) as pool:
        with pytest.raises(PeerError, match=r"has ended before it was ready(.|\n)*CAP_NET_RAW"):
            pool.wait_ready(60)
    child.wait()
    assert time.monotonic() - begun < 10


def test_a_log_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    assert log_tail(None) == []
    assert "No such file" in log_tail(tmp_path / "none")[0]
