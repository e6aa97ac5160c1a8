"""The endpoints over HTTP, as curl, Prometheus, a drill and a browser ask them."""

from __future__ import annotations

import threading

import httpx
import pytest

from probe.errors import ConfigError, PeerError

from .fakes import KEPT


@pytest.fixture
def web(serving):
    with httpx.Client(base_url=serving().url, timeout=10) as client:
        yield client


def test_status_outages_and_report_are_what_the_agent_says(web, agent):
    assert web.get("/api/v1/status").json() == agent.status()
    assert web.get("/api/v1/outages").json() == agent.outages()
    assert web.get("/api/v1/report").json() == {"schema": "haprobe.report/1", "flows": []}
    assert web.get("/api/v1/status").headers["content-type"] == "application/json"


def test_parameters_reach_the_agent(web, agent):
    web.get("/api/v1/outages", params={"since_ns": 1_700_000_009_000_000_000})
    assert agent.outage_calls == [1_700_000_009_000_000_000]
    web.get("/api/v1/report", params={"start_ns": 5, "end_ns": 6})
    web.get("/api/v1/report", params={"end_ns": 7})
    assert agent.report_calls == [(5, 6), (None, 7)]


def test_watchers_are_told_to_look_closely(web, agent):
    assert web.post("/api/v1/watch", params={"seconds": 90}).json() == {"seconds": 90}
    web.post("/api/v1/watch")
    web.post("/api/v1/watch?seconds=0")
    assert agent.looks == [90, 60, 0]
    for bad in ("3601", "-1", "1.5", "", "99999999"):
        assert web.post("/api/v1/watch", params={"seconds": bad}).status_code == 400
    assert web.post("/api/v1/watch?second=1").status_code == 400
    assert web.get("/api/v1/watch").status_code == 405
    assert agent.looks == [90, 60, 0]


@pytest.mark.parametrize(
    ("url", "error", "allowed"),
    [
        ("/api/v1/outages?since_ns=yesterday", "since_ns: 'yesterday' is not a time", "0 or more"),
        ("/api/v1/outages?since_ns=-1", "since_ns: '-1' is not a time", "nanoseconds since the Unix epoch"),
        ("/api/v1/outages?since_ns=1.5", "since_ns: '1.5' is not a time", "whole number"),
        ("/api/v1/outages?since_ns=", "since_ns: '' is not a time", "whole number"),
        ("/api/v1/outages?since_ns=99999999999999999999", "is not a time", "whole number"),
        ("/api/v1/outages?since=1", "since: unknown parameter", "since_ns"),
        ("/api/v1/status?verbose=1", "verbose: unknown parameter", "none"),
        ("/api/v1/report?start_ns=6&end_ns=6", "end_ns: 6 is not after start_ns", "above start_ns"),
        ("/api/v1/captures?since_ns=x", "since_ns: 'x' is not a time", "0 or more"),
        ("/?part=all", "part: 'all' is unknown", "page, live"),
    ],
)
def test_a_bad_parameter_is_answered_with_what_is_allowed(web, url, error, allowed):
    answer = web.get(url)
    assert answer.status_code == 400
    assert error in answer.json()["error"]
    assert allowed in answer.json()["allowed"]


def test_unknown_endpoint_and_method_name_those_that_exist(web):
    absent = web.get("/api/v2/status")
    assert absent.status_code == 404
    assert "/api/v1/status" in absent.json()["allowed"]
    wrong = web.get("/-/reload")
    assert (wrong.status_code, wrong.json()["allowed"], wrong.headers["allow"]) == (405, ["POST"], "POST")


def test_a_fault_of_ours_is_a_json_error_and_logged(web, agent, caplog):
    def broken():
        raise RuntimeError("torn")

    agent.status = broken
    answer = web.get("/api/v1/status")
    assert (answer.status_code, answer.json()) == (500, {"error": "RuntimeError: torn"})
    assert "GET /api/v1/status failed" in caplog.text
    # The connection outlives the fault: the next request of this client goes over it.
    connection = answer.extensions["network_stream"].get_extra_info("client_addr")
    following = web.get("/-/healthy")
    assert following.status_code == 200
    assert following.extensions["network_stream"].get_extra_info("client_addr") == connection


