"""What CloudTrail tells of a run afterwards: asked for at its pace, matched, told with its uncertainty, merged once.

moto has no LookupEvents; `trail` stands in for it, over HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from probe import cli
from probe.core.events import TimelineEvent
from probe.errors import PeerError, PrivilegeError
from probe.report.document import new_document, problems
from probe.store import runs
from probe.watch import cloudtrail
from probe.watch.access import Account
from probe.watch.trail_events import Scope, scope_of, timeline_events
from tests.report.build import END, START, Fault, flow

from .trail import Trail, a_trail, record

S = 1_000_000_000
START_S = START // S
TRIGGER_S = START_S + 5
A, B = "i-0aaaaaaaaaaaaaaaa", "i-0bbbbbbbbbbbbbbbb"
WATCHER = {
    "region": "eu-west-2",
    "addresses": ["eipalloc-1"],
    "route_tables": ["rtb-1"],
    "units": {"fgt-a": ["eni-a1", "eni-a2"], "fgt-b": ["eni-b1", "eni-b2"]},
    "instances": {"fgt-a": A, "fgt-b": B},
}
SCOPE = Scope({"fgt-a": ["eni-a1", A], "fgt-b": ["eni-b1", B]}, frozenset({"eipalloc-1", "rtb-1", "eni-b1", A, B}))
EIP = {"requestParameters": {"allocationId": "eipalloc-1", "networkInterfaceId": "eni-b1"}}
ROUTE = {
    "requestParameters": {
        "routeTableId": "rtb-1",
        "destinationCidrBlock": "0.0.0.0/0",
        "networkInterfaceId": "eni-b2",
    }
}
DENIED = {"errorCode": "Client.UnauthorizedOperation", "errorMessage": "You are not authorized"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(cloudtrail.time, "sleep", waits.append)
    return waits


@pytest.fixture
def trail() -> Iterator[Trail]:
    with a_trail() as trail:
        yield trail


def ask(trail: Trail, sleep: Any = lambda s: None) -> list[dict[str, Any]]:
    account = Account("eu-west-2", endpoint_url=trail.url)
    return cloudtrail.look_up(account, START, END, sleep=sleep)


def events(*records: dict[str, Any], clock_error_ns: int = 0) -> list[TimelineEvent]:
    return timeline_events(records, SCOPE, START, END, clock_error_ns)


# --- asking ----------------------------------------------------------------------------------------------------------


def test_each_operation_is_asked_for_in_the_span_and_all_pages_are_read(trail: Trail) -> None:
    trail.records = [record("ReplaceRoute", TRIGGER_S + n, **ROUTE) for n in range(5)]
    trail.records += [record("AssociateAddress", START_S - 10, **EIP), record("RunInstances", TRIGGER_S)]
    waits: list[float] = []
    found = ask(trail, waits.append)
    assert [one["eventID"] for one in found] == [one["eventID"] for one in trail.records[:5]]
    asked = {one["LookupAttributes"][0]["AttributeValue"] for one in trail.asked}
    assert {"ReplaceRoute", "AssociateAddress", "StopInstances"} <= asked
    assert len(trail.asked) == len(asked) + 2, "two further pages of routes"
    assert len(waits) == len(trail.asked)
    assert set(waits) == {0.5}, "two calls a second are allowed"


def test_a_throttled_call_is_repeated_a_few_times(trail: Trail) -> None:
    trail.records, trail.throttled = [record("AssociateAddress", TRIGGER_S, **EIP)], 2
    waits: list[float] = []
    assert len(ask(trail, waits.append)) == 1
    assert waits[:2] == [1.0, 2.0]
    trail.throttled = 99
    with pytest.raises(PeerError, match="ThrottlingException"):
        ask(trail)


def test_a_denied_lookup_names_the_action(trail: Trail) -> None:
    trail.denied = True
    with pytest.raises(PrivilegeError, match="allow cloudtrail:LookupEvents"):
        ask(trail)
    assert len(trail.asked) == 1


# --- understanding ---------------------------------------------------------------------------------------------------


def test_a_call_is_told_with_its_real_uncertainty() -> None:
    (event,) = events(record("ReplaceRoute", TRIGGER_S, **ROUTE, by=B), clock_error_ns=7_000_000)
    assert (event.source, event.event) == ("aws", "api_call")
    assert event.uncertainty_ns == S + 7_000_000
    low, high = event.at_ns - event.uncertainty_ns, event.at_ns + event.uncertainty_ns
    assert low <= TRIGGER_S * S - S // 2, "rounded up to the second named"
    assert high >= (TRIGGER_S + 1) * S, "cut down to it"
    detail = event.detail
    assert (detail["unit"], detail["operation"], detail["target"]) == ("fgt-b", "ReplaceRoute", "rtb-1 0.0.0.0/0")
    assert (detail["to"], detail["result"], detail["via"]) == ("eni-b2", "ok", "cloudtrail")


def test_a_refusal_keeps_its_code_and_message() -> None:
    (event,) = events(record("AssociateAddress", TRIGGER_S, **EIP, **DENIED, by=B))
    assert (event.detail["result"], event.detail["error"]) == ("error", "Client.UnauthorizedOperation")
    assert event.detail["message"] == "You are not authorized"


def test_a_person_is_named_and_is_no_unit() -> None:
    (event,) = events(record("ReplaceRoute", TRIGGER_S, **ROUTE, by="alice"))
    assert (event.detail["unit"], event.detail["caller"]) == ("alice", "alice")


def test_a_units_refused_call_counts_without_parameters_too() -> None:
    (event,) = events(record("ReplaceRoute", TRIGGER_S, requestParameters=None, **DENIED, by=B))
    assert event.detail["unit"] == "fgt-b"


def test_an_instance_that_was_stopped_is_no_call_of_the_pair() -> None:
    stop = {"requestParameters": {"instancesSet": {"items": [{"instanceId": A}]}, "force": False}}
    (event,) = events(record("StopInstances", TRIGGER_S, **stop, by="alice"))
    assert (event.event, event.detail["target"], event.detail["unit"]) == ("instance_call", A, "alice")


@pytest.mark.parametrize(
    "other",
    [
        record("ReplaceRoute", TRIGGER_S, requestParameters={"routeTableId": "rtb-11"}, by="bob"),
        record("ReplaceRoute", TRIGGER_S, **ROUTE, errorCode="Client.DryRunOperation"),
        record("ReplaceRoute", START_S - 5, **ROUTE),
        record("ReplaceRoute", START_S + 70, **ROUTE),
        {**record("ReplaceRoute", TRIGGER_S, **ROUTE), "eventTime": "yesterday"},
        {"eventName": "ReplaceRoute"},
    ],
)
def test_what_does_not_concern_the_run_is_left_out(other: dict[str, Any]) -> None:
    assert events(other) == []


# --- a stored run ----------------------------------------------------------------------------------------------------


def a_run(directory: Path) -> Path:
    """A run whose elastic IP moved and whose route did not, with nobody to say why."""
    at = TRIGGER_S * S
    dark = (Fault(at + S, None),)
    moved = {"address": "203.0.113.10", "allocation_id": "eipalloc-1", "from": "eni-a1", "to": "eni-b1"}
    units = {"from_unit": "fgt-a", "to_unit": "fgt-b"}
    document = new_document(
        run={
            "id": "20251203T120000.000Z",
            "started_ns": START,
            "ended_ns": END,
            "config": {"agents": {"jumphost": {"watchers": {"aws": WATCHER}}}},
            "clock": {"synchronised": True, "max_error_ns": 1_000_000, "source": "chrony"},
            "trigger": {"kind": "manual", "at_ns": at},
        },
        flows=[flow("ew", faults=dark), flow("ew-fresh", session="fresh", faults=dark)],
        timeline=[TimelineEvent(at + 3 * S, "aws", "eip_moved", 100_000_000, {**moved, **units})],
    )
    return runs.store(document, directory)


def backfill(trail: Trail, run: Path, *more: str) -> int:
    return cli.main(["report", str(run), "--backfill", "--endpoint-url", trail.url, "--json", "-", *more])


def test_refusals_become_evidence_and_the_run_is_stored_again(
    trail: Trail, tmp_path: Path, quick: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path)
    page = (run / "report.html").read_text()
    trail.records = [
        record("AssociateAddress", TRIGGER_S + 2, **EIP, by=B),
        record("ReplaceRoute", TRIGGER_S + 3, **ROUTE, **DENIED, by=B),
        record("ReplaceRoute", TRIGGER_S + 3, requestParameters={"routeTableId": "rtb-7"}, by="bob"),
    ]
    assert backfill(trail, run) == 0
    said = capsys.readouterr()
    assert "2 calls in CloudTrail concern this run, 1 of them refused" in said.err
    stored = json.loads((run / "report.json").read_text())
    assert json.loads(said.out) == stored
    assert problems(stored) == []
    codes = {finding["code"]: finding["evidence"] for finding in stored["diagnosis"]}
    wanted = "fgt-b: ReplaceRoute rtb-1 0.0.0.0/0: Client.UnauthorizedOperation"
    assert wanted in codes["eip_moved_routes_not"]
    calls = [e for e in stored["timeline"] if e["detail"].get("via") == "cloudtrail"]
    assert [e["detail"]["target"] for e in calls] == ["203.0.113.10", "rtb-1 0.0.0.0/0"], "named as elsewhere"
    assert {e["uncertainty_ns"] for e in calls} == {S + 1_000_000}
    assert stored["run"]["backfill"] == {"cloudtrail": 2}
    assert "Client.UnauthorizedOperation" in (run / "report.html").read_text()
    assert "Client.UnauthorizedOperation" not in page
    assert [e for e in stored["timeline"] if e["event"] == "outage_start"], "what was measured stays"


def test_doing_it_again_changes_nothing_more_and_late_records_are_added(
    trail: Trail, tmp_path: Path, quick: list[float]
) -> None:
    run = a_run(tmp_path)
    trail.records = [record("AssociateAddress", TRIGGER_S + 2, **EIP, by=B)]
    assert backfill(trail, run) == 0
    first = (run / "report.json").read_bytes(), (run / "report.html").read_bytes()
    assert backfill(trail, run) == 0
    assert ((run / "report.json").read_bytes(), (run / "report.html").read_bytes()) == first
    late = record("ReplaceRoute", TRIGGER_S + 3, **ROUTE, by=B)
    trail.records = [late]  # and what was told before is not forgotten
    assert backfill(trail, run) == 0
    stored = json.loads((run / "report.json").read_text())
    operations = [e["detail"]["operation"] for e in stored["timeline"] if e["event"] == "api_call"]
    assert operations == ["AssociateAddress", "ReplaceRoute"]
    assert stored["run"]["backfill"] == {"cloudtrail": 2}
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


def test_polled_changes_keep_the_phases_where_they_are_finer(trail: Trail, tmp_path: Path, quick: list[float]) -> None:
    run = a_run(tmp_path)
    before = json.loads((run / "report.json").read_text())["phases"]
    trail.records = [record("AssociateAddress", TRIGGER_S + 2, **EIP, by=B)]
    backfill(trail, run)
    assert json.loads((run / "report.json").read_text())["phases"] == before


def test_nothing_there_leaves_the_run_as_it_is(
    trail: Trail, tmp_path: Path, quick: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_run(tmp_path)
    before = (run / "report.json").read_bytes()
    assert backfill(trail, run) == 0
    assert "CloudTrail has nothing about this run" in capsys.readouterr().err
    assert (run / "report.json").read_bytes() == before


def test_a_run_without_a_watcher_has_nothing_to_look_up(
    trail: Trail, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.store(new_document(run={"id": "r", "started_ns": 1, "ended_ns": 2}, flows=[]), tmp_path)
    assert backfill(trail, run) == 2
    assert "had no AWS watcher" in capsys.readouterr().err
    assert cli.main(["report", str(run), "--region", "eu-west-2"]) == 2
    assert "for --backfill only" in capsys.readouterr().err
    assert trail.asked == []


def test_the_scope_is_what_all_agents_watched(tmp_path: Path) -> None:
    scope = scope_of(runs.load(a_run(tmp_path)))
    assert scope.regions == ("eu-west-2",)
    assert scope.units["fgt-b"] == ["eni-b1", "eni-b2", B]
    assert {"eipalloc-1", "rtb-1", A} <= scope.ids
    assert scope.addresses == {"eipalloc-1": "203.0.113.10"}


@pytest.mark.parametrize(
    ("odd", "named"),
    [
        ({"units": 5}, set()),
        ({"units": {"fgt-a": 5, "fgt-b": ["eni-b1", None, {"a": 1}]}, "instances": ["i-1"]}, {"eni-b1"}),
        ({"instances": {"fgt-a": ["i-0a"], "fgt-b": 7}, "addresses": True, "route_tables": {"rtb-1": 1}}, {"i-0a"}),
        ({"addresses": [["eipalloc-1"]], "network_interfaces": "eni-a1", "region": {}}, {"eni-a1"}),
    ],
)
def test_what_a_config_has_in_no_form_of_ours_names_nothing(odd: dict[str, Any], named: set[str]) -> None:
    scope = scope_of(new_document(run={"config": {"watchers": {"aws": odd}}}, flows=[]))
    assert (scope.ids, scope.regions) == (named, ())
