"""Each diagnosis on the run it is for, and silent on the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from probe.core.diagnosis import RULES, diagnose, table_markdown
from probe.core.events import Counts, Outage, SessionEnd, StallRecord, TimelineEvent
from probe.core.facts import Facts
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
    "split_brain",  # ours
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


def codes(measured: list[FlowRecord], events: list[TimelineEvent] = GOOD, **more: Any) -> list[str]:
    return [d.code for d in found(measured, events, **more)]


def found(
    measured: list[FlowRecord],
    events: list[TimelineEvent],
    *,
    trigger: bool = True,
    watched: Any = ("aws",),
    unwatched: Any = (),
    watchers: int = 1,
) -> Any:
    ordered = sorted(events, key=lambda e: e.at_ns)
    count = dict.fromkeys(watched, watchers)
    since_ns = T0 if trigger else 0
    return diagnose(Facts(measured, ordered, since_ns, frozenset(watched), END, frozenset(unwatched), count))


NAT_LOST = {"ingress_tcp": "lost", "egress_tcp": "lost"}


def test_clean_failover_across_zones() -> None:
    assert codes(flows(**NAT_LOST)) == ["failover_clean", "nat_sessions_lost"]


def test_clean_failover_with_every_session_alive() -> None:
    assert codes(flows()) == ["failover_clean"]


def test_clean_without_any_view_of_ha() -> None:
    [clean] = found(flows(), [TRIGGER], watched=())
    assert clean.code == "failover_clean"
    assert "not observed" in clean.evidence[0]


def test_a_path_of_any_name_on_which_a_session_came_back_translated_passes_a_nat() -> None:
    def lost_of(*measured: FlowRecord) -> set[str]:
        return {code for code in codes(list(measured)) if code.endswith(("_lost", "_synchronised"))}

    gone = replace(next(f for f in flows(eastwest_tcp="lost") if f.verdict == "lost"), path="default")
    back = replace(gone, name="udp", protocol="udp", verdict="rebound")
    assert lost_of(gone, back) == {"nat_sessions_lost"}
    assert lost_of(gone) == {"sessions_not_synchronised"}
    assert lost_of(gone, back, replace(gone, agent="another")) == {"nat_sessions_lost", "sessions_not_synchronised"}


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
    pointing = {"eip 203.0.113.10": "fgt-b", "route rtb-1 0.0.0.0/0": "fgt-b", "route rtb-1 10.99.98.0/26": "fgt-a"}
    seen = at(7, "signals_disagree", "aws", 0.1, signals=pointing)
    assert codes(flows(**dark("eastwest")), [*GOOD, back, seen]) == ["one_direction_dark"], "what is new was not left"
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


def test_refused_calls_are_told_with_the_error_and_what_to_do_about_it() -> None:
    events = [TRIGGER, ROLE, EIP, call("ReplaceRoute", "UnauthorizedOperation", "rtb-1 0.0.0.0/0")]
    [finding] = found(flows(**dark("eastwest", "egress")), events)
    assert finding.code == "eip_moved_routes_not"
    assert "fgt-b: ReplaceRoute rtb-1 0.0.0.0/0: UnauthorizedOperation" in finding.evidence
    assert finding.summary.endswith("The unit's role may not make these calls.")
    assert "simulate-principal-policy" in finding.check_first[0]


@pytest.mark.parametrize(
    ("error", "cause", "check"),
    [
        ("403 UnauthorizedOperation", "role may not", "policies of the instance's role"),
        ("RequestLimitExceeded", "budget", "Who else calls EC2"),
        ("dns", "cannot resolve", "show system dns"),
        ("timeout", "did not answer", "management interface to the EC2 API"),
        ("no answer from the API", "did not answer", "management interface to the EC2 API"),
        ("Gibberish", "did not move", "diagnose debug application awsd -1"),
    ],
)
def test_each_kind_of_error_has_its_own_first_check(error: str, cause: str, check: str) -> None:
    everything = flows(**dark("eastwest", "ingress", "egress"))
    [finding] = found(everything, [TRIGGER, ROLE, call("DescribeInstances", error)])
    assert finding.code == "eip_routes_not_moved"
    assert cause in finding.summary
    assert check in finding.check_first[0]


def disagree(**signals: str) -> TimelineEvent:
    names = {"eip": "eip 203.0.113.10", "transit": "route rtb-1 0.0.0.0/0", "other": "route rtb-2 0.0.0.0/0"}
    agreed = len(set(signals.values())) == 1
    said = {names[key]: unit for key, unit in signals.items()}
    return at(5.5, "signals_agree" if agreed else "signals_disagree", "aws", 0.1, signals=said)


def test_one_table_of_two_left_behind_is_named() -> None:
    events = [*GOOD, disagree(eip="fgt-b", transit="fgt-b", other="fgt-a")]
    [finding] = found(flows(**dark("egress")), events)
    assert finding.code == "eip_moved_routes_not"
    assert "route rtb-2 0.0.0.0/0 still points at fgt-a, not at fgt-b" in finding.evidence
    assert any(line.startswith("route moved: rtb-1") for line in finding.evidence)


def test_an_elastic_ip_left_behind_is_named() -> None:
    [finding] = found(flows(**dark("ingress")), [TRIGGER, ROLE, ROUTE, disagree(eip="fgt-a", transit="fgt-b")])
    assert finding.code == "routes_moved_eip_not"
    assert "eip 203.0.113.10 still points at fgt-a, not at fgt-b" in finding.evidence


def test_something_of_each_left_behind_is_neither_side_moved() -> None:
    events = [*GOOD, disagree(eip="fgt-a", transit="fgt-b", other="fgt-a")]
    assert codes(flows(**dark("ingress", "egress")), events) == ["eip_routes_not_moved"]


def test_what_moves_after_the_signals_were_told_is_not_left_behind() -> None:
    """They are told when they begin to disagree, and not again while they do."""
    names = {"eip 203.0.113.10": "fgt-b", "eip 203.0.113.11": "fgt-a", "route rtb-1 0.0.0.0/0": "fgt-a"}
    told = at(4.6, "signals_disagree", "aws", 0.1, signals=names)
    [finding] = found(flows(**dark("ingress")), [TRIGGER, ROLE, EIP, told, ROUTE])
    assert finding.code == "routes_moved_eip_not"
    left = [line for line in finding.evidence if "points at" in line]
    assert left == ["eip 203.0.113.11 still points at fgt-a, not at fgt-b"]


def test_what_is_left_behind_is_named_also_where_nobody_saw_the_roles() -> None:
    events = [TRIGGER, EIP, ROUTE, disagree(eip="fgt-b", transit="fgt-b", other="fgt-a")]
    [finding] = found(flows(**dark("egress")), events)
    assert finding.code == "eip_moved_routes_not"
    assert "route rtb-2 0.0.0.0/0 still points at fgt-a, not at fgt-b" in finding.evidence
    assert codes(flows(), events, watched=BOTH) == ["failover_clean"], "no unit took over: somebody moved the rest"
    silent = at(1, "watcher_down", "fortigate", watcher="fortigate", reason="timeout", last_answer_ns=T0)
    assert codes(flows(**dark("egress")), [*events, silent], watched=BOTH)[0] == "eip_moved_routes_not"


def test_a_role_that_was_polled_late_does_not_undo_the_takeover_that_the_lab_tells() -> None:
    late = at(4.5, "role_change", "fortigate", 2, unit="fgt-b", role="secondary")
    events = [*GOOD, late, disagree(eip="fgt-b", transit="fgt-b", other="fgt-a")]
    assert codes(flows(**dark("egress")), events) == ["eip_moved_routes_not"]


def test_what_was_taken_away_and_given_to_nobody_has_not_moved() -> None:
    gone = moved(4.4, "", **ADDRESS, **{"from": "eni-a1", "to": ""})
    for events in ([TRIGGER, gone, ROUTE], [TRIGGER, ROLE, gone, ROUTE]):
        [finding] = found(flows(**dark("ingress")), events)
        assert finding.code == "routes_moved_eip_not"
        assert "eip 203.0.113.10 points at no unit, not at fgt-b" in finding.evidence
    back = moved(4.6, "fgt-b", "", **ADDRESS, **{"from": "", "to": "eni-b1"})
    assert codes(flows(), [TRIGGER, ROLE, gone, back, ROUTE]) == ["failover_clean"]
    assert codes(flows(**dark("ingress")), [TRIGGER, gone, back, ROUTE]) == ["moved_but_ingress_dark"]
    returned = moved(4.6, "fgt-a", "", **ADDRESS, **{"from": "", "to": "eni-a1"})
    [finding] = found(flows(**dark("ingress")), [TRIGGER, ROLE, gone, returned, ROUTE])
    assert "eip 203.0.113.10 still points at fgt-a, not at fgt-b" in finding.evidence


def test_routes_of_another_appliance_are_not_left_behind() -> None:
    other = moved(4.7, "", "", route_table="rtb-2", destination="10.50.0.0/16", **{"from": "eni-x", "to": "eni-y"})
    assert codes(flows(), [*GOOD, other]) == ["failover_clean"]


@pytest.mark.parametrize(
    "events",
    [
        [disagree(eip="fgt-b", transit="fgt-b")],
        [disagree(eip="other-name", transit="old-name")],  # another watcher's names: nothing can be concluded
        [disagree(eip="fgt-b", transit="fgt-a"), at(6, "watcher_down", "aws", watcher="aws")],  # an old picture
    ],
)
def test_what_is_not_known_to_be_left_behind_is_not_claimed_to_be(events: list[TimelineEvent]) -> None:
    assert "failover_clean" in codes(flows(), [*GOOD, *events])


def test_both_units_primary_is_the_first_thing_to_know() -> None:
    lost = at(4, "heartbeat_lost", unit="fgt-a", peer="fgt-b")
    assert codes(flows(**NAT_LOST), [*GOOD, lost]) == ["split_brain", "nat_sessions_lost"]
    seen = at(6, "two_primaries", "fortigate", 0.5, units=["fgt-a", "fgt-b"])
    [finding] = found(flows(), [*GOOD, seen])
    assert "+6.0 s: fgt-a and fgt-b answer as primary at the same time" in finding.evidence


def test_an_old_primary_that_stepped_down_or_died_is_no_split() -> None:
    lost = at(3.9, "heartbeat_lost", unit="fgt-b", peer="fgt-a")  # the taker's own: a crash
    assert codes(flows(), [*GOOD, lost]) == ["failover_clean"]
    healed = [at(4, "heartbeat_lost", unit="fgt-a"), at(4.1, "role_change", unit="fgt-a", role="secondary")]
    assert codes(flows(), [*GOOD, *healed]) == ["failover_clean"]


def test_a_refusal_that_the_cloud_contradicts_is_shown_as_a_conflict() -> None:
    """The answer was lost, the call was not: the address moved."""
    [finding] = found(flows(), [*GOOD, call("AssociateAddress", "timeout", "203.0.113.10")])
    assert finding.code == "failover_clean"
    assert finding.evidence[-1] == (
        "conflict: fgt-b: AssociateAddress 203.0.113.10: timeout, yet the cloud shows it moved"
    )


def test_sources_that_tell_one_call_differently_are_both_shown() -> None:
    told = {"unit": "fgt-b", "operation": "ReplaceRoute", "target": "rtb-1 0.0.0.0/0"}
    events = [
        at(4.8, "api_call", "fortigate", 0.1, **told, result="ok", via="awsd"),
        at(4.8, "api_call", "aws", 0.5, **told, result="error", error="UnauthorizedOperation", via="cloudtrail"),
    ]
    [finding] = found(flows(), [*GOOD, *events])
    assert any(line.startswith("conflict: ReplaceRoute rtb-1 0.0.0.0/0: awsd: ok") for line in finding.evidence)


def test_a_second_takeover_is_told_with_its_reason() -> None:
    back = at(12, "role_change", unit="fgt-a", role="primary", reason="its override priority is larger")
    [finding] = found(flows(), [*GOOD, back])
    assert finding.code == "second_failover"
    assert finding.evidence[-1] == "fgt-a became primary +8.0 s after the first: its override priority is larger"


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
    late = at(3, "watcher_down", "aws", watcher="aws", reason="timeout", last_success_ns=T0 + S)  # told by its timeout
    [_, caveat] = found(flows(), [*GOOD, late, at(4, "watcher_up", "aws", watcher="aws")])
    assert caveat.evidence == ("watcher aws: blind for 3.0 s of it (timeout)",)
    before = [at(-5, "watcher_down", "aws", watcher="aws"), at(-4, "watcher_up", "aws", watcher="aws")]
    assert codes(flows(), [*before, *GOOD]) == ["failover_clean"]


BOTH = ("aws", "fortigate")
EVERYTHING = dark("eastwest", "ingress", "egress")


def down(seconds: float, success_s: float | None = None, **more: Any) -> TimelineEvent:
    """The AWS watcher goes blind; its last answer was at `success_s`, None: it has had none yet."""
    last_ns = 0 if success_s is None else T0 + round(success_s * S)
    return at(seconds, "watcher_down", "aws", watcher="aws", reason="timeout", last_success_ns=last_ns, **more)


def up(seconds: float, **more: Any) -> TimelineEvent:
    return at(seconds, "watcher_up", "aws", watcher="aws", **more)


@pytest.mark.parametrize(
    "turns", [[down(-5)], [down(-5), up(8)], [down(2, 1.5)]], ids=["never answered", "answered afterwards", "cut off"]
)
def test_a_blind_watcher_does_not_say_that_nothing_moved(turns: list[TimelineEvent]) -> None:
    assert codes(flows(), [TRIGGER, ROLE, *turns], watched=BOTH) == ["failover_clean", "watcher_blind"]
    assert codes(flows(**EVERYTHING), [TRIGGER, ROLE, *turns], watched=BOTH) == ["watcher_blind"]


def test_a_watcher_that_compares_again_says_that_nothing_moved() -> None:
    again = [TRIGGER, ROLE, down(2, 1.5), up(8)]
    assert codes(flows(**EVERYTHING), again, watched=BOTH) == ["eip_routes_not_moved", "watcher_blind"]
    long_ago = [TRIGGER, ROLE, down(-9), up(-5)]
    assert codes(flows(**EVERYTHING), long_ago, watched=BOTH) == ["eip_routes_not_moved"]


def test_who_went_blind_after_the_first_move_does_not_deny_the_others() -> None:
    blind = [TRIGGER, ROLE, down(4.8, 4.7)]
    assert codes(flows(**dark("egress")), [*blind, EIP], watched=BOTH) == ["watcher_blind"]
    assert codes(flows(**dark("ingress")), [*blind, ROUTE], watched=BOTH) == ["watcher_blind"]
    refused = call("ReplaceRoute", "UnauthorizedOperation", seconds=5)
    assert codes(flows(**dark("egress")), [*blind, EIP, refused], watched=BOTH)[0] == "eip_moved_routes_not"


def test_ha_is_unknown_only_while_every_agent_s_watcher_is_blind() -> None:
    cut_off = down(1, 0.5, agent="jump")
    assert codes(flows(), [*GOOD, cut_off], watchers=2) == ["failover_clean"]
    assert codes(flows(**EVERYTHING), [TRIGGER, ROLE, cut_off], watchers=2) == ["eip_routes_not_moved"]
    assert codes(flows(), [*GOOD, cut_off], watchers=1) == ["failover_clean", "watcher_blind"]
    [_, caveat] = found(flows(), [*GOOD, cut_off, down(3, agent="wl"), up(4.5, agent="wl")], watchers=2)
    assert caveat.evidence == ("watcher aws: blind for 1.5 s of it (timeout)",), "what both have in common"


def test_our_own_stall_inside_an_outage_is_told() -> None:
    measured = flows()
    measured[0] = replace(measured[0], outages=(outage(5, blind_s=1),))
    [clean, finding] = found(measured, GOOD)
    assert (clean.code, finding.code) == ("failover_clean", "probe_unreliable")
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


def test_a_reset_of_unknown_origin_is_put_down_to_who_alone_sent_the_others() -> None:
    [one, *_] = [f for f in ended("unknown", 0, 0) if f.verdict == "reset"]
    stream = replace(one, name="stream")
    for others, code in (("peer", "peer_resets_sessions"), ("firewall", "firewall_resets_sessions")):
        [finding] = found([*ended(others, 61), stream], GOOD)
        assert finding.code == code and len(finding.evidence) == 2
    both = [*ended("peer", 61), *(replace(f, name="by a firewall") for f in ended("firewall", 63)), stream]
    evidence = {one.code: len(one.evidence) for one in found(both, GOOD)}
    assert evidence == {"firewall_resets_sessions": 2, "peer_resets_sessions": 1}


def test_a_refusal_by_icmp_stands_beside_the_lost_session() -> None:
    end = SessionEnd("f", "icmp", T0 + 5 * S, "10.99.96.1", 63, 252, "firewall", 3, 13)
    lost = [replace(f, session_end=end) if f.verdict == "lost" else f for f in flows(eastwest_tcp="lost")]
    evidence = {d.code: d.evidence for d in found(lost, GOOD)}["sessions_not_synchronised"]
    assert evidence == (
        "agent/east-west-tcp (east-west tcp, kept): lost; ICMP prohibited (type 3 code 13) from 10.99.96.1",
    )


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


def test_loss_is_put_down_to_another_cause_only_by_who_would_have_seen_a_failover() -> None:
    assert codes(flows(), [TRIGGER], unwatched=("Address", "Route")) == ["failover_clean"], "it watches instances"
    assert codes(flows(), [TRIGGER], unwatched=("Route",)) == ["no_failover_seen"]
    assert codes(flows(), [TRIGGER], watched=BOTH, unwatched=("Address", "Route")) == ["no_failover_seen"]


def stream(path: str, stall_s: float = 9) -> FlowRecord:
    stalls = (StallRecord(T0 + S, T0 + S + round(stall_s * S)),)
    return FlowRecord("stream", "tcp", "kept", path, "agent", stack="kernel", stalls=stalls, verdict="survived")


def test_the_stalls_of_streams_are_an_incident_where_no_packets_tell() -> None:
    [clean] = found([stream("egress")], [TRIGGER], watched=())
    assert clean.code == "failover_clean"
    [other] = found([stream("egress")], [TRIGGER], watched=BOTH)
    assert other.code == "no_failover_seen"
    assert other.evidence[1] == "agent/stream (egress stream): 1 stalls, up to 9.0 s"
    quiet = [replace(f, outages=(), verdict="unaffected") for f in flows()]
    [nothing] = found([*quiet, stream("egress")], [TRIGGER], watched=())
    assert nothing.code == "no_failover_seen", "packets went through all the time"
    elsewhere = [f for f in quiet if f.path == "east-west"]
    assert codes([*elsewhere, stream("egress")], [TRIGGER], watched=()) == ["failover_clean"]


def only(*names: str, **verdicts: str) -> list[FlowRecord]:
    return [f for f in flows(**verdicts) if f.name in names]


def test_an_old_tcp_session_alone_does_not_show_that_new_ones_fail() -> None:
    rest = ("ingress-icmp_new", "east-west-tcp_new")
    assert codes(only("ingress-tcp", *rest, ingress_tcp="dark")) == ["nat_sessions_lost"]
    behind = only("ingress-icmp_new", "east-west-tcp", "east-west-icmp_new", eastwest_tcp="dark")
    assert codes(behind) == ["sessions_not_synchronised"]
    for protocol in ("icmp", "udp"):
        dead = only(f"ingress-{protocol}", "ingress-tcp_new", **{f"ingress_{protocol}": "dark"})
        assert codes(dead) == ["moved_but_ingress_dark"], "without a session they work again by themselves"
    assert codes(only("ingress-tcp", *rest, ingress_tcp="dark", ingress_icmp_new="dark")) == ["moved_but_ingress_dark"]
    twin = only("ingress-tcp", "ingress-tcp_new", *rest, ingress_tcp="dark", ingress_tcp_new="dark")
    assert codes(twin) == ["moved_but_ingress_dark"]
    given_up = replace(stream("ingress"), verdict="dark", session_end=SessionEnd("stream", "silent", T0 + 9 * S))
    assert codes([given_up, *only(*rest)]) == ["moved_but_ingress_dark"], "it has tried a new one"


def test_one_silent_unit_does_not_make_its_watcher_blind() -> None:
    def silent(seconds: float, *answering: str) -> TimelineEvent:
        detail = {"watcher": "fortigate", "reason": "x", "answering": list(answering)}
        return at(seconds, "watcher_down", "fortigate", **detail)

    def blind(*events: TimelineEvent) -> list[str]:
        facts = Facts(flows=flows(), events=[at(0, "trigger"), *events], trigger_ns=T0, end_ns=END)
        return [line for one in diagnose(facts) if one.code == "watcher_blind" for line in one.evidence]

    assert blind(silent(1, "fgt-b")) == []
    (line,) = blind(silent(1, "fgt-b"), silent(3), at(4, "watcher_up", "fortigate", watcher="fortigate"))
    assert "blind for 1.0 s" in line, "only while neither unit answered"


def moved(seconds: float, to: str, back: str = "fgt-a", uncertainty_s: float = 0.1, /, **key: str) -> TimelineEvent:
    name = "route_moved" if "route_table" in key else "eip_moved" if "allocation_id" in key else "private_ip_moved"
    detail = {**key, "from_unit": back, "to_unit": to}
    return at(seconds, name, "aws", uncertainty_s, **detail)


ADDRESS = {"address": "203.0.113.10", "allocation_id": "eipalloc-1"}
EDGE = {"route_table": "rtb-edge", "destination": "10.99.99.0/28"}


@pytest.mark.parametrize("off_s", [-0.4, 0.0, 2.0])
def test_a_change_that_two_agents_tell_is_no_second_failover(off_s: float) -> None:
    """Each watcher has its own interval, and perhaps a clock that is off."""
    told = [moved(4.6 + off_s, "fgt-b", **ADDRESS), *GOOD]
    assert codes(flows(), told) == ["failover_clean"]
    assert codes(flows(), [e for e in told if e.event != "role_change"]) == ["failover_clean"]


def test_an_address_that_moves_back_is_a_second_failover_unless_the_roles_tell_otherwise() -> None:
    back = moved(9, "fgt-a", "fgt-b", **ADDRESS)
    assert codes(flows(), [TRIGGER, EIP, ROUTE, back])[0] == "second_failover", "nobody saw the roles"
    assert "second_failover" not in codes(flows(**dark("ingress")), [*GOOD, back]), "one took over and stayed"
    stepped_down = at(8, "role_change", "fortigate", unit="fgt-b", role="secondary")
    told = [TRIGGER, replace(ROLE, source="fortigate"), EIP, ROUTE, stepped_down, back]
    assert codes(flows(), told)[0] == "second_failover", "of its successor nothing was heard, as it is cut off"


TABLE = {"route_table": "rtb-1", "destination": "0.0.0.0/0"}


def test_an_address_that_is_nobodys_on_its_way_moves_once() -> None:
    way = [moved(4.4, "", **ADDRESS), moved(4.8, "fgt-b", "", **ADDRESS)]
    assert codes(flows(), [TRIGGER, *way, ROUTE]) == ["failover_clean"]


@pytest.mark.parametrize("key", [ADDRESS, TABLE, {"address": "10.0.0.9"}])
def test_an_old_answer_is_no_move_there_and_back(key: dict[str, str]) -> None:
    stale = [moved(5, "fgt-b", **key), moved(5.3, "fgt-a", "fgt-b", **key), moved(5.6, "fgt-b", **key)]
    assert codes(flows(), [TRIGGER, *stale], unwatched=("Address",) if key is TABLE else ()) == ["failover_clean"]
    again = [stale[0], moved(9, "fgt-a", "fgt-b", **key), moved(16, "fgt-b", **key)]
    ordered = found(flows(), [TRIGGER, *again], unwatched=("Address",) if key is TABLE else ())
    assert ordered[0].code == "second_failover"
    assert ordered[0].evidence[0].endswith(" moved 3 times")


def test_whatever_moves_back_tells_of_a_second_failover_but_a_route_among_others() -> None:
    there = [moved(4.6, "fgt-b", **TABLE), moved(4.8, "fgt-b", **EDGE)]
    back = [moved(9, "fgt-a", "fgt-b", **TABLE), moved(9.2, "fgt-a", "fgt-b", **EDGE)]
    assert codes(flows(), [TRIGGER, *there, *back], unwatched=("Address",)) == ["second_failover"]
    assert "second_failover" not in codes(flows(), [TRIGGER, *there, *back]), "no address followed"
    assert "second_failover" not in codes(flows(), [TRIGGER, *there, back[0]], unwatched=("Address",))
    single_zone = [moved(4.6, "fgt-b", address="10.0.0.9"), moved(9, "fgt-a", "fgt-b", address="10.0.0.9")]
    [finding] = found(flows(), [TRIGGER, *single_zone])
    assert (finding.code, finding.evidence) == ("second_failover", ("private_ip 10.0.0.9 moved 2 times",))


@pytest.mark.parametrize(
    "role",
    [
        at(8, "role_change", unit="fgt-a", role="primary"),
        at(8, "role_change", "fortigate", 0.2, unit="fgt-b", role="secondary"),
    ],
    ids=["the new primary is known", "only the old one was heard"],
)
def test_what_a_later_failover_left_where_the_first_had_moved_it(role: TimelineEvent) -> None:
    events = [TRIGGER, replace(ROLE, source=role.source), moved(4.6, "fgt-b", **ADDRESS), ROUTE, role]
    ordered = found(flows(**dark("eastwest", "ingress", "egress")), events)
    assert ordered[0].code == "eip_routes_not_moved"
    assert any(line.startswith("eip 203.0.113.10 still points at fgt-b") for line in ordered[0].evidence)
    assert "moved_but_ingress_dark" not in [one.code for one in ordered]
    assert codes(flows(), events)[0] != "eip_routes_not_moved", "what works again was moved, whoever saw it"


def test_a_route_that_was_written_back_is_told_as_such() -> None:
    signals = {"eip 203.0.113.10": "fgt-b", "route rtb-1 0.0.0.0/0": "fgt-b", "route rtb-edge 10.99.99.0/28": "fgt-a"}
    events = [
        *GOOD,
        moved(5.2, "fgt-b", **EDGE),
        moved(7, "fgt-a", "fgt-b", **EDGE),
        at(7, "signals_disagree", "aws", 0.1, unit="", signals=signals),
    ]
    ordered = found(flows(**dark("ingress", "egress")), events)
    assert ordered[0].code == "eip_moved_routes_not"
    assert "route rtb-edge 10.99.99.0/28 points back at fgt-a, not at fgt-b" in ordered[0].evidence
    assert "moved_but_ingress_dark" not in [one.code for one in ordered]


@pytest.mark.parametrize("other", ["egress", "eastwest"])
def test_a_vip_is_not_blamed_where_another_path_is_down_as_a_whole(other: str) -> None:
    broken = {**dark("ingress"), **dark(other)}
    assert "moved_but_ingress_dark" not in codes(flows(**broken))
    assert codes(flows(**dark("ingress")))[0] == "moved_but_ingress_dark"


def test_what_no_watcher_was_to_look_at_is_not_said_to_have_stayed() -> None:
    broken = flows(**dark("ingress", "egress", "eastwest"))

    def first(events: list[TimelineEvent], *unwatched: str) -> list[str]:
        facts = Facts(broken, events, T0, frozenset({"aws"}), END, frozenset(unwatched))
        return [one.code for one in diagnose(facts)]

    assert first([TRIGGER, ROLE, EIP]) == ["eip_moved_routes_not"]
    assert first([TRIGGER, ROLE, EIP], "Route") == []
    assert first([TRIGGER, ROLE, ROUTE]) == ["routes_moved_eip_not"]
    assert first([TRIGGER, ROLE, ROUTE], "Address") == []
    assert first([TRIGGER, ROLE], "Address") == ["eip_routes_not_moved"]
    only = diagnose(Facts(broken, [TRIGGER, ROLE], T0, frozenset({"aws"}), END, frozenset({"Address"})))
    assert "no route moved" in only[0].evidence
    assert first([TRIGGER, ROLE], "Address", "Route") == []


@pytest.mark.parametrize("key", ["unit", "to_unit", "from_unit", "role", "result", "signals", "operation", "target"])
@pytest.mark.parametrize("value", [None, ""])
def test_an_event_that_lacks_what_others_have_breaks_nothing(key: str, value: Any) -> None:
    told = [*GOOD, call("ReplaceRoute"), call("AssociateAddress", "UnauthorizedOperation")]
    told.append(at(6, "signals_disagree", "aws", signals={"eip 203.0.113.10": "fgt-a"}))
    bare = [replace(e, detail={**e.detail, key: value} if key in e.detail else e.detail) for e in told]
    for measured in (flows(), flows(**dark("ingress", "egress", "eastwest"))):
        codes(measured, bare)
    assert codes(flows(), [replace(e, detail={**e.detail, "result": None}) for e in [*GOOD, call("ReplaceRoute")]]) == [
        "failover_clean"
    ]
