"""What the lines of awsd's debug output look like and mean: one table, and the way to a line's own text.

awsd is the daemon of a FortiGate that moves elastic IPs and routes after a role change. Its output has two dialects:
the older one says "master", the newer one "primary". `RULES` knows both; `probe.watch.awsd` reads a capture by it,
`docs/awsd.md` is written from it.

A captured line is rarely what the daemon printed: a prompt or a console timestamp stands in front of it, a pager or a
terminal left its control sequences in it. `undress` takes these off. It never changes the line that is shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

BOTH, OLD, NEW = "both", "old", "new"


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of line.

    Args:
        kind: Its name, in code and JSON.
        pattern: Matched at the start of the undressed line; its groups are the fields.
        dialect: Whose wording it is: `old`, `new` or `both`.
        meaning: In plain words.
        sample: A line as a FortiGate prints it.
        cut: Matches the beginning of such a line where its end is missing, but its kind is beyond doubt.
        stage: Whether awsd has gone on to something else with it, so that a later error is not the last request's.
    """

    kind: str
    pattern: re.Pattern[str]
    dialect: str
    meaning: str
    sample: str
    cut: re.Pattern[str] | None = None
    stage: bool = False


def _rule(
    kind: str, pattern: str, dialect: str, meaning: str, sample: str, *, cut: str = "", stage: bool = False
) -> Rule:
    return Rule(kind, re.compile(pattern), dialect, meaning, sample, re.compile(cut) if cut else None, stage)


_IPV4 = r"\d{1,3}(?:\.\d{1,3}){3}"
_ROLE = r"(?P<role>master|slave|primary|secondary|backup|standalone)\b"

