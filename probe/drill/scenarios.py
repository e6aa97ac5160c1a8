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

    do: Literal["failover", "unset", "restart_agent", "drop", "set_route"]
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
    trigger: Literal["graceful", "crash", "script"] = "graceful"  # script: no failover, the steps are all there is
    steps: tuple[Step, ...] = ()
    cells: Cells = field(default_factory=dict)  # what the matrix is to say
    diagnosis: str = "failover_clean"  # the code that has to come first
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
_ALL_SURVIVE = dict.fromkeys(PATHS, _row("survived survived survived"))
# The second failover brings the old addresses back; UDP has meanwhile been seen behind the other unit's.
_THERE_AND_BACK = {**_ALL_SURVIVE, "ingress": _row("survived rebound survived")}


def _tcp(verdict: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """`_MULTI_AZ` with every old TCP session ended in one way."""
    return {path: {**row, "tcp": (verdict,)} for path, row in _MULTI_AZ.items()}


_ALL = (
    Scenario(
        "failover",
        "graceful failover with session-pickup: the exercise as taught",
        "kept TCP survives east-west, is lost behind NAT; new sessions recover everywhere",
        cells=_MULTI_AZ,
    ),
    Scenario(
        "crash",
        "the active unit dies: its heartbeat must be missed first",
        "as failover, after 4 s more of darkness",
        trigger="crash",
        cells=_MULTI_AZ,
    ),
    Scenario(
        "no-session-pickup",
        "TCP sessions are not synchronised",
        "every kept TCP session is lost; sessions_not_synchronised",
        {"session_pickup": False},
        cells=_tcp("lost"),
        diagnosis="sessions_not_synchronised",
    ),
    Scenario(
        "reset-sessionless",
        "as no-session-pickup, and the firewall answers unknown TCP with a reset",
        "kept TCP is reset by the firewall; firewall_resets_sessions",
        {"session_pickup": False, "reset_sessionless_tcp": True},
        cells=_tcp("reset"),
        diagnosis="firewall_resets_sessions",
    ),
    Scenario(
        "vip-trap",
        "the VIP stays bound to the first unit's address",
        "ingress stays dark, all else comes back; moved_but_ingress_dark",
        {"vip_extip": "fixed"},
        cells={**_MULTI_AZ, "ingress": _row("dark dark dark", "dark dark dark")},
        diagnosis="moved_but_ingress_dark",
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
        cells={**_MULTI_AZ, "east-west": _row("dark dark dark", "dark dark dark")},
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
        "as failover, but the kept TCP session east-west is reset by its own peer, not by the firewall",
        steps=(Step("restart_agent", 1.0, {"name": "workload-b"}),),
        cells={**_MULTI_AZ, "east-west": _row("survived survived reset")},
    ),
)
SCENARIOS: Mapping[str, Scenario] = {one.name: one for one in _ALL}
