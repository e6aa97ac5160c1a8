"""What a live capture of awsd adds to the timeline."""

from __future__ import annotations

import pytest

from probe.core.diagnosis import diagnose
from probe.core.events import TimelineEvent
from probe.core.facts import Facts
from probe.watch.fortigate_events import PRINT_DELAY_NS, CapturedLine, awsd_events

S = 1_000_000_000
T0 = 1_700_000_000 * S
RTT = 3_000_000

NEW = [
    (1.0, "fgt-b $ 2024-01-01 00:00:00 HA event"),
    (1.0, "2024-01-01 00:00:00 HA state: primary"),
    (1.5, "awsd associate elastic ip 203.0.113.10 to 10.0.10.10 of eni eni-08bfa15d84e7cdea8"),
    (1.8, "awsd associate elastic ip 203.0.113.10 successfully"),
    (2.0, "awsd update route table rtb-0ddbb1a18adf410da, replace route of dst 0.0.0.0/0 to eni-0a873113b231370aa"),
    (2.25, "awsd update route successfully"),
]
OLD = [
    (1.0, "FG-B # Become HA master"),
    (1.5, "awsd associate elastic ip allocation eipalloc-0f7140ed02e5ea7c0 to 10.3.1.10 of eni eni-0eec9e5b7a796d291"),
    (1.8, "awsd associate elastic ip successfully"),
    (2.0, "awsd update route table rtb-061c31bc5c6b27bad, replace route of dst 0.0.0.0/0 to eni-009d4682c3561e457"),
    (2.25, "awsd update route successfully"),
]


def events(*lines: tuple[float, str]) -> list[TimelineEvent]:
    return awsd_events("fgt-b", [CapturedLine(T0 + round(at * S), text) for at, text in lines], RTT)


@pytest.mark.parametrize(
    ("lines", "targets"),
    [
        (NEW, ["203.0.113.10", "rtb-0ddbb1a18adf410da 0.0.0.0/0"]),
        (OLD, ["eipalloc-0f7140ed02e5ea7c0", "rtb-061c31bc5c6b27bad 0.0.0.0/0"]),
    ],
    ids=["new", "old"],
)
def test_role_and_each_operation_with_the_time_at_which_its_line_came(
    lines: list[tuple[float, str]], targets: list[str]
) -> None:
    role, eip, route = events(*lines)
    assert (role.event, role.source, role.at_ns) == ("role_change", "fortigate", T0 + S)
    assert role.detail == {"unit": "fgt-b", "role": "primary", "via": "awsd"}
    assert [eip.detail["operation"], route.detail["operation"]] == ["AssociateAddress", "ReplaceRoute"]
    assert [eip.detail["target"], route.detail["target"]] == targets
    assert [eip.detail["result"], route.detail["result"]] == ["ok", "ok"]
    assert [eip.detail["duration_ms"], route.detail["duration_ms"]] == [300.0, 250.0]
    assert [one.at_ns - T0 for one in (eip, route)] == [1.5 * S, 2 * S]
    assert {one.uncertainty_ns for one in (role, eip, route)} == {RTT + PRINT_DELAY_NS}


REFUSED = [
    *NEW[:3],
    (1.7, "aws curl response err, 403"),
    (1.7, '<?xml version="1.0" encoding="UTF-8"?>'),
    (1.7, "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors>"),
    (1.7, "<RequestID>x</RequestID></Response>"),
]


def test_a_refused_operation_names_the_reason() -> None:
    _, eip = events(*REFUSED)
    assert (eip.event, eip.detail["result"], eip.detail["error"]) == ("api_call", "error", "UnauthorizedOperation")
    found = diagnose(Facts(flows=[], events=[TimelineEvent(T0, "user", "trigger"), eip], trigger_ns=T0))
    assert "eip_routes_not_moved" in [one.code for one in found], "the drill's verdict knows it"


def test_an_operation_without_an_answer_is_no_failure() -> None:
    _, eip = events(*NEW[:3])
    assert eip.detail["result"] == "unconfirmed"
    assert "duration_ms" not in eip.detail
    assert Facts(flows=[], events=[eip]).refused == []
    assert Facts(flows=[], events=[eip]).eips == [], "nor a success"


def test_a_refusal_of_something_else_stands_for_itself() -> None:
    _, error = events(*NEW[:2], (1.2, "aws curl response err, 0"))
    assert (error.event, error.at_ns) == ("awsd_error", T0 + round(1.2 * S))
    assert error.detail["unit"] == "fgt-b"


def test_a_connectors_trouble_is_not_the_failovers() -> None:
    connector = [
        (1.0, "awsd sdn connector AWS_SDN start updating"),
        (1.1, "aws curl response err, 401"),
        (1.2, "aws access/secret key invalid"),
    ]
    assert events(*connector) == []


def test_a_quiet_capture_tells_nothing() -> None:
    assert events() == events((1.0, "fgt-b $ "), (2.0, "awsd running in secondary mode, won't update")) == []
