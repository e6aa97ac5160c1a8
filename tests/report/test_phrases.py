"""Figures and words."""

from __future__ import annotations

from typing import Any

import pytest

from probe.core.events import VERDICTS
from probe.report import phrases as say
from probe.report.document import new_document

from . import build


@pytest.mark.parametrize(
    ("ns", "long", "short"),
    [
        (0, "0", "0.00 µs"),
        (812_000, "812 µs", "812 µs"),
        (34_000_000, "34.0 ms", "34.0 ms"),
        (5_064_629_000, "5.065 s", "5.06 s"),
        (61_500_000_000, "61.500 s", "61.5 s"),
        (182_000_000_000, "3 min 02.0 s", "182 s"),
        (179_970_000_000, "3 min 00.0 s", "180 s"),
        (-182_000_000_000, "-3 min 02.0 s", "-182 s"),
    ],
)
def test_durations(ns: int, long: str, short: str) -> None:
    assert (say.duration(ns), say.brief(ns)) == (long, short)


def test_instants() -> None:
    assert say.utc(build.START + 5_012_999_999) == "12:00:05.012"  # down, as clocks are read
    assert say.utc(build.START, date=True) == "2025-12-03 12:00:00.000"
    assert say.relative(build.START, build.TRIGGER) == "-5.012 s"


def test_forward_then_reverse_is_one_absence() -> None:
    flow = build.flow("a", faults=build.path_faults("ingress"))
    assert say.away(flow).ns == flow["outages"][1]["end_ns"] - flow["outages"][0]["start_ns"]
    apart = build.flow("b", faults=(build.Fault(build.DOWN, build.EIP), build.Fault(build.ROUTE, build.ROUTE_2)))
    assert say.away(apart).ns == apart["outages"][0]["end_ns"] - apart["outages"][0]["start_ns"]


def test_an_absence_without_end_is_the_one_to_tell() -> None:
    flow = build.flow("a", faults=(build.Fault(build.DOWN, build.EIP), build.Fault(build.END - build.S, None)))
    assert say.away(flow).still
    assert str(say.away(flow)) == "> 998.0 ms"


def test_an_absence_has_the_bounds_of_its_outer_probes() -> None:
    flow = build.flow("a", faults=build.path_faults("ingress"))
    first, last = (outage["edges_ns"] for outage in flow["outages"])
    away = say.away(flow)
    assert away.lower_ns == last["last_lost"] - first["first_lost"]
    assert away.upper_ns == last["first_ok"] - first["last_ok"]
    still = say.away(build.flow("b", faults=(build.Fault(build.DOWN, None),)))
    assert (still.lower_ns, still.upper_ns) == (still.ns, None)


def test_every_verdict_has_its_symbol() -> None:
    assert set(say.VERDICTS) == {*VERDICTS, "recovered"}
    symbols = [symbol for word, (symbol, _, _) in say.VERDICTS.items() if word != "recovered"]
    assert len(set(symbols)) == len(symbols)


def test_an_event_of_a_newer_version_is_told_by_its_detail() -> None:
    event = {"event": "moon_phase", "detail": {"phase": "full", "list": [1]}}
    assert say.describe(event) == "moon phase: phase full"


@pytest.mark.parametrize(
    ("flows", "sentence"),
    [
        ([build.flow("a")], "No outage on any flow."),
        (
            [build.flow("a"), build.flow("b", faults=(build.Fault(build.DOWN, build.EIP),))],
            "1 of 2 flows had an outage, the longest 4.654 s; all answered again.",
        ),
        (
            [build.flow("a", faults=(build.Fault(build.END - build.S, None),))],
            "1 of 1 flows had an outage, the longest > 998.0 ms; 1 not back.",
        ),
        ([], "Nothing was measured."),
    ],
)
def test_headline_of_a_plain_measurement(flows: list[dict[str, Any]], sentence: str) -> None:
    assert say.headline(new_document(run={}, flows=flows))[1] == sentence


