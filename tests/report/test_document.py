"""The result document: schema, completion, and what is concluded in it."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from probe.report.document import json_schema, new_document, problems

from . import build


@pytest.fixture
def document() -> dict[str, Any]:
    return build.drill()


def test_committed_schema_is_current() -> None:
    assert json.loads(build.SCHEMA.read_text()) == json_schema(), "run: python tests/report/build.py"


def test_tables_in_the_docs_are_current() -> None:
    assert build.VERDICTS.read_text() == build.verdicts_page(), "run: python tests/report/build.py"


def test_golden_document_is_current_and_valid(document: dict[str, Any]) -> None:
    golden = json.loads(build.GOLDEN.read_text())
    assert golden == document, "run: python tests/report/build.py"
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(golden, json_schema(), cls=jsonschema.Draft202012Validator)


def test_schema_documents_every_field_that_needs_a_unit() -> None:
    text = json.dumps(json_schema())
    assert "last answered probe before" in text
    assert json_schema()["$schema"].endswith("2020-12/schema")


def test_unknown_fields_are_tolerated_and_missing_ones_named(document: dict[str, Any]) -> None:
    document["flows"][0]["from_the_future"] = 1
    assert problems(document) == []
    del document["flows"][3]["counts"]["lost"]
    document["flows"][4]["verdict"] = "fine"
    first, second = problems(document)
    assert first.startswith("flows.3.counts.lost:")
    assert second.startswith("flows.4.verdict:")


def put(document: dict[str, Any], place: str, value: object) -> None:
    """Put a value where a dotted path leads: `flows.0.name`."""
    *way, last = (int(part) if part.isdecimal() else part for part in place.split("."))
    for part in way:
        document = document[part]  # type: ignore[index]
    document[last] = value  # type: ignore[index]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("run.started_ns", 1.7647e18),
        ("run.started_ns", "5"),
        ("run.ended_ns", 10**21),
        ("run.trigger.at_ns", True),
        ("run.clock.synchronised", 1),
        ("run.backfill", {"cloudtrail": "2"}),
        ("flows.0.counts.lost", "5"),
        ("flows.0.counts.lost", 2**63),
        ("flows.0.outages.0.end_ns", 10**21),
        ("timeline.0.at_ns", 10**400),
        ("phases.0.share", float("inf")),
        ("budgets.0.ok", "no"),
        ("budgets.0.limit", float("nan")),
        ("budgets.0.value", 10**400),
        ("budgets.0.unobserved", "all"),
        ("timeline.0.detail.unit", {"name": "fgt-a"}),
        ("timeline.0.detail.direction", ["forward"]),
        ("timeline.0.detail.units", "fgt-a"),
        ("timeline.0.detail.answering", [1]),
        ("timeline.0.detail.signals", ["eip"]),
        ("timeline.0.detail.flows", {"a": {"known": "anew"}}),
        ("timeline.0.detail.duration_ms", "5"),
        ("timeline.0.detail.duration_ms", 1e300),
        ("timeline.0.detail.last_answer_ns", "5"),
    ],
)
def test_a_value_that_only_looks_right_is_none(document: dict[str, Any], place: str, value: object) -> None:
    document["budgets"] = [{"name": "x", "limit": 5, "value": 3, "ok": True}]
    assert problems(document) == []
    put(document, place, value)
    found = problems(document)
    assert found and all(line.startswith(place.partition("detail.")[0].rstrip(".")) for line in found)


def test_an_events_detail_may_hold_what_this_version_does_not_know(document: dict[str, Any]) -> None:
    more = {"moons": [{"phase": "full"}], "command": ["true"], "unit": None, "units": None, "flows": {"a": None}}
    document["timeline"][0]["detail"] = more
    assert problems(document) == []


def without(value: Any, keys: set[str]) -> Any:
    """The same document, with no field of these names anywhere."""
    if isinstance(value, dict):
        return {key: without(inner, keys) for key, inner in value.items() if key not in keys}
    return [without(inner, keys) for inner in value] if isinstance(value, list) else value


def test_a_document_of_the_first_version_is_one(document: dict[str, Any]) -> None:
    later = {"record", "backfill", "tx_error_ns", "peer_ttl", "by", "icmp_type", "icmp_code", "again_ns"}
    later |= {"stack", "stream", "rebound", "share", "check_first"}
    assert problems(without(document, later)) == []


def test_contract_order_of_fields(document: dict[str, Any]) -> None:
    assert list(document) == ["schema", "run", "flows", "matrix", "timeline", "phases", "diagnosis", "budgets"]


def test_clean_drill(document: dict[str, Any]) -> None:
    nat = {"icmp": "survived", "udp": "survived", "tcp": "lost"}
    new = {"icmp-new": "recovered", "udp-new": "recovered", "tcp-new": "recovered"}
    assert document["matrix"] == {
        "east-west": nat | new | {"tcp": "survived"},
        "ingress": nat | new,
        "egress": nat | new,
    }
    assert [d["code"] for d in document["diagnosis"]] == ["failover_clean", "nat_sessions_lost"]
    assert [p["name"] for p in document["phases"]] == [
        "detect",
        "role_change",
        "cloud_api",
        "data_plane",
        "full_recovery",
    ]


@pytest.mark.parametrize(
    ("options", "events", "code"),
    [
        ({"pickup": False}, {}, "sessions_not_synchronised"),
        ({"pickup": False, "resets": True}, {}, "firewall_resets_sessions"),
        ({"ingress_dark": True}, {}, "moved_but_ingress_dark"),
        ({}, {"eip": "denied", "routes": "denied"}, "eip_routes_not_moved"),
    ],
)
def test_other_drills(options: dict[str, Any], events: dict[str, str], code: str) -> None:
    document = new_document(run=build.RUN, flows=build.flows(**options), timeline=build.events(**events))
    assert document["diagnosis"][0]["code"] == code


def test_measured_input_is_not_changed() -> None:
    flows = build.flows()
    before = copy.deepcopy(flows)
    new_document(run=build.RUN, flows=flows, timeline=build.events())
    assert flows == before


def test_outage_events_follow_the_flows_not_an_older_revision(document: dict[str, Any]) -> None:
    stale = {"at_ns": 1, "uncertainty_ns": 0, "source": "probe", "event": "outage_start", "detail": {"flow": "x"}}
    again = new_document(run=document["run"], flows=document["flows"], timeline=[stale, *document["timeline"]])
    assert again == document  # and concluding twice changes nothing


def test_the_least_there_can_be_is_a_document() -> None:
    empty = new_document(run={}, flows=[])
    assert problems(empty) == []
    one = new_document(run={"id": "x"}, flows=[{"name": "a", "protocol": "udp"}])
    assert problems(one) == []
    assert one["flows"][0]["verdict"] == "unobserved"