def test_healthy_and_ready(web, agent):
    assert web.get("/-/healthy").status_code == 200
    assert web.get("/-/ready").status_code == 200
    agent.is_ready = (False, "flow a-to-b: no route to b.example")
    answer = web.get("/-/ready")
    assert answer.status_code == 503
    assert "flow a-to-b: no route to b.example" in answer.text
    assert web.get("/-/healthy").status_code == 200


def test_reload_and_its_failures(web, agent):
    assert web.post("/-/reload").status_code == 200
    assert agent.reloads == 1
    agent.reload_error = ConfigError(["a.yml:3: flows[0].rate: too high; allowed: 1..2000000", "a.yml:9: x"])
    answer = web.post("/-/reload")
    assert answer.status_code == 400
    assert answer.text == "a.yml:3: flows[0].rate: too high; allowed: 1..2000000\na.yml:9: x\n"
    agent.reload_error = PeerError("reflector 10.0.0.1 does not answer")
    assert web.post("/-/reload").status_code == 500


def test_a_page_of_another_site_cannot_reload(web, agent):
    assert web.post("/-/reload", headers={"Origin": "https://elsewhere.example"}).status_code == 403
    assert agent.reloads == 0
    host = web.base_url.netloc.decode()
    assert web.post("/-/reload", headers={"Origin": f"http://{host}"}).status_code == 200


def test_metrics_in_both_formats_and_compressed(web):
    plain = web.get("/metrics", headers={"Accept-Encoding": "identity"})
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "haprobe_probes_sent_total{" in plain.text
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    assert web.get("/metrics", headers=accept).text.endswith("# EOF\n")
    small = web.get("/metrics", headers={"Accept-Encoding": "gzip"})
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < len(plain.content) / 4


@pytest.mark.parametrize(
    ("accept_encoding", "compressed"),
    [
        (["gzip"], True),
        (["br;q=1.0, GZip;q=0.2"], True),
        (["br", "gzip"], True),  # a list over several fields
        (["gzip;q=0"], False),
        (["identity, gzip;q=0.000"], False),
        (["bgzip"], False),
        ([""], False),
    ],
)
@pytest.mark.parametrize("path", ["/", "/metrics"])
def test_every_page_is_compressed_for_whoever_takes_it(web, path, accept_encoding, compressed):
    answer = web.get(path, headers=[("Accept-Encoding", value) for value in accept_encoding])
    assert ("content-encoding" in answer.headers) is compressed
    assert "haprobe" in answer.text
    assert "Accept-Encoding" in answer.headers["vary"]  # or a cache would give one to the other


def test_slow_reports_hold_up_nobody(web, agent, serving):
    agent.report_gate = threading.Event()
    slow = [threading.Thread(target=httpx.get, args=(f"{web.base_url}/api/v1/report",)) for _ in range(50)]
    for thread in slow:
        thread.start()
    try:
        for path in ("/-/healthy", "/-/ready", "/metrics", "/api/v1/status"):
            assert web.get(path).status_code == 200
    finally:
        agent.report_gate.set()
        for thread in slow:
            thread.join()


def test_events_as_they_happen(web, agent):
    with web.stream("GET", "/api/v1/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        assert next(lines) == ": haprobe events"
        agent.emit("flow_state", {"flow": "a-to-b", "state": "down"})
        seen = [next(lines) for _ in range(5)]
    assert seen[3:] == ["event: flow_state", 'data: {"flow": "a-to-b", "state": "down"}']
    assert seen[2].startswith("id: ")


def test_landing_page_and_its_live_part(web):
    page = web.get("/")
    assert page.headers["content-type"].startswith("text/html")
    nonce = page.headers["content-security-policy"].split("script-src 'nonce-")[1].split("'")[0]
    assert f'<script nonce="{nonce}">' in page.text
    assert nonce not in web.get("/").headers["content-security-policy"]
    live = web.get("/?part=live").text
    assert KEPT.name in live and "<html" not in live
    assert live.strip() in page.text


def test_captures_are_fetched_from_an_instant_on(web):
    (capture,) = web.get("/api/v1/captures?since_ns=7").json()["captures"]
    assert (capture["unit"], capture["text"], capture["since_ns"]) == ("fgt-b", "HA event\n", 7)