@pytest.mark.parametrize(
    ("event", "detail", "words"),
    [
        ("role_change", {"unit": "b", "role": "primary", "via": "awsd"}, "b becomes primary (says awsd)"),
        ("primary_selected", {"unit": "b", "reason": "it is alone"}, "b is primary because it is alone"),
        ("ha_history", {"unit": "b", "text": "lost a peer"}, "HA history of b: lost a peer"),
        ("awsd_error", {"unit": "b", "error": "403 X"}, "awsd of b was refused: 403 X"),
        ("api_call", {"unit": "b", "operation": "X", "result": "unconfirmed"}, "b calls X: unconfirmed"),
        (
            "watcher_down",
            {"watcher": "fortigate", "answering": ["b"], "reason": "a: timeout"},
            "watcher fortigate hears b alone: a: timeout",
        ),
        (
            "watcher_down",
            {"watcher": "fortigate", "answering": [], "reason": "a: x; b: y"},
            "watcher fortigate blind: a: x; b: y",
        ),
    ],
)
def test_what_the_units_tell(event: str, detail: dict[str, Any], words: str) -> None:
    assert say.describe({"event": event, "detail": detail}) == words


@pytest.mark.parametrize("event", ["watcher_down", "watcher_up"])
def test_a_watcher_is_told_with_its_agent_where_there_are_several(event: str) -> None:
    detail = {"watcher": "aws", "agent": "jumphost", "reason": "timeout"}
    word = "blind" if event == "watcher_down" else "sees again"
    assert say.describe({"event": event, "detail": detail}) == f"watcher aws of jumphost {word}: timeout"
    some = {"event": "watcher_down", "detail": {**detail, "answering": ["b"]}}
    assert say.describe(some) == "watcher aws of jumphost hears b alone: timeout"


def test_flows_of_several_agents_are_counted_and_named_apart() -> None:
    document = build.alike()
    assert [line.text for line in say.timeline_lines(document)] == [
        "loss begins (round trip) on 4 of 4 flows: a/u(-fresh), b/u(-fresh)",
        "loss ends (round trip) on 4 of 4 flows: a/u(-fresh), b/u(-fresh)",
    ]
    one = new_document(run=build.RUN, flows=document["flows"][:2])
    assert say.timeline_lines(one)[0].text == "loss begins (round trip) on 2 of 2 flows: u(-fresh)"


@pytest.mark.parametrize("event", ["session_end", "stall_start", "stall_end"])
def test_an_event_of_one_flow_names_its_agent_where_that_matters(event: str) -> None:
    document = build.alike()
    told = {"event": event, "at_ns": build.DOWN, "uncertainty_ns": 0, "source": "probe"}
    document["timeline"] = [{**told, "detail": {"flow": "u", "agent": "b", "cause": "rst"}}]
    assert say.timeline_lines(document)[0].text.startswith("b/u: ")
    document["flows"] = document["flows"][:2]
    assert say.timeline_lines(document)[0].text.startswith("u: ")


def test_an_end_by_somebody_whom_this_version_does_not_know() -> None:
    detail = {"flow": "a", "cause": "rst", "from": "10.0.0.1", "ttl": 3, "by": "proxy"}
    said = say.describe({"event": "session_end", "detail": detail})
    assert said == "a: session ended (rst from 10.0.0.1, TTL 3: by whom is not known)"


def test_what_is_unknown_of_an_event_may_be_null() -> None:
    for name in ("two_primaries", "cut", "sessions", "session_end", "watcher_down", "signals_disagree"):
        keys = ("units", "ended_before_ns", "began_after_ns", "flows", "from", "answering", "last_answer_ns", "signals")
        assert say.describe({"event": name, "at_ns": 1, "detail": dict.fromkeys(keys)})
    blind = [{"event": "watcher_down", "detail": {"watcher": name}} for name in (None, "aws")]
    (told,) = say.phase_gaps({"timeline": blind, "phases": build.drill()["phases"][1:]})
    assert "(blind for some time: ?, aws)" in told


def test_a_cut_of_the_lab_is_told_with_its_length() -> None:
    names = ("began_after_ns", "began_before_ns", "ended_after_ns", "ended_before_ns")
    detail = {"towards": "workload-b", **dict(zip(names, (0, 1_000_000, 39_000_000, 40_000_000), strict=True))}
    said = say.describe({"source": "lab", "event": "cut", "detail": detail})
    assert said == "all packets to workload-b are dropped on the way for 40.0 ms"
