"""`/metrics` over HTTP: formats, compression, and scrapes at the same time."""

from __future__ import annotations

import asyncio
import gzip
import threading
from dataclasses import replace

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.requests import Request

from probe.export import scrape
from probe.export.scrape import Scrapes

from .fakes import KEPT, FakeAgent

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
PLAIN = {"Accept-Encoding": "identity"}


@pytest.fixture
def web(serving):
    with httpx.Client(base_url=serving().url, timeout=60) as client:
        yield client


class Gated(FakeAgent):
    """An agent whose scrapes wait for a gate, counted."""

    def __init__(self):
        super().__init__()
        self.gate, self.begun, self.tables = threading.Event(), threading.Event(), 0

    def table(self):
        self.tables += 1
        self.begun.set()
        assert self.gate.wait(60)
        return super().table()


def request(method="GET", **headers):
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": method, "path": "/metrics", "query_string": b"", "headers": raw})


async def body(answer):
    return b"".join([piece async for piece in answer.body_iterator])


def test_the_format_is_the_one_asked_for(web):
    text = web.get("/metrics", headers=PLAIN)
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    openmetrics = web.get("/metrics", headers={**PLAIN, "Accept": OPENMETRICS})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    read = ((parse_text, text), (parse_openmetrics, openmetrics))
    found = [{family.name for family in parse(answer.text)} for parse, answer in read]
    assert "haprobe_flow_info" in found[0] and "haprobe_flow" in found[1]
    assert all("process_cpu_seconds" in {name.removesuffix("_total") for name in names} for names in found)


@pytest.mark.parametrize("accept", ['application/openmetrics-text;version="1.0.0"', "text/plain;version=foo", '"', ";"])
def test_no_wish_is_an_error(web, accept):
    answer = web.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/openmetrics" if "1.0.0" in accept else "text/plain")


def test_a_wish_may_be_spread_over_lines(web):
    lines = [("Accept", "text/plain;q=0.1"), ("Accept", "application/openmetrics-text"), ("Accept-Encoding", "br")]
    answer = web.get("/metrics", headers=[*lines, ("Accept-Encoding", "gzip")])
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.headers["content-encoding"] == "gzip"


def test_who_refuses_gzip_gets_none(web):
    with web.stream("GET", "/metrics", headers={"Accept-Encoding": "gzip;q=0"}) as answer:
        assert answer.headers.get("content-encoding", "identity") == "identity"
        assert b"".join(answer.iter_raw()).startswith(b"# HELP ")


def test_it_is_compressed_only_on_demand(web, agent):
    agent.flow_list = [replace(KEPT, name=f"f{n}") for n in range(300)]
    plain = web.get("/metrics", headers=PLAIN)
    assert "content-encoding" not in plain.headers
    assert int(plain.headers["content-length"]) == len(plain.content) > 2 * scrape.PIECE
    with web.stream("GET", "/metrics", headers={"Accept-Encoding": "gzip"}) as packed:
        octets = b"".join(packed.iter_raw())
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) == len(octets) < len(plain.content) / 10
    flows = [text.partition("# HELP haprobe_aws")[0] for text in (plain.text, gzip.decompress(octets).decode())]
    assert flows[0] == flows[1]


def test_a_head_tells_the_format_and_reads_no_flow(serving):
    agent = Gated()
    scrapes = Scrapes(agent)
    answer = asyncio.run(scrapes.answer(request("HEAD", accept=OPENMETRICS, accept_encoding="gzip")))
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.headers["content-encoding"] == "gzip"
    assert agent.tables == 0


def test_a_head_over_http_is_followed_by_other_requests(web):
    head = web.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")
    assert web.get("/metrics").status_code == 200


def test_a_scrape_under_way_is_shared():
    async def both():
        agent = Gated()
        scrapes = Scrapes(agent)
        asking = [asyncio.create_task(scrapes.answer(request())) for _ in range(3)]
        await asyncio.to_thread(agent.begun.wait, 60)
        asking[0].cancel()  # that client has gone
        agent.gate.set()
        first, second = [await body(await task) for task in asking[1:]]
        assert first == second and first.endswith(b"\n")
        assert agent.tables == 1
        await scrapes.answer(request())
        assert agent.tables == 2

    asyncio.run(both())


def test_a_format_of_its_own_is_a_scrape_of_its_own():
    async def both():
        agent = Gated()
        agent.gate.set()
        scrapes = Scrapes(agent)
        answers = [scrapes.answer(request(accept=accept)) for accept in ("text/plain", OPENMETRICS)]
        texts = [await body(answer) for answer in await asyncio.gather(*answers)]
        assert [text.endswith(b"# EOF\n") for text in texts] == [False, True]

    asyncio.run(both())


def test_a_scrape_that_fails_is_followed_by_one_that_does_not(web, agent, monkeypatch, caplog):
    monkeypatch.setattr(FakeAgent, "table", lambda self: 1 / 0)
    assert web.get("/metrics").status_code == 500
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert web.get("/metrics").status_code == 200


def test_flows_come_and_go_while_it_is_scraped(web, agent):
    stop = threading.Event()

    def reloading():
        n = 0
        while not stop.is_set():
            n += 1
            agent.flow_list = [replace(KEPT, name=f"f{i}") for i in range(n % 7)]

    thread = threading.Thread(target=reloading)
    thread.start()
    try:
        for _ in range(20):
            text = web.get("/metrics", headers={"Accept": OPENMETRICS}).text
            found = {family.name: family for family in parse_openmetrics(text)}
            names = [sample.labels["flow"] for sample in found["haprobe_flow_up"].samples]
            assert names == [f"f{i}" for i in range(len(names))]
            assert len(found["haprobe_flow_verdict"].samples) == 8 * len(names)
    finally:
        stop.set()
        thread.join()
