"""The five questions, answered from documents that end in different ways."""

from __future__ import annotations

from typing import Any

from probe.core.events import TimelineEvent
from probe.report import html
from probe.report.document import new_document
from probe.report.questions import answers

from . import build
from .test_text import one_line, printed

QUESTIONS = [
    "What does the passive unit's output mean?",
    "What happened to the sessions, and why?",
    "Which sessions survived?",
    "How many pings were lost?",
    "And if it did not work?",
]


def captured(operation: str, target: str, result: str = "ok", **more: Any) -> TimelineEvent:
    detail = {"unit": "fgt-b", "operation": operation, "target": target, "result": result, "via": "awsd", **more}
    return TimelineEvent(build.EIP, "fortigate", "api_call", build.MS, detail)


def answered(document: dict[str, Any]) -> dict[str, str]:
    return {one.question: "\n".join(one.lines) for one in answers(document)}


def with_events(*events: TimelineEvent, **options: Any) -> dict[str, Any]:
    told = build.events(routes=options.pop("routes", "ok"))
    return new_document(run=build.RUN, flows=build.flows(**options), timeline=[*told, *events])


def test_all_five_are_answered_with_their_source_in_both_reports() -> None:
    document = build.drill()
    found = answers(document)
    assert [one.question for one in found] == QUESTIONS
    text, page = one_line(printed(document, 200)), html.render(document)
    for one in found:
        assert one.source
        assert one.question in text
        assert f"from: {one.source}" in text
        for line in one.lines:
            assert one_line(line) in text
    assert page.count("<h3>") >= 5
    assert "Five questions" in page


def test_a_run_without_a_trigger_asks_nothing() -> None:
    run = {**build.RUN, "trigger": {"kind": "", "at_ns": 0}}
    document = new_document(run=run, flows=build.flows(), timeline=[])
    assert answers(document) == []
    assert "Five questions" not in printed(document, 120)
    assert "Five questions" not in html.render(document)


def test_what_awsd_printed_is_put_in_words() -> None:
    role = TimelineEvent(
        build.PRIMARY, "fortigate", "role_change", build.MS, {"unit": "fgt-b", "role": "primary", "via": "awsd"}
    )
    refused = captured("ReplaceRoute", "rtb-1 0.0.0.0/0", "error", error="403 UnauthorizedOperation")
    eip = captured("AssociateAddress", "203.0.113.10", duration_ms=152)
    said = answered(with_events(role, eip, refused))[QUESTIONS[0]]
    assert "fgt-b is told that it is primary" in said
    assert "the Elastic IP 203.0.113.10 at itself: confirmed after 152.0 ms" in said
    assert "failed, 403 UnauthorizedOperation. The unit's role may not make these calls." in said


def test_without_a_capture_the_answer_says_how_to_get_one() -> None:
    said = answered(build.drill())[QUESTIONS[0]]
    assert "Nothing of it is in this run" in said
    assert "haprobe explain awsd" in said


def test_sessions_are_told_with_the_reason() -> None:
    said = answered(build.drill())
    assert "east-west ICMP, UDP: survived, dark for 5.06" in said[QUESTIONS[1]]
    assert "east-west TCP: survived, dark for 5.06" in said[QUESTIONS[1]]
    assert "ingress TCP: lost; likely translated to an address of the old unit" in said[QUESTIONS[1]]
    assert said[QUESTIONS[2]].startswith("7 of 9 old sessions")
    assert "east-west: ICMP, UDP, TCP" in said[QUESTIONS[2]]
    assert "of these, 1 TCP" in said[QUESTIONS[2]]
    assert "session-pickup)" in answered(build.drill(pickup=False))[QUESTIONS[1]]
    assert "reset; RST from 10.99.97.10" in answered(build.drill(pickup=False, resets=True))[QUESTIONS[1]]


def test_pings_are_counted_by_sequence() -> None:
    document = build.drill()
    (flow,) = [f for f in document["flows"] if f["name"] == "east-west-icmp"]
    said = answered(document)[QUESTIONS[3]]
    assert f"east-west: {sum(o['lost'] for o in flow['outages'])} of {flow['counts']['sent']}" in said
    assert "would lose 5 or 6" in said
    assert "still dark at the end" in answered(build.drill(ingress_dark=True))[QUESTIONS[3]]
    for one in document["flows"]:
        one["outages"] = []
    assert "and no outage" in answered(document)[QUESTIONS[3]]


def test_what_if_it_did_not_work_is_the_diagnosis() -> None:
    assert answered(build.drill())[QUESTIONS[4]].startswith("It worked")
    dark = answered(build.drill(ingress_dark=True))[QUESTIONS[4]]
    assert dark.startswith("moved_but_ingress_dark:")
    assert "seen: " in dark
    assert "check first: The VIP's `extip`" in dark


def test_of_many_flows_each_protocol_is_named_once() -> None:
    flows = [{**flow, "name": f"{flow['name']}-{n}"} for n in range(3) for flow in build.flows()]
    told = answered(new_document(run=build.RUN, flows=flows, timeline=build.events()))
    assert "\neast-west: 3 ICMP, 3 UDP, 3 TCP\n" in told["Which sessions survived?"]
    assert told["How many pings were lost?"].count("\n") == 2, "a line for each path"
    [one] = [line for line in told["How many pings were lost?"].splitlines() if line.startswith("east-west: ")]
    lost = next(f["counts"]["lost"] for f in flows if (f["path"], f["protocol"]) == ("east-west", "icmp"))
    assert one.startswith(f"east-west: {3 * lost} of ") and "of 3 flows; at the worst (" in one
