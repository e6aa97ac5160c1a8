"""The verdict table, row by row, and the reduction of a flow to its condition."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from probe.core import verdict
from probe.core.events import VERDICTS, Counts, Outage, SessionEnd, Unobserved
from probe.core.verdict import RULES, FlowRecord, condition, judge, judge_all, matrix, twins, worst

S = 1_000_000_000
T0 = 1_700_000_000 * S


def outage(start_s: float, end_s: float | None, direction: str = "round_trip", blind_s: float = 0) -> Outage:
    """An outage of a 1 ms flow; `end_s` None: still open at 20 s."""
    start, end = T0 + int(start_s * S), T0 + int((20 if end_s is None else end_s) * S)
    ms = 1_000_000
    return Outage(
        flow="f",
        id=1,
        direction=direction,  # type: ignore[arg-type]
        start_ns=start,
        end_ns=end,
        last_ok_ns=start - ms,
        first_lost_ns=start,
        last_lost_ns=end - ms if end_s else end,
        first_ok_ns=end if end_s else 0,
        lower_ns=end - ms - start,
        estimate_ns=end - start,
        upper_ns=end - start + ms,
        lost=(end - start) // ms,
        first_lost_seq=1000,
        last_lost_seq=1000 + (end - start) // ms - 1,
        censored="no" if end_s else "end",
        unobserved_ns=int(blind_s * S),
    )


def flow(*outages: Outage, name: str = "f", lost: int = 0, session: str = "kept", **more: Any) -> FlowRecord:
    lost += sum(o.lost for o in outages)
    counts = Counts(scheduled=20_000, sent=20_000, received=20_000 - lost, lost=lost, lost_unattributed=lost)
    fields: dict[str, Any] = {
        "name": name,
        "protocol": "udp",
        "session": session,
        "path": "east-west",
        "counts": counts,
    }
    return FlowRecord(**{**fields, "outages": outages, **more})


def ended(cause: str) -> SessionEnd:
    return SessionEnd("f", cause, T0 + 6 * S)  # type: ignore[arg-type]


FIVE = outage(5, 9)
OPEN = outage(5, None)
CLEAN_TWIN = flow(session="fresh", name="f-fresh")
BACK_TWIN = flow(FIVE, session="fresh", name="f-fresh")
DARK_TWIN = flow(OPEN, session="fresh", name="f-fresh")
HALF_TWIN = flow(outage(5, None, "reverse"), session="fresh", name="f-fresh")


@pytest.mark.parametrize(
    ("kept", "twin", "expected"),
    [
        (flow(), BACK_TWIN, "unaffected"),
        (flow(lost=2), BACK_TWIN, "unaffected"),  # two probes in 20,000: everyday noise
        (flow(FIVE), BACK_TWIN, "survived"),
        (flow(FIVE, outage(12, 13)), DARK_TWIN, "survived"),
        (flow(lost=400), None, "survived"),  # 2 % scattered loss is no outage, but not untouched either
        (flow(FIVE, rebound=True), BACK_TWIN, "rebound"),
        (flow(lost=2, rebound=True), BACK_TWIN, "rebound"),  # too short for an outage, yet another port ever since
        (flow(OPEN), BACK_TWIN, "lost"),
        (flow(OPEN), CLEAN_TWIN, "lost"),
        (flow(OPEN, rebound=True), CLEAN_TWIN, "lost"),  # it did not come back at all
        (flow(OPEN, session_end=ended("icmp")), BACK_TWIN, "lost"),
        (flow(OPEN, session_end=ended("silent")), BACK_TWIN, "lost"),
        (flow(OPEN, session_end=ended("rst")), BACK_TWIN, "reset"),
        (flow(OPEN, session_end=ended("fin")), DARK_TWIN, "reset"),
        (flow(OPEN), DARK_TWIN, "dark"),
        (flow(OPEN), None, "dark"),
        (flow(OPEN), HALF_TWIN, "half"),
        (flow(outage(5, None, "forward")), BACK_TWIN, "half"),
        (flow(outage(5, None, "reverse")), BACK_TWIN, "half"),
        (flow(outage(5, None, "forward"), outage(6, None, "reverse")), BACK_TWIN, "lost"),
    ],
)
def test_kept_flow(kept: FlowRecord, twin: FlowRecord | None, expected: str) -> None:
    assert judge(kept, twin) == expected


@pytest.mark.parametrize(
    ("fresh", "expected"),
    [(CLEAN_TWIN, "unaffected"), (BACK_TWIN, "survived"), (DARK_TWIN, "dark"), (HALF_TWIN, "half")],
)
def test_fresh_flow_is_judged_by_itself(fresh: FlowRecord, expected: str) -> None:
    assert judge(fresh, flow(FIVE)) == expected


def test_rst_answers_to_fresh_probes_are_no_reset_session() -> None:
    assert judge(replace(BACK_TWIN, session_end=ended("rst"))) == "survived"


def test_never_answered_is_dark_even_without_a_long_outage() -> None:
    counts = Counts(scheduled=2, sent=2, lost=2, lost_unattributed=2)
    assert condition(flow(counts=counts)) == "dark"


@pytest.mark.parametrize(
    "counts",
    [
        Counts(),
        Counts(scheduled=100, unsent=100),
        Counts(scheduled=100, sent=100, dropped_locally=100),
        Counts(scheduled=100, sent=100, pending=100),
    ],
)
def test_nothing_settled_is_unobserved(counts: Counts) -> None:
    assert judge(flow(counts=counts)) == "unobserved"


def test_a_stall_over_the_incident_forbids_unaffected() -> None:
    incident = (T0 + 5 * S, T0 + 9 * S)
    stalled = flow(unobserved=(Unobserved("f", T0 + 5 * S, T0 + 8 * S, "stall"),))
    elsewhere = flow(unobserved=(Unobserved("f", T0 + 11 * S, T0 + 14 * S, "stall"),))
    assert judge(stalled, incident=incident) == "unobserved"
    assert judge(elsewhere, incident=incident) == "unaffected"


def test_an_open_outage_that_is_mostly_our_own_stall_says_nothing() -> None:
    assert judge(flow(outage(5, None, blind_s=10))) == "unobserved"
    assert judge(flow(outage(5, None, blind_s=1))) == "dark"


def test_every_input_has_a_verdict_and_every_rule_is_reachable() -> None:
    conditions = list(verdict.CONDITIONS)
    hit = set()
    for own, end, twin, rebound in itertools.product(
        conditions, ("none", "silent", "icmp", "rst", "fin"), [*conditions, "none"], (False, True)
    ):
        matching = [i for i, rule in enumerate(RULES) if rule.matches(own, end, twin, rebound)]
        assert matching, (own, end, twin, rebound)
        hit.add(matching[0])
    assert hit == set(range(len(RULES)))
    assert {rule.verdict for rule in RULES} == set(VERDICTS)


def test_twins_by_name_first_then_by_kind() -> None:
    flows = [
        flow(name="a", target="x"),
        flow(name="a-fresh", target="x", session="fresh"),
        flow(name="b", target="x"),
        flow(name="c", target="y", session="fresh"),
        flow(name="d", target="y"),
        flow(name="a-fresh", target="x", session="fresh", agent="other"),
    ]
    # b has no b-fresh; a-fresh of the same agent probes the same target in the same way.
    assert twins(flows) == {0: 1, 1: 0, 2: 1, 3: 4, 4: 3}


def test_matrix_shows_the_worst_and_calls_new_sessions_recovered() -> None:
    flows = judge_all(
        [
            flow(FIVE, name="a"),
            flow(FIVE, name="a-fresh", session="fresh"),
            flow(OPEN, name="b"),
            flow(name="b-fresh", session="fresh"),
            flow(name="icmp", protocol="icmp", path="egress"),
        ]
    )
    assert matrix(flows) == {"east-west": {"udp": "lost", "udp-new": "recovered"}, "egress": {"icmp": "unaffected"}}


def test_worst_knows_every_verdict() -> None:
    assert {worst([v]) for v in VERDICTS} == set(VERDICTS)
    assert worst(["survived", "half", "unaffected"]) == "half"


def test_table_in_the_docs_has_every_rule() -> None:
    table = verdict.table_markdown()
    assert all(rule.because in table for rule in RULES)


# --- from one verdict to another -------------------------------------------------------------------------------------


def test_the_drawing_has_every_verdict_and_happening_and_no_way_out_of_reset() -> None:
    lines = [line.strip() for line in verdict.machine_mermaid().splitlines()[1:]]
    assert lines[0] == "[*] --> unaffected"
    edges = {tuple(line.partition(":")[0].split(" --> ")): line.partition(": ")[2].split(" or ") for line in lines[1:]}
    assert {end for edge in edges for end in edge} == set(VERDICTS)
    assert not any(one == "reset" for one, _ in edges)
    told = {word for words in edges.values() for word in words}
    assert {h.what.replace("RST or FIN", "RST") for h in verdict.HAPPENINGS} <= told
    # By hand: what a failover does to an old session whose state was not synchronised, and then to one that was.
    assert edges["unaffected", "lost"] == ["silence"]
    assert edges["lost", "dark"] == ["new sessions fail"]
    assert edges["dark", "lost"] == ["new sessions work"]
    assert edges["dark", "survived"] == ["answered again"]
    assert "another translation" in edges["dark", "rebound"]
    assert ("survived", "unaffected") not in edges


# --- when a session worked again -------------------------------------------------------------------------------------


def again(kept: FlowRecord, *fresh: Outage, **more: Any) -> float | None:
    """Seconds from T0; the fresh twin had these outages."""
    twin = flow(*fresh, session="fresh", name="f-fresh", **more)
    told, of_twin = verdict.again_all([kept, twin])
    assert of_twin is None
    return None if told is None else (told - T0) / S


LOST = flow(OPEN, session_end=SessionEnd("f", "silent", T0 + 5 * S))
RESET = flow(OPEN, session_end=SessionEnd("f", "rst", T0 + 9 * S + 2_000_000))


def test_new_sessions_worked_again_when_the_twin_did() -> None:
    assert again(LOST, FIVE) == 9
    assert again(RESET, FIVE) == 9  # a moment before the old one was told so
    assert again(LOST, outage(5.003, 9)) == 9  # its next probe came a little later
    flaps = [replace(o, episode=n) for n, o in enumerate((outage(1, 2), FIVE, outage(15, 16)), 1)]
    assert again(LOST, *flaps) == 9
    assert again(LOST) == 5  # new ones always worked
    assert again(flow(session_end=SessionEnd("f", "rst", T0 + 6 * S))) == 6


def test_all_of_an_episode_must_be_over() -> None:
    forward, reverse = outage(5, 7, "forward"), outage(7, 9, "reverse")
    assert again(LOST, replace(forward, episode=1), replace(reverse, episode=1)) == 9
    assert again(LOST, replace(forward, episode=1), replace(outage(7, None, "reverse"), episode=1)) is None
    assert again(LOST, replace(forward, episode=1), replace(outage(15, 16), episode=2)) == 7


def test_what_is_not_known_is_not_told() -> None:
    assert again(LOST, OPEN) is None
    assert again(LOST, counts=Counts(scheduled=10, sent=10, lost=10, lost_unattributed=10)) is None
    assert again(flow(OPEN), FIVE) is None  # nothing ended
    assert verdict.again_all([LOST]) == [None]
    renewed = replace(LOST, session_end=replace(LOST.session_end, again_ns=T0 + 8 * S))
    assert again(renewed, FIVE) == 8 and verdict.again_all([renewed]) == [T0 + 8 * S]
