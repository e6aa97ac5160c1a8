"""Several agents' documents become the run's."""

from __future__ import annotations

from typing import Any

import pytest

from probe.core.events import TimelineEvent
from probe.report.document import laws, new_document
from probe.report.merge import merge, worst_clock

from . import build


def agent_document(agent: str, named: str = "", **run: Any) -> dict[str, Any]:
    """What one agent would answer: its own flows without an agent's name, and its watcher's events."""
    flows = [{**f, "agent": ""} for f in build.flows() if f["agent"] == agent]
    watched = [e for e in build.events() if e.source == "aws"] if agent == "jumphost" else []
    name = named or agent
    own = {"agent": name, "host": f"{name}-host", "clock": build.RUN["clock"], "config": {"of": name}}
    own |= {"started_ns": build.START, "ended_ns": build.END}
    return new_document(run={**own, **run}, flows=flows, timeline=watched)


@pytest.fixture
def merged() -> dict[str, Any]:
    lab = [e for e in build.events() if e.source == "lab"]
    documents = [agent_document("workload-a"), agent_document("jumphost", started_ns=build.START - 5)]
    trigger = {"kind": "crash", "at_ns": build.TRIGGER}
    return merge(documents, run={"id": "r", "trigger": trigger}, extra_events=lab)


def test_same_conclusions_as_if_one_agent_had_measured_it_all(merged: dict[str, Any]) -> None:
    whole = build.drill()
    assert laws(merged, settled=True) == []
    assert merged["matrix"] == whole["matrix"]
    assert merged["phases"] == whole["phases"]
    assert [d["code"] for d in merged["diagnosis"]] == [d["code"] for d in whole["diagnosis"]]
    assert len(merged["timeline"]) == len(whole["timeline"])


def test_flows_carry_their_agent_and_episodes_stay(merged: dict[str, Any]) -> None:
    assert {(f["agent"], f["path"]) for f in merged["flows"]} == {
        ("workload-a", "east-west"),
        ("workload-a", "egress"),
        ("jumphost", "ingress"),
    }
    assert {o["episode"] for f in merged["flows"] for o in f["outages"]} == {1}


def test_raw_records_stay_with_their_outage(merged: dict[str, Any]) -> None:
    def evidence(document: dict[str, Any]) -> dict[tuple[str, int], list[Any]]:
        return {(f["name"], o["start_ns"]): o["evidence"] for f in document["flows"] for o in f["outages"]}

    assert evidence(merged) == evidence(build.drill())
    assert all(evidence(merged).values())


def test_run_spans_all_agents(merged: dict[str, Any]) -> None:
    run = merged["run"]
    assert (run["id"], run["started_ns"], run["ended_ns"]) == ("r", build.START - 5, build.END)
    assert run["config"] == {"workload-a": {"of": "workload-a"}, "jumphost": {"of": "jumphost"}}
    assert run["agents"]["jumphost"]["host"] == "jumphost-host"


def test_two_agents_watching_the_same_move_tell_it_once() -> None:
    one = merge([agent_document("jumphost")], run={"id": "r"})
    events = [e for e in build.events() if e.source == "aws"]
    two = merge([agent_document("jumphost")], run={"id": "r"}, extra_events=events)
    assert two["timeline"] == one["timeline"]


@pytest.mark.parametrize("sighted", [True, False], ids=["the other one sees", "both are blind"])
def test_ha_is_unknown_only_where_no_agent_s_watcher_sees(sighted: bool) -> None:
    """Of a watcher that always sees, nothing but the config tells that it is there."""
    watchers = {"watchers": build.RUN["config"]["jumphost"]["watchers"]}
    down = TimelineEvent(build.TRIGGER, "aws", "watcher_down", 0, {"watcher": "aws", "reason": "timeout"})
    documents = [agent_document(name, config=watchers) for name in ("jumphost", "workload-a")]
    for document in documents[: 1 if sighted else 2]:
        document["timeline"] = [*document["timeline"], down.to_document()]
    made = merge(documents, run={"id": "r", "trigger": {"kind": "crash", "at_ns": build.TRIGGER}})
    assert ("watcher_blind" in [d["code"] for d in made["diagnosis"]]) is not sighted
    told = [e["detail"].get("agent") for e in made["timeline"] if e["event"] == "watcher_down"]
    assert told == (["jumphost"] if sighted else ["jumphost", "workload-a"])
    again = new_document(run=made["run"], flows=made["flows"], timeline=made["timeline"])
    assert again["diagnosis"] == made["diagnosis"], "as when it is read back"


def test_verdicts_are_made_anew_with_the_twin() -> None:
    document = agent_document("workload-a")
    for flow in document["flows"]:
        flow["verdict"] = "dark"
    assert merge([document], run={"id": "r"})["matrix"]["egress"]["tcp"] == "lost"


def test_same_flow_name_on_two_agents_keeps_its_own_twin() -> None:
    a, b = agent_document("workload-a"), agent_document("workload-a", named="workload-c")
    dark = build.flow(
        "egress-tcp-fresh",
        protocol="tcp",
        session="fresh",
        path="egress",
        agent="",
        faults=(build.Fault(build.DOWN, None),),
    )
    b["flows"] = [dark if f["name"] == dark["name"] else f for f in b["flows"]]
    verdicts = {(f["agent"], f["name"]): f["verdict"] for f in merge([a, b], run={"id": "r"})["flows"]}
    assert verdicts["workload-a", "egress-tcp"] == "lost"
    assert verdicts["workload-c", "egress-tcp"] == "dark"


def test_clock_is_no_better_than_the_worst() -> None:
    good = {"synchronised": True, "max_error_ns": 10, "source": "chrony"}
    bad = {"synchronised": False, "max_error_ns": 99, "source": "adjtimex"}
    unknown = {"synchronised": True, "max_error_ns": None, "source": ""}
    assert worst_clock([good, bad]) == {"synchronised": False, "max_error_ns": 99, "source": "chrony, adjtimex"}
    assert worst_clock([good, unknown])["max_error_ns"] is None
    assert worst_clock([])["synchronised"] is False
