"""From several agents' documents to one."""

from __future__ import annotations

import time

import pytest

from probe.core.events import TimelineEvent
from probe.drill.client import AgentEndpoint, AgentPool
from probe.drill.collect import Span, assemble, fetch, pending, settle_s, shows_failover
from probe.drill.plan import DrillPlan
from probe.report.document import laws

from .fakes import MS, FakeAgent, FakeFlow, S, flow, poll

PLAN = DrillPlan(trigger="manual", steady_ns=S, patience_ns=S, validation_ns=S, limit_ns=S, labels={"fortios": "7.6.4"})


@pytest.fixture
def agents():
    now_ns = time.time_ns()
    flows = [FakeFlow(name, started_ns=now_ns - 5 * S) for name in ("x", "y")]
    with FakeAgent("its-own-name", [flows[0]]) as one, FakeAgent("its-own-name", [flows[1]]) as other:
        yield [one, other]


def pool_of(agents: list[FakeAgent]) -> AgentPool:
    return AgentPool([AgentEndpoint(f"agent{n}", agent.url) for n, agent in enumerate(agents)])


def test_waits_as_long_as_the_slowest_flow_needs() -> None:
    assert settle_s(poll(0, flow(loss_threshold_ns=200 * MS), flow("g", loss_threshold_ns=5 * S))) > 5
    assert settle_s(poll(0)) > 2


def test_asks_again_until_nothing_is_pending(agents: list[FakeAgent]) -> None:
    now_ns = time.time_ns()
    agents[0].flows[0].outages.append((now_ns - 50 * MS, None))
    with pool_of(agents) as pool:
        first, _ = pool.reports(now_ns - S, now_ns)
        documents, missing = fetch(pool, now_ns - S, now_ns)
    assert pending(first["agent0"]) > 0, "or this test shows nothing"
    assert pending(documents["agent0"]) == 0
    assert missing == {}


def test_gives_up_on_what_does_not_come(agents: list[FakeAgent]) -> None:
    agents[1].answers["/api/v1/report"] = (500, "disk on fire")
    with pool_of(agents) as pool:
        documents, missing = fetch(pool, time.time_ns() - S, time.time_ns(), patience_s=0.3)
    assert list(documents) == ["agent0"]
    assert "disk on fire" in str(missing["agent1"])


def test_one_document_under_the_drills_names_with_the_events_of_the_span(agents: list[FakeAgent]) -> None:
    end_ns = time.time_ns() - S
    start_ns = end_ns - 3 * S
    agents[1].flows[0].outages.append((start_ns + S, start_ns + 2 * S))
    with pool_of(agents) as pool:
        documents, _ = fetch(pool, start_ns, end_ns)
    span = Span(start_ns, end_ns, "manual", start_ns + S)
    events = [TimelineEvent(at, "user", "trigger") for at in (start_ns - 1, start_ns + S, end_ns + 1)]
    document = assemble(documents, PLAN, span, events)
    assert laws(document, settled=True) == []
    assert [(f["agent"], f["name"]) for f in document["flows"]] == [("agent0", "x"), ("agent1", "y")]
    assert document["run"]["labels"] == {"fortios": "7.6.4"}
    assert document["run"]["trigger"] == {"kind": "manual", "at_ns": start_ns + S}
    assert (document["run"]["started_ns"], document["run"]["ended_ns"]) == (start_ns, end_ns)
    assert document["run"]["clock"]["max_error_ns"] == 1000
    assert sorted(document["run"]["agents"]) == ["agent0", "agent1"]
    assert [e["at_ns"] for e in document["timeline"] if e["event"] == "trigger"] == [start_ns + S]
    assert {f["name"]: f["verdict"] for f in document["flows"]} == {"x": "unaffected", "y": "survived"}
    assert shows_failover(document, start_ns + S)
    assert not shows_failover(document, end_ns)


@pytest.mark.parametrize("event", ["eip_moved", "route_moved", "private_ip_moved", "role_change"])
def test_a_move_without_loss_is_a_failover(event: str) -> None:
    document = {"flows": [{"outages": []}], "timeline": [{"event": event, "at_ns": 10}]}
    assert shows_failover(document, 10)
    assert not shows_failover(document, 11)


def test_a_stall_of_a_stream_is_a_sign_as_an_outage_is() -> None:
    stream = {"outages": [], "stream": {"stalls": [{"start_ns": 5, "end_ns": 10, "censored": "no"}]}}
    document = {"flows": [{"outages": [], "stream": None}, stream], "timeline": []}
    assert shows_failover(document, 10)
    assert not shows_failover(document, 11)
    assert not shows_failover({**document, "diagnosis": [{"code": "no_failover_seen"}]}, 1)


def test_loss_that_is_known_to_have_another_cause_is_no_failover() -> None:
    document = {"flows": [{"outages": [{"end_ns": 10}]}], "timeline": [], "diagnosis": [{"code": "probe_unreliable"}]}
    assert shows_failover(document, 1)
    document["diagnosis"].append({"code": "no_failover_seen"})
    assert not shows_failover(document, 1)
