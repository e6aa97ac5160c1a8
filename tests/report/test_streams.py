"""A stream in a document: its verdict, its column, and its words beside the packets of its path."""

from __future__ import annotations

import copy
from io import StringIO
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from probe.report import html, text
from probe.report import phrases as say
from probe.report.budgets import Budget, check
from probe.report.document import json_schema, laws, new_document

from . import build

MS, S = build.MS, build.S
START = build.DOWN + 40 * MS


def stall(length: int, *, censored: str = "no", start: int = START) -> dict[str, Any]:
    over = censored == "no"
    return {
        "start_ns": start,
        "end_ns": start + length,
        "duration_ns": length,
        "censored": censored,
        "first_echo_ns": start + length if over else 0,
        "caught_up_ns": start + length if over else 0,
        "next_try_ns": 0 if over else start + length + S,
        "first_seq": 50,
        "waiting_max": 79,
        "retransmissions": 5,
        "retransmitted_ns": [start + 200 * MS],
        "rto_max_ns": 3_200 * MS,
        "backoff_max": 4,
        "unacked_max": 36,
    }


def stream(*stalls: dict[str, Any], end: str = "none", reconnected: bool = False, **more: Any) -> dict[str, Any]:
    flow = build.flow("east-west-stream", protocol="tcp", interval_ns=100 * MS)
    again = [{"at_ns": build.ROUTE, "attempts": 3}] if reconnected else []
    flow |= {"stack": "kernel", "stream": {"stalls": list(stalls), "retransmissions": 5, "reconnected": again}}
    ended = {"cause": end, "at_ns": build.PRIMARY if end != "none" else 0, "from": "", "ttl": 0}
    return {**flow, "session_end": ended, **more}


def document(flow: dict[str, Any], *, twin: bool = False) -> dict[str, Any]:
    faults = (build.Fault(build.DOWN, build.DOWN + 5_200 * MS),)
    flows = [build.flow("east-west-udp", faults=faults), flow]
    if twin:
        flows.append(build.flow("east-west-tcp-fresh", protocol="tcp", session="fresh", faults=faults))
    made = new_document(run=build.RUN, flows=flows)
    assert laws(made) == []
    jsonschema.validate(made, json_schema(), cls=jsonschema.Draft202012Validator)
    return made


def printed(made: dict[str, Any], width: int = 140) -> str:
    out = StringIO()
    text.render(made, Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize(
    ("flow", "twin", "verdict"),
    [
        (stream(), False, "unaffected"),
        (stream(stall(7_900 * MS)), False, "survived"),
        (stream(stall(9 * S, censored="end")), False, "dark"),
        (stream(stall(9 * S, censored="end")), True, "lost"),
        (stream(stall(2 * S, censored="end"), end="rst", reconnected=True), True, "reset"),
        (stream(stall(9 * S, censored="end"), end="silent"), False, "dark"),
        (stream(stall(9 * S, censored="end"), end="silent", reconnected=True), False, "lost"),
    ],
)
def test_the_verdict_of_a_stream(flow: dict[str, Any], twin: bool, verdict: str) -> None:
    made = document(flow, twin=twin)
    assert made["matrix"]["east-west"]["stream"] == verdict
    assert "tcp" not in made["matrix"]["east-west"]


def test_the_report_sets_it_beside_the_packets_of_its_path() -> None:
    made = document(stream(stall(7_900 * MS)))
    words = "path dark 5.200 s, stream frozen 7.900 s, survived"
    assert f"east-west-stream: {words}" in printed(made)
    assert "sent again 5 times, RTO up to 3.200 s; 79 keystrokes waiting" in printed(made)
    assert words in html.render(made)
    events = [event["event"] for event in made["timeline"]]
    assert events.index("outage_start") < events.index("stall_start") < events.index("outage_end")
    assert "stall_end" in events


@pytest.mark.parametrize("width", [80, 140, 160])
def test_the_matrix_has_room_for_streams_on_any_terminal(width: int) -> None:
    drill = build.drill()
    flows = [*drill["flows"], stream(stall(7_900 * MS))]
    output = printed(new_document(run=drill["run"], flows=flows, timeline=build.events()), width)
    matrix = output[output.index("Verdicts") : output.index("Diagnosis")]
    assert "↻ survived 7.90 s" in matrix
    assert "…" not in matrix
    assert max(map(len, matrix.splitlines())) <= width


def test_a_stream_that_is_still_frozen_says_when_the_next_try_is() -> None:
    (told,) = say.frozen(document(stream(stall(9 * S, censored="end"))))
    assert "stream frozen > 9.000 s, dark" in told.text
    assert "still frozen" in told.stalls[0]
    assert "next try at" in told.stalls[0]


def test_a_new_session_is_told_of() -> None:
    (told,) = say.frozen(document(stream(end="rst", reconnected=True)))
    assert told.text.endswith(f"reset, a new one at {say.utc(build.ROUTE)}")


def test_a_stream_that_nothing_happened_to_needs_no_words() -> None:
    assert say.frozen(document(stream())) == []


@pytest.mark.parametrize(
    ("flows", "sentence"),
    [
        ([stream(stall(15 * S))], "1 of 1 flows froze, the longest 15.000 s; all answered again."),
        ([stream(stall(15 * S, censored="end"))], "1 of 1 flows froze, the longest > 15.000 s; 1 not back."),
        (
            [stream(stall(15 * S)), build.flow("u", faults=(build.Fault(build.DOWN, build.DOWN + S),))],
            "2 of 2 flows had an outage or froze, the longest 15.000 s; all answered again.",
        ),
    ],
)
def test_a_stream_that_froze_is_in_the_headline(flows: list[dict[str, Any]], sentence: str) -> None:
    assert say.headline(new_document(run={}, flows=flows))[1] == sentence


def test_where_a_stream_froze_nothing_says_that_there_was_no_outage() -> None:
    made = new_document(run=build.RUN, flows=[stream(stall(15 * S))])
    assert "No outage" not in printed(made) and "stream frozen 15.000 s" in printed(made)
    page = html.render(made)
    assert "No outage on any flow" not in page and "stream frozen 15.000 s" in page
    assert "No outage on any flow." in html.render(new_document(run=build.RUN, flows=[stream()]))


def test_a_budget_for_outages_does_not_meet_stalls() -> None:
    frozen, udp = stream(stall(7_900 * MS)), build.flow("u")
    assert [Budget("b").applies(flow) for flow in (frozen, udp)] == [False, True]
    assert [Budget("b", protocol="stream").applies(flow) for flow in (frozen, udp)] == [True, False]
    assert not Budget("b", protocol="tcp").applies(frozen)


def test_a_stall_that_ended_has_exact_bounds() -> None:
    limit = [Budget("b", protocol="stream", max_outage_ns=60 * S)]
    [back] = check([document(stream(stall(7_900 * MS)))], limit)
    assert back == {"name": "b", "limit": 60 * S, "value": 7_900 * MS, "ok": True}
    [still] = check([document(stream(stall(7_900 * MS, censored="end")))], limit)
    assert not still["ok"] and still["unbounded"] == ["workload-a/east-west-stream"]


def test_a_document_from_before_streams_is_read_as_it_was() -> None:
    made = document(stream(stall(7_900 * MS)))
    old = copy.deepcopy(made)
    old["flows"] = old["flows"][:1]
    assert say.frozen(old) == []
    assert "Streams" not in printed(old)
