"""What a run means, in a person's words: rules as data, each with its evidence and what to check first.

`RULES` is the whole knowledge: code, summary, a `find` that returns evidence lines (`clues`; none: the rule does not
apply) and the first things to check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from probe.core import clues
from probe.core.facts import Facts
from probe.core.remedies import remedies


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One finding about a run."""

    code: str
    summary: str
    evidence: tuple[str, ...]
    check_first: tuple[str, ...] = ()

    def to_document(self) -> dict[str, Any]:
        """The contract's form of a diagnosis."""
        return {
            "code": self.code,
            "summary": self.summary,
            "evidence": list(self.evidence),
            "check_first": list(self.check_first),
        }


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of knowledge. `find` returns evidence; an empty list means that the rule does not apply."""

    code: str
    summary: str
    find: Callable[[Facts], list[str]]
    check_first: tuple[str, ...] = ()
    caveat: bool = False  # true of a clean failover as well
    cloud: bool = False  # about calls to the cloud: where one failed, its remedy takes the place of `check_first`

    def diagnosis(self, evidence: Sequence[str], facts: Facts) -> Diagnosis:
        """What it says with this evidence."""
        known = remedies(facts.errors) if self.cloud else []
        summary = " ".join([self.summary, *(one.cause for one in known)])
        checks = tuple(line for one in known for line in one.check_first) or self.check_first
        return Diagnosis(self.code, summary, tuple(evidence), checks)


# In the order a person should read them: the verdict on the failover first, then causes, then caveats.
RULES: tuple[Rule, ...] = (
    Rule("failover_clean", "The failover worked: every path carries new sessions again.", clues.clean),
    Rule(
        "no_failover_seen",
        "No failover was seen after the trigger; loss, where there was any, has another cause.",
        clues.no_failover,
        (
            "`get system ha status` on both units: is the pair formed, did the primary change?",
            "Do the probed paths cross the pair at all? Compare the routes' targets with its interfaces.",
            "Loss without a move: errors and drops of the interfaces on the way, the far end's log, another change.",
        ),
    ),
    Rule(
        "split_brain",
        "Both units are primary at once: the heartbeat between them is lost while both live.",
        clues.split,
        (
            "`get system ha status` and `diagnose sys ha status` on both units: does each see the other?",
            "Security groups and the network ACL between the heartbeat interfaces: all traffic between the two.",
            "`show system ha` on both: hbdev, unicast-hb-peerip, the same group name, id and password.",
            "The Elastic IPs and routes follow whichever unit acted last; sessions are no longer synchronised.",
        ),
    ),
    Rule(
        "eip_routes_not_moved",
        "Elastic IPs or routes did not move to the new primary.",
        clues.both_missing,
        (
            "`diagnose debug application awsd -1` on the new primary: is the call made, and what is answered?",
            "The instance role: ec2:AssociateAddress, ec2:ReplaceRoute and ec2:Describe*.",
            "The HA management interface: DNS and a way to the EC2 API (endpoint or Internet).",
            "Security groups between the heartbeat interfaces: did the cluster ever form?",
        ),
        cloud=True,
    ),
    Rule(
        "eip_moved_routes_not",
        "The Elastic IPs moved, routes did not: ingress may work, what takes those routes does not.",
        clues.eip_only,
        (
            "`diagnose test application awsd 4` on the new primary: is the table listed? awsd moves routes of its"
            " own VPC that point at an interface of the peer; never those of a transit gateway, nor of another VPC.",
            "The instance role: ec2:ReplaceRoute and ec2:DescribeRouteTables.",
            "A route that points back: something else writes it as well (a script, `terraform apply`). CloudTrail,"
            " event ReplaceRoute, tells who.",
            "By hand: `aws ec2 replace-route --route-table-id RTB --destination-cidr-block CIDR --network-interface-id"
            " ENI`",
        ),
        cloud=True,
    ),
    Rule(
        "routes_moved_eip_not",
        "The routes moved, Elastic IPs did not: east-west may work, ingress and egress do not.",
        clues.routes_only,
        (
            "The instance role: ec2:AssociateAddress and ec2:DescribeAddresses.",
            "Is the Elastic IP on port1's primary address, or on a secondary one that the peer lacks?",
            "By hand: `aws ec2 associate-address --allocation-id EIPALLOC --network-interface-id ENI"
            " --private-ip-address IP`",
        ),
        cloud=True,
    ),
    Rule(
        "moved_but_ingress_dark",
        "The cloud moved, yet ingress stays dark: the VIP is likely bound to the old unit's address.",
        clues.ingress_dark,
        (
            "The VIP's `extip` on the new primary: 0.0.0.0 on port1 matches either unit's address.",
            "Or `config system vdom-exception` with firewall.vip, and same-named VIPs on each unit.",
        ),
    ),
    Rule(
        "sessions_not_synchronised",
        "Old sessions without NAT were lost although new ones work: the new primary did not know them.",
        clues.not_synchronised,
        (
            "`config system ha`: session-pickup enable (TCP); session-pickup-connectionless for UDP and ICMP.",
            "`session-pickup-delay`: only sessions older than 30 s are synchronised when it is enabled.",
            "Proxy-inspected sessions are never failed over.",
        ),
    ),
    Rule(
        "firewall_resets_sessions",
        "Old sessions were ended by a firewall's RST or FIN instead of a silent drop.",
        clues.resets,
        (
            "`reset-sessionless-tcp` on the new primary sends a RST for a TCP segment without a session.",
            "The sender's address and TTL tell whether the firewall or the far end ended the session.",
        ),
    ),
    Rule(
        "peer_resets_sessions",
        "Old sessions were ended by a RST or FIN of the far end itself, not of a firewall.",
        clues.peer_resets,
        (
            "Did the reflector, its host or the service there restart? It knew the session no more.",
            "A load balancer in front of the far end, which may have chosen another host.",
        ),
    ),
    Rule(
        "second_failover",
        "A second failover followed the first.",
        clues.second,
        (
            "`execute ha failover set` is sticky: its `unset` may fail straight back.",
            "`get system ha status`: the reason given for the selection (override, priority, uptime).",
        ),
    ),
    Rule(
        "one_direction_dark",
        "One direction came back, the other did not.",
        clues.one_direction,
        (
            "Do both directions' routes point at the same unit? A stateful firewall drops the other half.",
            "Security groups and policies on the way of the dark direction.",
        ),
    ),
    Rule(
        "nat_sessions_lost",
        "Old sessions through NAT were lost or translated anew. Across availability zones this is expected:"
        " the units have different addresses, so clients must reconnect.",
        clues.nat_lost,
        (
            "Nothing to repair across zones. Within one zone (secondary addresses move) they can survive: check"
            " session-pickup.",
        ),
        caveat=True,
    ),
    Rule(
        "probe_unreliable",
        "Our own stalls or drops hide part of what happened: there, results are less certain than they look.",
        clues.unreliable,
        ("Load on the probing host, and `haprobe preflight` there. Lower the rates, or give it a core of its own.",),
        caveat=True,  # what is proven is: a flow that was not observed enough has no verdict that counts as clean
    ),
    Rule(
        "watcher_blind",
        "HA state was unknown for part of the outage: changes in it are known only as an interval.",
        clues.blind,
        (
            "Give the watcher a way to the EC2 API that does not cross the pair, such as an interface endpoint.",
            "Likewise to the units' own management addresses.",
        ),
        caveat=True,
    ),
)


def diagnose(facts: Facts) -> list[Diagnosis]:
    """Every rule that applies, in the order of `RULES`.

    `failover_clean` is given only when nothing but caveats stands beside it.
    """
    found = []
    for rule in RULES:
        evidence = rule.find(facts)
        if evidence:
            found.append((rule, rule.diagnosis(evidence, facts)))
    objections = [rule for rule, _ in found if rule.code != "failover_clean" and not rule.caveat]
    ordered = [d for _, d in found if d.code != "failover_clean" or not objections]
    # Right after a clean bill comes what a person would otherwise take for a fault.
    ordered.sort(key=lambda d: (d.code != "failover_clean", bool(objections) or d.code != "nat_sessions_lost"))
    if ordered and facts.conflicts:
        ordered[0] = replace(ordered[0], evidence=(*ordered[0].evidence, *facts.conflicts))
    return ordered


def table_markdown() -> str:
    """The rules as the documentation shows them."""
    lines = ["| code | meaning | check first |", "|---|---|---|"]
    lines += [f"| `{r.code}` | {r.summary} | {' '.join(r.check_first)} |" for r in RULES]
    return "\n".join(lines) + "\n"
