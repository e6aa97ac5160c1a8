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