# First match wins: "elastic ip for PORT" stands before the elastic IPs themselves.
RULES: tuple[Rule, ...] = (
    _rule(
        "become_role",
        rf"Become HA {_ROLE}",
        OLD,
        "Role change: this unit takes over the HA role named here.",
        "Become HA master",
        stage=True,
    ),
    _rule(
        "ha_event",
        r"HA event\b",
        NEW,
        "The HA daemon tells awsd that something changed; the role follows in the next line.",
        "HA event",
        stage=True,
    ),
    _rule(
        "ha_state",
        rf"HA state: {_ROLE}",
        NEW,
        "The role of this unit from now on. On primary, awsd begins to move what pointed at the peer.",
        "HA state: primary",
        stage=True,
    ),
    _rule(
        "vip_arp",
        r"send_vip_arp: vd (?P<vdom>\S+) (?P<role>primary|master) (?P<enabled>\d+)"
        r" intf (?P<interface>\S+) ip (?P<ip>\S+)",
        BOTH,
        "Gratuitous ARP for an interface address. Without effect in a VPC: AWS delivers by its own mapping.",
        "send_vip_arp: vd root primary 1 intf port1 ip 10.0.10.10",
    ),
    _rule(
        "identity",
        r"awsd get (?P<what>iam role|instance id|region|vpc id)(?:[ ]+(?P<value>\S+))?",
        BOTH,
        "awsd asks the instance metadata service who and where it is. No API call yet.",
        "awsd get instance id i-0546a8af26dd17c3a",
    ),
    _rule(
        "failover_begins",
        r"awsd (?:doing ha failover|checking ha status) for vdom (?P<vdom>\S+)",
        BOTH,
        "The cloud work begins: awsd asks the EC2 API what points at the peer.",
        "awsd checking ha status for vdom root",
        stage=True,
    ),
    _rule(
        "port_pass",
        r"awsd (?:associate|checking) elastic ip for (?P<port>[A-Za-z]\S*)",
        BOTH,
        "The elastic IPs of this port come next. No request in itself.",
        "awsd checking elastic ip for port1",
        stage=True,
    ),
    _rule(
        "eip_asked",
        rf"awsd associate elastic ip (?:allocation (?P<allocation>eipalloc-\w+)|(?P<elastic_ip>{_IPV4}))"
        r" to (?P<ip>\S+) of eni (?P<eni>eni-\w+)",
        BOTH,
        "AssociateAddress is sent: the elastic IP shall point at this unit's address. Open until confirmed.",
        "awsd associate elastic ip 52.9.98.191 to 10.0.10.10 of eni eni-08bfa15d84e7cdea8",
        cut=r"awsd associate elastic ip"
        rf" (?:allocation(?: (?P<allocation>eipalloc-\w+)(?= ))?|(?P<elastic_ip>{_IPV4}) t)(?:.*?to (?P<ip>\S+)(?= ))?",
    ),
    _rule(
        "eip_confirmed",
        rf"awsd associate elastic ip(?: (?:allocation )?(?:(?P<allocation>eipalloc-\w+)|(?P<elastic_ip>{_IPV4})))?"
        r" successfully",
        BOTH,
        "The API accepted the association. Packets follow a little later.",
        "awsd associate elastic ip 52.9.98.191 successfully",
    ),
    _rule(
        "table_scan",
        r"awsd checking route table (?P<route_table>rtb-\w+)",
        NEW,
        "This route table is searched for routes to the peer's interfaces. No request in itself.",
        "awsd checking route table rtb-0ddbb1a18adf410da",
        stage=True,
    ),
    _rule(
        "route_asked",
        r"awsd update route table (?P<route_table>rtb-\w+), replace route of dst (?P<destination>\S+)"
        r" to (?P<eni>eni-\w+)",
        BOTH,
        "ReplaceRoute is sent: the route shall point at this unit's interface. Open until confirmed.",
        "awsd update route table rtb-0ddbb1a18adf410da, replace route of dst 0.0.0.0/0 to eni-0a873113b231370aa",
        cut=r"awsd update route table\b(?: (?P<route_table>rtb-\w+)(?=,))?(?:.*? dst (?P<destination>\S+)(?= ))?",
    ),
    _rule(
        "route_confirmed",
        r"awsd update route successfully",
        BOTH,
        "The API accepted the new route. Packets follow a little later.",
        "awsd update route successfully",
    ),
    _rule(
        "idle",
        r"awsd running in secondary mode, won't update",
        NEW,
        "This unit is secondary: awsd watches and changes nothing.",
        "awsd running in secondary mode, won't update",
        stage=True,
    ),
    _rule(
        "api_error",
        r"aws curl response err\b(?:,\s*(?P<status>-?\d+))?",
        BOTH,
        "The API refused the call, or did not answer. The HTTP status; the reason follows as XML where there is one.",
        "aws curl response err, 403",
    ),
    _rule(
        "keys_invalid",
        r"aws access/secret key invalid",
        BOTH,
        "The credentials of the SDN connector were refused. HA failover uses the instance role, not these keys.",
        "aws access/secret key invalid",
    ),
    _rule(
        "connector_failed",
        r"awsd sdn connector (?P<connector>\S+) failed to (?P<failed_to>\S.*)",
        BOTH,
        "An SDN connector (address objects from tags) could not update. HA failover does not need it.",
        "awsd sdn connector AWS_SDN failed to get instance list",
    ),
    _rule(
        "connector",
        r"awsd sdn connector (?P<connector>\S+)\s+(?P<step>\S.*)",
        BOTH,
        "The same daemon at its other work: an SDN connector updates address objects. Not part of the failover.",
        "awsd sdn connector AWS_SDN start updating",
    ),
    _rule(
        "child_ended",
        r"awsd reap child pid: (?P<pid>\d+)",
        BOTH,
        "A helper process of awsd ended. Harmless.",
        "awsd reap child pid: 14429",
    ),
    _rule(
        "pair_status",
        r"HA status: (?P<status>\S.*)",
        BOTH,
        "`diagnose test application awsd 4` begins: what awsd would work on. First the role of this unit.",
        "HA status: HA Active-passive secondary",
    ),
    _rule("pair_vpc", r"vpc id: (?P<vpc>\S+)", BOTH, "The VPC of the pair.", "vpc id: vpc-047b7d729d93d89f9"),
    _rule(
        "pair_instance",
        r"instance id: (?P<instance>\S+)",
        BOTH,
        "The EC2 instance of the unit that this part is about.",
        "instance id: i-0546a8af26dd17c3a",
    ),
    _rule(
        "pair_eni",
        r"eni: (?P<eni>eni-\w+), IP: (?P<ip>[^,\s]+)(?:, MAC: (?P<mac>[^,\s]+))?(?:, index: (?P<index>\d+))?"
        r"(?:, elastic IP: (?P<elastic_ip>[^,\s]+))?",
        BOTH,
        "A network interface of that unit; index 0 is port1. The elastic IP is the one of its primary address.",
        "eni: eni-0a85582dbe805863a, IP: 10.0.30.10, MAC: 02:3f:ed:e6:1a:b3, index: 2, elastic IP: 54.241.35.168",
    ),
    _rule(
        "pair_secondary",
        r"secondary IP: (?P<ip>[^,\s]+)(?:, elastic IP: (?P<elastic_ip>[^,\s]+))?",
        BOTH,
        "A further address of the interface above, with its elastic IP if it has one.",
        "  secondary IP: 10.0.1.11, elastic IP: 54.241.9.229",
    ),
    _rule(
        "pair_peer",
        r"(?P<role>primary|secondary|master|slave|peer) info:",
        BOTH,
        "From here on the other unit is described.",
        "primary info:",
    ),
    _rule("pair_rule", r"-{4,}$", BOTH, "A dividing line.", "--------"),
    _rule(
        "pair_table",
        r"route table: (?P<route_table>rtb-\w+)",
        BOTH,
        "A route table with routes to the peer: these would move.",
        "route table: rtb-0ddbb1a18adf410da",
    ),
    _rule(
        "pair_route",
        r"route \((?P<destination>[^()\s]+)\) via (?P<eni>\S+)",
        BOTH,
        "A route that would move, and the interface it points at now.",
        "  route (0.0.0.0/0) via eni-06afe987156a7f801",
    ),
    _rule(
        "menu",
        r"\d+\. (?:list sdn connectors|list sdn filters|AWS API test|show HA status|restart)\b",
        BOTH,
        "The menu of `diagnose test application awsd`.",
        "4. show HA status",
    ),
)

