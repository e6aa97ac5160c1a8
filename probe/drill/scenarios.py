"""What can be rehearsed in the lab: `haprobe lab scenarios`, `haprobe drill --lab --scenario NAME`.

A scenario is a lab that behaves in some way, a trigger, what else is done to the lab after it, and what a drill of it
is expected to give. `expected.py` holds a drill's document to that; so do the tests and `python -m tests.bench
scenarios`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PATHS = ("east-west", "egress", "ingress")
PROTOCOLS = ("icmp", "udp", "tcp")

Cells = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Path to the matrix's column (icmp, udp, tcp: old sessions; icmp-new ...: new ones) to the verdicts that are right."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing more that is done to the lab: a method of it (`drill.steps.SteppedLab`) and its arguments."""

    do: Literal["failover", "unset", "restart_agent", "drop", "cut", "set_route", "restore_watchers"]
    after_s: float = 1.0  # since the trigger, or the step before, has taken effect
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> str:
        """For the terminal."""
        said = " ".join(str(value) for value in self.arguments.values())
        return f"{self.after_s:g} s later: {self.do.replace('_', ' ')}" + (f" {said}" if said else "")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A lab and a trigger that belong together. Options on the command line win over it."""

    name: str
    summary: str
    expects: str  # the verdicts and the diagnosis it gives, for a reader
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of LabOptions that differ from the default
    trigger: Literal["graceful", "crash", "split", "script"] = (
        "graceful"  # script: no failover, the steps are all there is
    )
    steps: tuple[Step, ...] = ()
    cells: Cells = field(default_factory=dict)  # what the matrix is to say
    diagnosis: str = "failover_clean"  # the code that has to come first
    also: frozenset[str] = frozenset()  # further codes that are right; any other is wrong
    limit_s: float = 60.0  # after the trigger: some of it stays dark for good, and waiting longer shows no more


def _row(old: str, new: str = "recovered recovered recovered") -> dict[str, tuple[str, ...]]:
    """One path's cells from words in the order icmp udp tcp; `a/b`: either is right."""
    columns = [*PROTOCOLS, *(f"{protocol}-new" for protocol in PROTOCOLS)]
    return {column: tuple(word.split("/")) for column, word in zip(columns, f"{old} {new}".split(), strict=True)}


_AS_IF_NOTHING = _row("unaffected unaffected unaffected", "unaffected unaffected unaffected")
# Across zones the units translate to addresses of their own: a session through NAT has no way back to its old one.
_MULTI_AZ = {
    "east-west": _row("survived survived survived"),
    "egress": _row("survived survived lost"),
    "ingress": _row("survived rebound lost"),
}
_DARK = _row("dark dark dark", "dark dark dark")
_ALL_DARK = dict.fromkeys(PATHS, _DARK)
_ALL_SURVIVE = dict.fromkeys(PATHS, _row("survived survived survived"))
# The second failover brings the old addresses back; UDP has meanwhile been seen behind the other unit's.
_THERE_AND_BACK = {**_ALL_SURVIVE, "ingress": _row("survived rebound survived")}


