"""Whether this host's own nftables rules keep away what its kernel has to answer.

Probes and replies of packet sockets pass before any rule of the input hook. What the kernel answers itself (echo
requests), or hands to a listening socket, does not. Rules are read as a new packet from outside would meet them; what
cannot be told from the rule alone (addresses, marks, iptables' own matches) may or may not hold, and is not complained
about.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probe.preflight.check import Check

TIMEOUT_S = 10
MOST_JUMPS = 16  # as the kernel allows (NFT_JUMP_STACK_SIZE)
_FAMILIES = ("ip", "inet")
_VERDICTS = ("accept", "drop", "reject", "jump", "goto", "return")
_NUMBER = {"icmp": 1, "tcp": 6, "udp": 17}  # netinet/in.h
_Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Service:
    """What is to be reached: `icmp` (echo requests), or a port of `tcp` or `udp`."""

    protocol: str
    port: int
    label: str


def check(services: Iterable[Service]) -> Iterator[Check]:
    """One finding for each service."""
    told = ruleset()
    if isinstance(told, str):
        yield Check("firewall", "ok", f"not looked at: {told}")
        return
    for service in services:
        name = f"firewall {service.protocol}" + (f"/{service.port}" if service.port else "")
        chain = refusing(told, service)
        if chain is None:
            yield Check(name, "ok", f"no rule of this host keeps {service.label} away")
        else:
            what = f"dport {service.port}" if service.port else "type echo-request"
            remedy = f"nft insert rule {chain} {service.protocol} {what} accept"
            yield Check(name, "warn", f"chain {chain} drops {service.label}", remedy)


def ruleset() -> list[dict[str, Any]] | str:
    """The objects of `nft -j list ruleset`, or why there are none."""
    try:
        done = subprocess.run(["nft", "-j", "list", "ruleset"], check=False, capture_output=True, timeout=TIMEOUT_S)
    except FileNotFoundError:
        return "nft is not installed"
    except subprocess.TimeoutExpired:
        return "nft does not answer"
    if done.returncode != 0:
        return done.stderr.decode(errors="replace").strip().splitlines()[0]
    objects: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
    return objects


def refusing(objects: Sequence[Mapping[str, Any]], service: Service) -> str | None:
    """The first base chain of the input hook, as FAMILY TABLE CHAIN, that is sure to drop a service; or None."""
    chains = [one["chain"] for one in objects if "chain" in one]
    rules: dict[tuple[str, str, str], list[_Rule]] = {}
    for rule in (one["rule"] for one in objects if "rule" in one):
        rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule)
    for chain in sorted((c for c in chains if c.get("hook") == "input"), key=lambda c: int(c.get("prio", 0))):
        key = chain["family"], chain["table"], chain["name"]
        if chain["family"] in _FAMILIES and (_walk(rules, key, service) or chain.get("policy", "accept")) == "drop":
            return " ".join(key)
    return None


def _walk(
    rules: Mapping[tuple[str, str, str], list[_Rule]], key: tuple[str, str, str], service: Service, depth: int = 0
) -> str:
    """`accept` (or perhaps), `drop` for sure, or "" when the chain leaves it to who called it."""
    for rule in rules.get(key, []):
        holds: bool | None = True
        for part in rule.get("expr", []):
            if "match" in part:
                holds = _both(holds, _match(part["match"], service))
            elif "xt" in part:
                holds = _both(holds, None)
            if holds is False:
                break
            verdict = next(
                (word for word in ("accept", "drop", "reject", "jump", "goto", "return") if word in part), ""
            )
            if verdict in ("jump", "goto") and depth < MOST_JUMPS:
                inner = _walk(rules, (*key[:2], part[verdict]["target"]), service, depth + 1)
                if inner == "accept" or (inner and holds):
                    return inner
                if verdict == "goto" and holds:
                    return ""
            elif verdict == "accept":
                return "accept"
            elif verdict in ("drop", "reject") and holds:
                return "drop"
            elif verdict == "return" and holds:
                return ""
    return ""


def _passes_by(vmap: Mapping[str, Any]) -> bool:
    """Whether a verdict map says nothing of a new packet: it is one of `ct state`, without `new`."""
    data = vmap.get("data")
    members = data.get("set", []) if isinstance(data, Mapping) else []
    return vmap.get("key", {}).get("ct", {}).get("key") == "state" and "new" not in [one[0] for one in members]


def _both(one: bool | None, other: bool | None) -> bool | None:
    """Of two conditions; None: unknown."""
    if one is False or other is False:
        return False
    return True if one and other else None


def _match(match: Mapping[str, Any], service: Service) -> bool | None:
    """Whether a new packet to the service matches; None when that depends on the packet."""
    left, right, op = match["left"], match["right"], match.get("op", "==")
    values = _values(right)
    if not isinstance(left, Mapping) or values is None:
        return None
    if "payload" in left:
        protocol, field = left["payload"].get("protocol"), left["payload"].get("field")
        if field == "dport":
            if protocol not in (service.protocol, "th"):
                return False
            known = any(low <= service.port <= high for low, high in values if isinstance(low, int))
        elif protocol == "ip" and field == "protocol":
            known = service.protocol in (low for low, _ in values)
        elif field == "type" and protocol == "icmp":
            known = service.protocol == "icmp" and any(low in ("echo-request", 8) for low, _ in values)
        else:
            return None if protocol in (service.protocol, "ip", "th", "ether") else False
    elif left.get("meta", {}).get("key") in ("l4proto", "protocol") and values:
        if left["meta"]["key"] == "protocol":
            known = any(low in ("ip", 2048) for low, _ in values)
        else:
            known = any(low in (service.protocol, _NUMBER[service.protocol]) for low, _ in values)
    elif left.get("meta", {}).get("key") in ("iifname", "iif") and [low for low, _ in values] == ["lo"]:
        known = False
    elif left.get("ct", {}).get("key") == "state":
        known = "new" in (low for low, _ in values)
    else:
        return None
    return known if op in ("==", "in") else not known


def _values(right: Any) -> list[tuple[Any, Any]] | None:
    """(low, high) of each value of a match's right side; None when it stands elsewhere, as in a named set."""
    if isinstance(right, str) and right.startswith("@"):
        return None
    if isinstance(right, Mapping):
        if "set" in right:
            right = right["set"]
        elif "range" in right:
            return [(right["range"][0], right["range"][1])]
        else:
            return None
    found = []
    for value in right if isinstance(right, list) else [right]:
        if isinstance(value, Mapping) and "range" in value:
            found.append((value["range"][0], value["range"][1]))
        elif isinstance(value, (int, str)):
            found.append((value, value))
        else:
            return None
    return found