# Kinds that no pattern of the table finds: they follow from where a line stands.
OTHER_KINDS: Mapping[str, str] = {
    "error_body": "The API's answer in XML, possibly wrapped over several lines: code and reason of the refusal.",
    "continued": "The rest of the line above, wrapped by the terminal.",
    "command": "Something typed at the prompt, not printed by awsd.",
    "prompt": "A prompt and nothing else.",
    "pager": "The pager's pause.",
    "blank": "Nothing.",
    "unknown": "Not known to this version. Kept as it is; no operation is opened or closed by it.",
}

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_CONTROL = re.compile(r"[\x00-\x07\x0b-\x0c\x0e-\x1f\x7f-\x9f\ufeff]")
_PAGER = re.compile(r"\s*--More--\s*")
_PROMPT = re.compile(r"\s*(?P<unit>[^\s<>#]{1,64})(?: \([^()\s]{1,64}\))? (?:#[ ]?|\$(?:[ ]|$))")
_STAMP = re.compile(
    r"\s*(?:(?P<open>\[)?(?P<date>\d{4}-\d\d-\d\d)[ T](?P<time>\d\d:\d\d:\d\d(?:[.,]\d{1,6})?)"
    r"|(?P<open2>\[)?(?P<only>\d\d:\d\d:\d\d(?:[.,]\d{1,6})?)|\[(?P<epoch>\d{9,11}(?:\.\d{1,9})?))"
    r"(?:\]:?|(?=\s|$))[ ]?"
)
_TYPED = re.compile(r"(?:dia\w*|exe\w*|conf\w*|get|show|end|exit|quit|set|unset|edit|next|abort|fnsysctl)(?:\s|$)")
_TYPED_BARE = re.compile(r"(?:diag\w*|exec\w*) \w|get system \w|config \w")
_ID = re.compile(r"(?:eni|rtb|eipalloc)-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_INSIDE = ("awsd ", "aws curl ", "send_vip_arp: ")


@dataclass(frozen=True, slots=True)
class Stamp:
    """A console timestamp: 1 s resolution, the unit's local time, without a zone.

    Args:
        text: As printed, without brackets.
        scale: `date`, `time` (of an unknown day) or `epoch`: only stamps of one scale can be compared.
        seconds: On that scale.
    """

    text: str
    scale: str
    seconds: float

    def until(self, later: Stamp | None) -> float | None:
        """Seconds from this to a later stamp, None where they cannot be compared or the clock went back."""
        if later is None or later.scale != self.scale:
            return None
        gap = later.seconds - self.seconds
        if self.scale == "time":
            gap %= 86_400  # past midnight
        return round(gap, 6) if gap >= 0 else None


@dataclass(frozen=True, slots=True)
class Undressed:
    """A line without what is not the daemon's: `text` to match, `unit` from the last prompt, when it was printed."""

    text: str
    unit: str = ""
    stamp: Stamp | None = None
    prompted: bool = False
    paged: bool = False
    odd: bool = False  # control sequences stood in it


@dataclass(frozen=True, slots=True)
class Match:
    """What a line was found to be."""

    rule: Rule
    fields: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    inside: bool = False  # behind other text


def undress(line: str) -> Undressed:
    """Take prompts, timestamps, pager and control sequences off a line, as many as there are, in any order."""
    text = _ESCAPE.sub("", line)
    text = _CONTROL.sub("", text)
    if "\b" in text:
        text = _erase(text)
    odd = text != line.rstrip("\r")
    text = text.replace("\r", " ").replace("\t", " ")
    at, unit, stamp, prompted, paged = 0, "", None, False, False
    while True:
        if found := _PAGER.match(text, at):
            paged = True
        elif found := _STAMP.match(text, at):
            stamp = _stamp(found) or stamp
        elif found := _PROMPT.match(text, at):
            unit, prompted = found["unit"], True
        else:
            break
        at = found.end()
    # Spaces around it are kept: they may belong to the middle of a wrapped answer.
    return Undressed(text[at:], unit, stamp, prompted, paged, odd)


def _erase(text: str) -> str:
    """Obey backspaces: the pager and a typing person erase with them."""
    kept: list[str] = []
    for sign in text:
        if sign != "\b":
            kept.append(sign)
        elif kept:
            kept.pop()
    return "".join(kept)


def _stamp(found: re.Match[str]) -> Stamp | None:
    """The stamp of a prefix, None if it names no possible time."""
    if found["epoch"]:
        return Stamp(found["epoch"], "epoch", float(found["epoch"]))
    date, time = found["date"], (found["time"] or found["only"]).replace(",", ".")
    day = date or "1970-01-01"
    try:
        parsed = datetime.strptime(f"{day} {time}", "%Y-%m-%d %H:%M:%S.%f" if "." in time else "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return None
    text = f"{date} {time}" if date else time
    return Stamp(text, "date" if date else "time", (parsed - datetime(1970, 1, 1)).total_seconds())


def match(text: str) -> Match | None:
    """Find the rule of an undressed line, None for a line that no rule knows."""
    text = text.strip()
    for rule in RULES:
        if found := rule.pattern.match(text):
            return Match(rule, fields_of(found))
    for rule in RULES:
        if rule.cut and (found := rule.cut.match(text)):
            return Match(rule, fields_of(found), cut=True)
    # Debug output also lands behind what somebody is typing.
    for start in sorted(at for word in _INSIDE if (at := text.find(word, 1)) > 0):
        for rule in RULES:
            if found := rule.pattern.match(text, start):
                return Match(rule, fields_of(found), inside=True)
    return None


def fields_of(found: re.Match[str]) -> dict[str, str]:
    """The named groups that took part in a match."""
    return {name: value for name, value in found.groupdict().items() if value is not None}


def typed(line: Undressed) -> bool:
    """Whether a line that no rule knows is a command somebody typed."""
    text = line.text.lstrip()
    return bool(_TYPED.match(text) if line.prompted else _TYPED_BARE.match(text))


def whole_ids(fields: Mapping[str, str]) -> bool:
    """Whether every AWS identifier has all of its digits (8, or 17 since 2016): a cut line may end inside one."""
    return all(_ID.fullmatch(value) for value in fields.values() if value.startswith(("eni-", "rtb-", "eipalloc-")))
