"""Each diagnosis on the run it is for, and silent on the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from probe.core.diagnosis import RULES, Facts, diagnose, table_markdown
from probe.core.events import Counts, Outage, SessionEnd, TimelineEvent
from probe.core.verdict import FlowRecord

S = 1_000_000_000
T0 = 1_700_000_000 * S
END = T0 + 20 * S

CODES = [
    "failover_clean",
    "eip_routes_not_moved",
    "eip_moved_routes_not",
    "routes_moved_eip_not",
    "moved_but_ingress_dark",
    "sessions_not_synchronised",
    "nat_sessions_lost",
    "firewall_resets_sessions",
    "peer_resets_sessions",
    "second_failover",
    "one_direction_dark",
    "no_failover_seen",
    "probe_unreliable",
    "watcher_blind",
]


def at(seconds: float, event: str, source: Any = "lab", uncertainty_s: float = 0, **detail: Any) -> TimelineEvent:
    return TimelineEvent(T0 + round(seconds * S), source, event, round(uncertainty_s * S), detail)


def outage(end_s: float | None = 5, direction: Any = "round_trip", blind_s: float = 0) -> Outage:
    end = END if end_s is None else T0 + round(end_s * S)
    censored: Any = "end" if end_s is None else "no"
    first_ok = 0 if end_s is None else end
    length = end - T0
    return Outage(
        "f",
        1,
        direction,
        T0,
        end,
        T0 - 1,
        T0,
        end - 1,
        first_ok,
        length,
        length,
        length,
        9,
        1,
        9,
        censored,
        int(blind_s * S),
    )


TRIGGER = at(0, "trigger", kind="crash")
ROLE = at(4, "role_change", unit="fgt-b", role="primary")
EIP = at(4.6, "eip_moved", "aws", 0.1, address="203.0.113.10", allocation_id="eipalloc-1", to_unit="fgt-b")
ROUTE = at(5, "route_moved", "aws", 0.1, route_table="rtb-1", destination="0.0.0.0/0", to_unit="fgt-b")
GOOD = [TRIGGER, ROLE, EIP, ROUTE]


def call(operation: str, error: str = "", target: str = "x", seconds: float = 4.5) -> TimelineEvent:
    result = "error" if error else "ok"
    return at(seconds, "api_call", unit="fgt-b", operation=operation, target=target, result=result, error=error)


def flows(**verdicts: str) -> list[FlowRecord]:
    """`ingress_tcp="lost"`, `egress_udp_new="dark"`: all else survived."""
    made = []
    for path in ("east-west", "ingress", "egress"):
        for protocol in ("icmp", "udp", "tcp"):
            for session, suffix in (("kept", ""), ("fresh", "_new")):
                verdict: Any = verdicts.get(f"{path.replace('-', '')}_{protocol}{suffix}", "survived")
                stays = verdict in ("lost", "dark", "half", "reset")
                direction: Any = "forward" if verdict == "half" else "round_trip"
                hit = () if verdict in ("unaffected", "unobserved") else (outage(None if stays else 5, direction),)
                end = SessionEnd("f", "rst", T0 + 5 * S, "10.99.97.10", 63) if verdict == "reset" else None
                made.append(
                    FlowRecord(
                        f"{path}-{protocol}{suffix}",
                        protocol,  # type: ignore[arg-type]
                        session,  # type: ignore[arg-type]
                        path,
                        "agent",
                        outages=hit,
                        session_end=end,
                        verdict=verdict,
                    )
                )
    return made


def dark(*paths: str) -> dict[str, str]:
    return {f"{path}_{p}{new}": "dark" for path in paths for p in ("icmp", "udp", "tcp") for new in ("", "_new")}


def codes(
    measured: list[FlowRecord], events: list[TimelineEvent] = GOOD, *, trigger: bool = True, watched: Any = ("aws",)
) -> list[str]:
    return [d.code for d in found(measured, events, trigger=trigger, watched=watched)]


def found(
    measured: list[FlowRecord], events: list[TimelineEvent], *, trigger: bool = True, watched: Any = ("aws",)
) -> Any:
    return diagnose(
        Facts(measured, sorted(events, key=lambda e: e.at_ns), T0 if trigger else 0, frozenset(watched), END)
    )


NAT_LOST = {"ingress_tcp": "lost", "egress_tcp": "lost"}


def test_clean_failover_across_zones() -> None:
    assert codes(flows(**NAT_LOST)) == ["failover_clean", "nat_sessions_lost"]


def test_clean_failover_with_every_session_alive() -> None:
    assert codes(flows()) == ["failover_clean"]


def test_clean_without_any_view_of_ha() -> None:
    [clean] = found(flows(), [TRIGGER], watched=())
    assert clean.code == "failover_clean"
    assert "not observed" in clean.evidence[0]


def test_a_lost_session_without_a_fresh_twin_proves_no_path() -> None:
    alone = [f for f in flows(**NAT_LOST) if f.session == "kept"]
    assert codes(alone) == ["nat_sessions_lost"]


def test_nothing_happened() -> None:
    quiet = [replace(f, outages=(), verdict="unaffected") for f in flows()]
    assert codes(quiet, [TRIGGER]) == ["no_failover_seen"]
    assert codes(quiet, [], trigger=False) == []  # a plain measurement
    assert codes(quiet, GOOD) == ["failover_clean"]


def test_routes_to_different_units_explain_a_path_that_is_down() -> None:
    back = at(
        7, "route_moved", "aws", 0.1, route_table="rtb-1", destination="10.99.98.0/26", to_unit="fgt-a", from_unit=""
    )
    [finding] = found(flows(**dark("eastwest")), [*GOOD, back])
    assert finding.code == "one_direction_dark"
    assert finding.evidence[:2] == (
        "route 0.0.0.0/0 in rtb-1 leads to fgt-b",
        "route 10.99.98.0/26 in rtb-1 leads to fgt-a",
    )
    assert "agent/east-west-udp_new (east-west udp, fresh): dark" in finding.evidence
    assert codes(flows(), [*GOOD, back]) == ["failover_clean"], "nothing is down"
    assert codes(flows(**dark("eastwest")), GOOD) == [], "both ways lead to the new unit"
    mended = replace(back, at_ns=back.at_ns + S, detail={**back.detail, "to_unit": "fgt-b"})
    assert "one_direction_dark" not in codes(flows(**dark("eastwest")), [*GOOD, back, mended])


def test_loss_without_a_move_is_no_failover_where_somebody_has_looked() -> None:
    measured = [replace(f, counts=Counts(scheduled=400, sent=400, received=280, lost=120)) for f in flows()]
    [finding] = found(measured, [TRIGGER])
    assert finding.code == "no_failover_seen"
    assert finding.evidence[1] == "agent/east-west-icmp (east-west icmp): 120 of 400 probes lost (30%), 1 outages"
    assert codes(measured, [TRIGGER], watched=()) == ["failover_clean"], "nobody looked"
    blind = [at(1, "watcher_down", "aws", watcher="aws", reason="timeout"), at(3, "watcher_up", "aws", watcher="aws")]
    assert "no_failover_seen" not in codes(measured, [TRIGGER, *blind])
    assert codes(flows(**dark("ingress")), [TRIGGER]) == ["eip_routes_not_moved"], (
        "a path is down: something had to move"
    )


@pytest.mark.parametrize(
    ("verdicts", "events", "expected"),
    [
        (dark("eastwest", "ingress", "egress"), [TRIGGER, ROLE], ["eip_routes_not_moved"]),
        (
            dark("eastwest", "ingress", "egress"),
            [
                TRIGGER,
                ROLE,
                call("AssociateAddress", "UnauthorizedOperation"),
                call("ReplaceRoute", "UnauthorizedOperation"),
            ],
            ["eip_routes_not_moved"],
        ),
        (dark("eastwest", "egress"), [TRIGGER, ROLE, EIP], ["eip_moved_routes_not"]),
        (dark("ingress"), [TRIGGER, ROLE, ROUTE], ["routes_moved_eip_not"]),
        (dark("ingress"), GOOD, ["moved_but_ingress_dark"]),
        ({"eastwest_tcp": "lost"}, GOOD, ["sessions_not_synchronised"]),
        ({"eastwest_tcp": "reset"}, GOOD, ["firewall_resets_sessions"]),
        ({"eastwest_udp": "half"}, GOOD, ["one_direction_dark"]),
        (
            NAT_LOST,
            [*GOOD, at(12, "role_change", unit="fgt-a", role="primary")],
            ["second_failover", "nat_sessions_lost"],
        ),
        ({"eastwest_udp": "unobserved"}, GOOD, ["probe_unreliable"]),
    ],
)
def test_what_went_wrong(verdicts: dict[str, str], events: list[TimelineEvent], expected: list[str]) -> None:
    assert codes(flows(**verdicts), events) == expected


def test_refused_calls_are_told_with_the_error() -> None:
    events = [TRIGGER, ROLE, EIP, call("ReplaceRoute", "UnauthorizedOperation", "rtb-1 0.0.0.0/0")]
    by_code = {d.code: d for d in found(flows(**dark("eastwest", "egress")), events)}
    assert set(by_code) == {"eip_routes_not_moved", "eip_moved_routes_not"}
    assert "fgt-b: ReplaceRoute rtb-1 0.0.0.0/0: UnauthorizedOperation" in by_code["eip_routes_not_moved"].evidence


def test_a_refused_call_that_was_made_good_is_no_finding() -> None:
    retried = [call("ReplaceRoute", "RequestLimitExceeded", seconds=4.5), call("ReplaceRoute", seconds=4.8)]
    assert codes(flows(), [*GOOD, *retried]) == ["failover_clean"]


def test_not_moved_is_not_claimed_by_who_did_not_look() -> None:
    assert codes(flows(**dark("eastwest", "ingress", "egress")), [TRIGGER, ROLE], watched=()) == []


def test_an_election_before_the_trigger_is_no_second_failover() -> None:
    assert codes(flows(), [at(-8, "role_change", unit="fgt-a", role="primary"), *GOOD]) == ["failover_clean"]


def test_two_sources_telling_one_takeover_are_one() -> None:
    assert codes(flows(), [*GOOD, at(4.5, "role_change", "fortigate", 1, unit="fgt-b", role="primary")]) == [
        "failover_clean"
    ]


def test_a_blind_watcher_is_a_caveat_of_a_clean_failover() -> None:
    blind = [at(1, "watcher_down", "aws", watcher="aws", reason="timeout"), at(3, "watcher_up", "aws", watcher="aws")]
    [clean, caveat] = found(flows(), [*GOOD, *blind])
    assert (clean.code, caveat.code) == ("failover_clean", "watcher_blind")
    assert caveat.evidence == ("watcher aws: blind for 2.0 s of it (timeout)",)
    before = [at(-5, "watcher_down", "aws", watcher="aws"), at(-4, "watcher_up", "aws", watcher="aws")]
    assert codes(flows(), [*before, *GOOD]) == ["failover_clean"]


def test_our_own_stall_inside_an_outage_is_told() -> None:
    measured = flows()
    measured[0] = replace(measured[0], outages=(outage(5, blind_s=1),))
    [finding] = found(measured, GOOD)
    assert finding.code == "probe_unreliable"
    assert finding.evidence == ("agent/east-west-icmp: 1000 ms of an outage of 5000 ms are our own stalls or drops",)
    measured[0] = replace(measured[0], outages=(outage(5, blind_s=0.1),))
    assert codes(measured) == ["failover_clean"]


def ended(by: str, ttl: int, peer_ttl: int = 252, cause: str = "rst", address: str = "10.99.97.10") -> list[FlowRecord]:
    """A failover after which the east-west session was ended so."""
    end = SessionEnd("f", cause, T0 + 5 * S, address, ttl, peer_ttl, by)  # type: ignore[arg-type]
    return [replace(f, session_end=end) if f.verdict == "reset" else f for f in flows(eastwest_tcp="reset")]


def test_resets_name_who_sent_them() -> None:
    [finding] = found(ended("firewall", 63), GOOD)
    where = "agent/east-west-tcp (east-west): "
    assert finding.code == "firewall_resets_sessions"
    assert finding.evidence == (f"{where}RST from 10.99.97.10, TTL 63 (the far end's replies: 252): not the far end",)
    [finding] = found(ended("unknown", 63, 0), GOOD)
    assert finding.code == "firewall_resets_sessions"
    assert finding.evidence == (f"{where}RST from 10.99.97.10, TTL 63: whether of the far end is not known",)


def test_the_far_end_s_own_reset_is_not_the_firewall_s() -> None:
    [finding] = found(ended("peer", 61, cause="fin"), GOOD)
    assert finding.code == "peer_resets_sessions"
    [evidence] = finding.evidence
    assert evidence.endswith("TTL 61 (the far end's replies: 252): as many routers away as the far end")


def test_a_refusal_by_icmp_stands_beside_the_lost_session() -> None:
    end = SessionEnd("f", "icmp", T0 + 5 * S, "10.99.96.1", 63, 252, "firewall", 3, 13)
    lost = [replace(f, session_end=end) if f.verdict == "lost" else f for f in flows(eastwest_tcp="lost")]
    evidence = {d.code: d.evidence for d in found(lost, GOOD)}["sessions_not_synchronised"]
    assert evidence == ("agent/east-west-tcp (east-west tcp, kept): lost; ICMP type 3 code 13 from 10.99.96.1",)


def test_every_code_of_the_contract_has_a_rule() -> None:
    assert sorted(rule.code for rule in RULES) == sorted(CODES)
    assert all(rule.summary.endswith(".") for rule in RULES)
    assert all(f"`{code}`" in table_markdown() for code in CODES)


def test_a_takeover_and_a_refusal_told_by_lab_and_units_count_once() -> None:
    takeovers = [
        at(0.9, "role_change", "fortigate", 1, unit="fgt-a", role="primary"),  # an old one, told late and roughly
        at(1.0, "role_change", unit="fgt-b", role="primary"),
        at(1.1, "role_change", "fortigate", 0.2, unit="fgt-b", role="primary"),
    ]
    call = {"unit": "fgt-b", "operation": "ReplaceRoute", "target": "rtb-1 0.0.0.0/0", "result": "error", "error": "X"}
    calls = [at(2.0, "api_call", **call), at(2.1, "api_call", "fortigate", **call)]
    facts = Facts(flows=[], events=[*takeovers, *calls], trigger_ns=T0)
    assert [one.source for one in facts.takeovers] == ["lab"]
    assert [one.source for one in facts.refused] == ["lab"]


def test_one_silent_unit_does_not_make_its_watcher_blind() -> None:
    def down(seconds: float, *answering: str) -> TimelineEvent:
        detail = {"watcher": "fortigate", "reason": "x", "answering": list(answering)}
        return at(seconds, "watcher_down", "fortigate", **detail)

    def blind(*events: TimelineEvent) -> list[str]:
        facts = Facts(flows=flows(), events=[at(0, "trigger"), *events], trigger_ns=T0, end_ns=END)
        return [line for one in diagnose(facts) if one.code == "watcher_blind" for line in one.evidence]

    assert blind(down(1, "fgt-b")) == []
    (line,) = blind(down(1, "fgt-b"), down(3), at(4, "watcher_up", "fortigate", watcher="fortigate"))
    assert "blind for 1.0 s" in line, "only while neither unit answered"