def _tcp(verdict: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """`_MULTI_AZ` with every old TCP session ended in one way."""
    return {path: {**row, "tcp": (verdict,)} for path, row in _MULTI_AZ.items()}


NAT = frozenset({"nat_sessions_lost"})
_DARK_S = 20

_ALL = (
    Scenario(
        "failover",
        "graceful failover with session-pickup: the exercise as taught",
        "kept TCP survives east-west, is lost behind NAT; new sessions recover everywhere",
        cells=_MULTI_AZ,
        also=NAT,
    ),
    Scenario(
        "crash",
        "the active unit dies: its heartbeat must be missed first",
        "as failover, after 4 s more of darkness",
        trigger="crash",
        cells=_MULTI_AZ,
        also=NAT,
    ),
    Scenario(
        "no-session-pickup",
        "TCP sessions are not synchronised",
        "every kept TCP session is lost; sessions_not_synchronised",
        {"session_pickup": False},
        cells=_tcp("lost"),
        diagnosis="sessions_not_synchronised",
        also=NAT,
    ),
    Scenario(
        "reset-sessionless",
        "as no-session-pickup, and the firewall answers unknown TCP with a reset",
        "kept TCP is reset by the firewall; firewall_resets_sessions",
        {"session_pickup": False, "reset_sessionless_tcp": True},
        cells=_tcp("reset"),
        diagnosis="firewall_resets_sessions",
        also=NAT,
    ),
    Scenario(
        "vip-trap",
        "the VIP stays bound to the first unit's address",
        "ingress stays dark, all else comes back; moved_but_ingress_dark",
        {"vip_extip": "fixed"},
        cells={**_MULTI_AZ, "ingress": _DARK},
        diagnosis="moved_but_ingress_dark",
        also=NAT,
    ),
    # What becomes of sessions.
    Scenario(
        "connectionless",
        "UDP and ICMP sessions are synchronised as well (session-pickup-connectionless)",
        "as failover, but behind NAT to the internet UDP and ICMP are lost as well: a session that is known keeps the"
        " translation of the unit that died for it, where an unknown one gets a new one",
        {"session_pickup_connectionless": True},
        cells={**_MULTI_AZ, "egress": _row("lost lost lost")},
    ),
    Scenario(
        "single-az",
        "both units in one zone: the secondary addresses of their data ports move",
        "kept sessions survive, through NAT too",
        {"single_az": True},
        cells=_ALL_SURVIVE,
    ),
    Scenario(
        "single-az-connectionless",
        "as single-az, and UDP and ICMP sessions are synchronised as well",
        "kept sessions survive, through NAT too",
        {"single_az": True, "session_pickup_connectionless": True},
        cells=_ALL_SURVIVE,
    ),
    Scenario(
        "single-az-no-pickup",
        "as single-az, without session-pickup",
        "every kept TCP session is lost; sessions_not_synchronised",
        {"single_az": True, "session_pickup": False},
        cells=dict.fromkeys(PATHS, _row("survived survived lost")),
        diagnosis="sessions_not_synchronised",
    ),
    Scenario(
        "asymmetric-return",
        "after the failover the way back to workload A leads to the old unit",
        "east-west gets no reply any more, all else as failover; one_direction_dark, by the routes",
        steps=(Step("set_route", 1.0, {"destination": "10.99.98.0/26", "target": "fgt-a-port2"}),),
        cells={**_MULTI_AZ, "east-west": _DARK},
        diagnosis="one_direction_dark",
        limit_s=15.0,
    ),
    Scenario(
        "failback",
        "failover, then `execute ha failover unset`: the first unit takes over again",
        "sessions that were lost behind NAT find their old address again and go on; second_failover",
        steps=(Step("unset", 3.0),),
        cells=_THERE_AND_BACK,
        diagnosis="second_failover",
    ),
    Scenario(
        "double-failover",
        "two graceful failovers in a row, there and back",
        "as failback; second_failover",
        {"failback_on_unset": False},
        steps=(Step("unset", 3.0), Step("failover", 0.0)),
        cells=_THERE_AND_BACK,
        diagnosis="second_failover",
    ),
    Scenario(
        "brown-out",
        "a router loses 30 % of the packets to workload A for five seconds; no failover",
        "no session is lost, the loss is shown; no_failover_seen",
        trigger="script",
        steps=(Step("drop", 0.0, {"percent": 30}), Step("drop", 5.0, {"percent": 0})),
        cells=_ALL_SURVIVE,
        diagnosis="no_failover_seen",
    ),
    Scenario(
        "peer-reboot",
        "workload B's agent is killed and started anew; no failover",
        "the kept TCP session to it is reset by its own host, nothing else; no_failover_seen",
        trigger="script",
        steps=(Step("restart_agent", 0.0, {"name": "workload-b"}),),
        cells={
            "east-west": _row("unaffected survived reset", "unaffected recovered unaffected/recovered"),
            "egress": _AS_IF_NOTHING,
            "ingress": _AS_IF_NOTHING,
        },
        diagnosis="no_failover_seen",
    ),
    Scenario(
        "failover-and-peer-reboot",
        "as failover, then workload B's agent is killed and started anew",
        "as failover, but the kept TCP session east-west is reset by its own peer; peer_resets_sessions",
        steps=(Step("restart_agent", 1.0, {"name": "workload-b"}),),
        cells={**_MULTI_AZ, "east-west": _row("survived survived reset")},
        diagnosis="peer_resets_sessions",
        also=NAT,
    ),
)


def _refused(kind: str, *actions: str, caller: str = "fgt-*", **more: Any) -> dict[str, Any]:
    """Options of a lab whose cloud treats these calls so (`lab.faults`)."""
    return {"api_faults": ({"kind": kind, "caller": caller, "actions": list(actions) or ["*"], **more},)}


_MOVES = ("AssociateAddress", "ReplaceRoute")
_CUT_OFF = NAT | {"watcher_blind"}

# Both units forward: what the routes leave where it was notices nothing.
_SPLIT = {
    "east-west": _row("unaffected/survived " * 3, "unaffected/recovered " * 3),
    "egress": _row("unaffected/survived survived/rebound lost", "unaffected/recovered " * 3),
    "ingress": _row("unaffected/survived rebound lost", "unaffected/recovered " * 3),
}

# How the cloud's part of a failover goes wrong, and how its watchers fail.
_CLOUD = (
    Scenario(
        "iam-denied-eip",
        "the new primary's role may not move Elastic IPs",
        "east-west comes back, ingress and egress stay dark; routes_moved_eip_not, with the refusal",
        _refused("denied", "AssociateAddress"),
        cells={**_ALL_DARK, "east-west": _MULTI_AZ["east-west"]},
        diagnosis="routes_moved_eip_not",
        also=NAT,
        limit_s=_DARK_S,
    ),
    Scenario(
        "iam-denied-routes",
        "the new primary's role may not replace routes",
        "ingress comes back, east-west and egress stay dark; eip_moved_routes_not, with the refusal",
        _refused("denied", "ReplaceRoute"),
        cells={**_ALL_DARK, "ingress": _MULTI_AZ["ingress"]},
        diagnosis="eip_moved_routes_not",
        also=NAT,
        limit_s=_DARK_S,
    ),
    Scenario(
        "iam-denied",
        "the new primary's role may move neither Elastic IPs nor routes",
        "everything stays dark; eip_routes_not_moved, with both refusals",
        _refused("denied", *_MOVES),
        cells=_ALL_DARK,
        diagnosis="eip_routes_not_moved",
        limit_s=_DARK_S,
    ),
    Scenario(
        "endpoint-unreachable",
        "the units' way to the EC2 API is cut: no call is answered",
        "everything stays dark; eip_routes_not_moved: no answer",
        {"endpoint": "unreachable"},
        cells=_ALL_DARK,
        diagnosis="eip_routes_not_moved",
        limit_s=_DARK_S,
    ),
    Scenario(
        "dns-fails",
        "the units cannot resolve the name of the EC2 API",
        "everything stays dark; eip_routes_not_moved: the name was not resolved",
        {"awsd_dns": False},
        cells=_ALL_DARK,
        diagnosis="eip_routes_not_moved",
        limit_s=_DARK_S,
    ),
    Scenario(
        "api-throttled",
        "the account's API budget is spent: what would move things is refused",
        "everything stays dark; eip_routes_not_moved: RequestLimitExceeded",
        _refused("throttled", *_MOVES),
        cells=_ALL_DARK,
        diagnosis="eip_routes_not_moved",
        limit_s=_DARK_S,
    ),
    Scenario(
        "api-slow",
        "every call to the EC2 API takes 1.5 s",
        "as failover, but most of the outage is spent in the cloud's API; failover_clean",
        _refused("slow", delay_ms=1500),
        cells=_MULTI_AZ,
        diagnosis="failover_clean",
        also=NAT,
    ),
    Scenario(
        "route-forgotten",
        "awsd does not find the route table of the transit subnets, as one of another VPC",
        "ingress comes back, east-west and egress stay dark; eip_moved_routes_not, with the route left behind",
        {"forgotten_tables": ("transit",)},
        cells={**_ALL_DARK, "ingress": _MULTI_AZ["ingress"]},
        diagnosis="eip_moved_routes_not",
        also=NAT,
        limit_s=_DARK_S,
    ),
    Scenario(
        "edge-route-rewritten",
        "an earlier failover rewrote the edge route to the standby's management: it is cut off from the API",
        "everything stays dark; eip_routes_not_moved: no answer",
        {"edge": "taken"},
        cells=_ALL_DARK,
        diagnosis="eip_routes_not_moved",
        also=frozenset({"watcher_blind"}),
        limit_s=_DARK_S,
    ),
    Scenario(
        "edge-route-failback",
        "awsd rewrites an edge route of the first unit's management as well; then that unit is to take over again",
        "the failover works, and takes the first unit's way to the API; after `unset` everything stays dark;"
        " eip_routes_not_moved: no answer",
        {"edge": "management"},
        steps=(Step("unset", 3.0),),
        cells=_ALL_DARK,
        diagnosis="eip_routes_not_moved",
        also=frozenset({"second_failover", "watcher_blind"}),
        limit_s=35.0,
    ),
    Scenario(
        "edge-route-ingress",
        "the internet gateway's route table sends ingress through the active unit; right after the failover somebody"
        " writes its old target back",
        "east-west as failover; what comes in from the internet goes to the old unit and stays dark;"
        " eip_moved_routes_not, with the route",
        {"edge": "ingress"},
        steps=(Step("set_route", 1.0, {"destination": "10.99.99.0/28", "target": "fgt-a-port1", "table": "edge"}),),
        cells={**_ALL_DARK, "east-west": _MULTI_AZ["east-west"]},
        diagnosis="eip_moved_routes_not",
        also=NAT | {"one_direction_dark"},
        limit_s=_DARK_S,
    ),
    Scenario(
        "split-brain",
        "the heartbeat is cut while both units live: both are primary",
        "traffic moves to the other unit, as failover; split_brain",
        trigger="split",
        cells=_SPLIT,
        diagnosis="split_brain",
        also=NAT,
    ),
    Scenario(
        "watcher-cut-off",
        "the watchers run behind the pair and lose their way to the API and the units in the outage",
        "as failover; failover_clean, with watcher_blind as a caveat",
        {"watch_from": "workload-a"},
        cells=_MULTI_AZ,
        diagnosis="failover_clean",
        also=_CUT_OFF,
    ),
    Scenario(
        "watchers-cut-off",
        "the way of both watchers, to the API and to the units, is cut with the failover, and comes back later",
        "as failover; failover_clean, with watcher_blind as a caveat that names both",
        {"cut_watchers": True},
        steps=(Step("restore_watchers", 8.0),),
        cells=_MULTI_AZ,
        diagnosis="failover_clean",
        also=_CUT_OFF,
    ),
    Scenario(
        "watcher-denied",
        "the watcher's role may not read the cloud, during the whole drill",
        "as failover; failover_clean, with watcher_blind as a caveat",
        _refused("denied", caller="watcher"),
        cells=_MULTI_AZ,
        diagnosis="failover_clean",
        also=_CUT_OFF,
    ),
    Scenario(
        "watcher-throttled",
        "the watcher's calls are throttled, during the whole drill",
        "as failover; failover_clean, with watcher_blind as a caveat",
        _refused("throttled", caller="watcher"),
        cells=_MULTI_AZ,
        diagnosis="failover_clean",
        also=_CUT_OFF,
    ),
    Scenario(
        "watcher-garbage",
        "the watcher is answered by something that is not EC2, during the whole drill",
        "as failover; failover_clean, with watcher_blind as a caveat",
        _refused("garbage", caller="watcher"),
        cells=_MULTI_AZ,
        diagnosis="failover_clean",
        also=_CUT_OFF,
    ),
    Scenario(
        "watcher-unanswered",
        "the watcher's calls are never answered, during the whole drill",
        "as failover; failover_clean, with watcher_blind as a caveat",
        _refused("lost", caller="watcher"),
        cells=_MULTI_AZ,
        diagnosis="failover_clean",
        also=_CUT_OFF,
    ),
)
SCENARIOS: Mapping[str, Scenario] = {one.name: one for one in (*_ALL, *_CLOUD)}
GROUPS: Mapping[str, tuple[str, ...]] = {
    "sessions": tuple(one.name for one in _ALL if one.name != "vip-trap"),
    "cloud": ("vip-trap", *(one.name for one in _CLOUD)),
    "all": tuple(SCENARIOS),
}
"""What becomes of sessions; what goes wrong with addresses, routes, the API and its watchers; both."""
