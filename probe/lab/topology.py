"""The lab's network: namespaces, veth pairs, addresses, routers, and the two things the cloud may change in it.

What is real and what stands in:

* `vpc` is the router of the FortiGate VPC. Like a VPC it routes by the route table of the subnet a packet
  comes from (one policy rule per ingress interface), knows every network interface's MAC address without
  asking (permanent neighbour entries, no ARP), lets the VPC's own addresses take precedence over any route
  table, and drops what it cannot deliver without a word.
* `tgw` is the transit gateway with the spokes' routers. Its tables never change in a failover: everything
  from a spoke goes to the FortiGate VPC, through the attachment in the spoke's own zone.
* `igw` is the internet gateway. An Elastic IP is a stateless 1:1 translation there, so moving one takes
  effect for the next packet, whatever session it belongs to. (Addresses quoted inside ICMP errors are not
  translated; a real gateway does that as well.)

`set_route`, `set_eips` and `set_private_ip` are the data plane's whole control surface; `set_loss`, `cut` and
`cut_watchers` spoil it. Nothing here reaches the root namespace.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from probe.lab import namespace
from probe.lab.plan import (
    CLOUD_CIDR,
    EDGE,
    EIP_CIDR,
    ELASTIC_IPS,
    ENIS,
    HOSTS,
    PORTS,
    PRIVATE_CIDRS,
    ROUTERS,
    SILENT_ROUTERS,
    UNITS,
    VPC_CIDR,
    WORKLOAD_B,
    End,
    Plan,
    Target,
    eni_of,
    peer_of,
    subnet,
    table,
)

MAIN = 254
_LINK = 253  # scope of a destination without a gateway
_ENDPOINT_TABLE = 90  # vpc: to the EC2 interface endpoint
_ENDPOINT_RULE = 110  # priority of the rules that lead there
_SPOKE_TABLE = {"spoke-a": (201, "10.99.99.145", "transit-a"), "spoke-b": (202, "10.99.99.65", "transit-b")}
_GATEWAY_OF = {"wl-a": "10.99.98.1", "wl-b": "10.99.97.1", "jump": "198.51.100.1", "inet": "198.51.100.129"}
_MGMT_TABLE = 4  # units: port4 has its own
_TX_QUEUE = 10_000  # frames; veth queues nothing itself, this only counts if someone adds a qdisc
_OFFLOADS = ("tso", "gso", "gro", "sg", "tx", "rx")

# Silence of the cloud's routers: errors about a packet are never sent, echo is still answered.
_SILENT = """
table inet silent {
  chain output {
    type filter hook output priority filter; policy accept;
    icmp type { destination-unreachable, time-exceeded, parameter-problem, redirect } drop
  }
}
"""

_LOSS_CLEAR = "table inet loss\ndelete table inet loss\n"
_LOSS = """
table inet loss {
  chain forward {
    type filter hook forward priority filter; policy accept;
    oifname "spoke-a" %s drop
  }
}
"""

_MANAGEMENT = ", ".join(one.address for one in ELASTIC_IPS if one.eni.endswith("-port4"))
_CUT_CLEAR = "table inet cut\ndelete table inet cut\n"
_CUT = f"""
table inet cut {{
  chain prerouting {{
    type filter hook prerouting priority -400; policy accept;
    iifname "jump" ip daddr {{ {CLOUD_CIDR}, {_MANAGEMENT} }} drop
  }}
}}
"""

_PRIVATE = ", ".join(PRIVATE_CIDRS)
_GATEWAY = f"""
table ip eip {{
  map inbound {{ type ipv4_addr : ipv4_addr; }}
  map outbound {{ type ipv4_addr : ipv4_addr; }}
  chain prerouting {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "vpc" ip daddr {{ {_PRIVATE} }} drop
    iifname "vpc" notrack ip saddr set ip saddr map @outbound
    iifname "vpc" ip saddr {{ {_PRIVATE} }} drop
    notrack ip daddr set ip daddr map @inbound
    ip daddr {EIP_CIDR} drop
  }}
}}
"""


def create(plan: Plan, progress: Callable[[str], None] = lambda _: None) -> None:
    """Make the whole network, in the state the plan starts from. Names of the plan must be free.

    Raises:
        LabError: If a tool is missing or refuses.
        OSError: If namespaces may not be made (CAP_SYS_ADMIN and CAP_NET_ADMIN are needed).
    """
    progress("network namespaces")
    for host in HOSTS:
        namespace.create(plan.namespace(host))
        namespace.inside(plan.namespace_path(host), _sysctls, host)
    progress("links and routers")
    namespace.inside(plan.namespace_path(HOSTS[0]), _veths, plan)
    for host in HOSTS:
        namespace.inside(plan.namespace_path(host), _configure, plan, host)
    for route_table in plan.route_tables:
        for destination, target in route_table.routes:
            set_route(plan, route_table.name, destination, target)
    set_eips(plan, {one.address: plan.eni(one.eni).port_address for one in ELASTIC_IPS})
    for one in plan.enis:
        if one.shared and one.unit == UNITS[0]:
            set_private_ip(plan, one.shared, one.name)
    if plan.options.endpoint == "unreachable":
        namespace.inside(plan.namespace_path("vpc"), _cut_endpoint)
    if plan.options.edge != "none":
        namespace.inside(plan.namespace_path("vpc"), _obey_edge_table)
    if plan.options.edge in ("taken", "management"):
        namespace.inside(plan.namespace_path("vpc"), _remove_endpoint)


def destroy(plan: Plan) -> None:
    """Remove every namespace of the plan that exists. Processes in them must be gone already."""
    for host in HOSTS:
        namespace.remove(plan.namespace(host))


def set_route(plan: Plan, table_name: str, destination: str, target: Target) -> None:
    """Let a VPC route table send `destination` to `target`, in effect for the next packet when this returns.

    Args:
        plan: The lab.
        table_name: Name of the route table ("transit").
        destination: CIDR ("0.0.0.0/0").
        target: ENI name, "igw", "tgw", or None to have no such route.

    Raises:
        KeyError: If there is no such table or ENI.
    """
    number = table(table_name).number
    hop = None if target is None else _next_hop(plan, table_name, target)
    namespace.inside(plan.namespace_path("vpc"), _set_route, number, destination, hop)


def set_eips(plan: Plan, mapping: Mapping[str, str]) -> None:
    """Let exactly these Elastic IPs be in use: public address to private address. Atomic for all of them."""
    lines = ["flush map ip eip inbound", "flush map ip eip outbound"]
    if mapping:
        outbound = {private: public for public, private in mapping.items()}
        lines.append(f"add element ip eip inbound {{ {_elements(mapping)} }}")
        lines.append(f"add element ip eip outbound {{ {_elements(outbound)} }}")
    argv = namespace.command_inside(plan.namespace_path("igw"), ["nft", "-f", "-"])
    namespace.run(argv, "\n".join(lines) + "\n")


def routes(plan: Plan) -> dict[str, dict[str, str]]:
    """What the VPC router forwards by now: table name to destination to target."""
    by_number = {one.number: one.name for one in plan.route_tables}
    targets = {one.name for one in ENIS}

    def read() -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {one.name: {} for one in plan.route_tables}
        with IPRoute() as ipr:
            names = {link["index"]: link.get("ifname") for link in ipr.get_links()}
            for route in ipr.get_routes(family=2):
                name = by_number.get(route.get("table"))
                if name is None:
                    continue
                out = names.get(route.get("oif"), "")
                destination = f"{route.get('dst') or '0.0.0.0'}/{route['dst_len']}"
                found[name][destination] = out if out in targets or out == "igw" else "tgw"
        return found

    return namespace.inside(plan.namespace_path("vpc"), read)


def eips(plan: Plan) -> dict[str, str]:
    """The Elastic IPs in use at the internet gateway by now: public address to private address."""
    argv = ["nft", "list", "map", "ip", "eip", "inbound"]
    text = namespace.run(namespace.command_inside(plan.namespace_path("igw"), argv))
    if "elements = {" not in text:
        return {}
    body = text.split("elements = {", 1)[1].split("}", 1)[0]
    pairs = [pair.split(":") for pair in body.split(",")]
    return {public.strip(): private.strip() for public, private in pairs}


def set_private_ip(plan: Plan, address: str, eni_name: str | None) -> None:
    """Let the ENI of that name have a secondary address; None: nobody has it.

    Raises:
        KeyError: If there is no such ENI.
    """
    interface = None if eni_name is None else plan.eni(eni_name).name

    def change() -> None:
        with IPRoute() as ipr:
            if interface is None:
                with suppress(NetlinkError):  # as wished
                    ipr.route("del", dst=f"{address}/32", scope=_LINK)
            else:
                ipr.route("replace", dst=f"{address}/32", oif=_index(ipr, interface), scope=_LINK)

    namespace.inside(plan.namespace_path("vpc"), change)


def private_ips(plan: Plan) -> dict[str, str]:
    """Who has the addresses that move with the active unit by now: address to ENI name; empty across zones."""
    shared = {one.shared for one in plan.enis if one.shared}

    def read() -> dict[str, str]:
        with IPRoute() as ipr:
            names = {link["index"]: str(link.get("ifname")) for link in ipr.get_links()}
            found = {route.get("dst"): names[route.get("oif")] for route in ipr.get_routes(family=2, table=MAIN)
                     if route.get("dst") in shared and route["dst_len"] == 32}  # fmt: skip
        return found

    return namespace.inside(plan.namespace_path("vpc"), read) if shared else {}


def set_loss(plan: Plan, percent: int) -> None:
    """Let the transit gateway lose that share of all packets to workload A, at random; 0 for none.

    Every flow of the agents passes there once, in one direction.
    """
    chance = "" if percent >= 100 else f"numgen random mod 100 < {percent}"
    text = _LOSS_CLEAR if not percent else _LOSS_CLEAR + _LOSS % chance
    namespace.run(namespace.command_inside(plan.namespace_path("tgw"), ["nft", "-f", "-"]), text)


def cut(plan: Plan, milliseconds: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """Let the transit gateway lose every packet to workload B for so long; returns when that is over.

    Returns:
        Between which instants it began, and between which it ended; Unix epoch in nanoseconds.
    """

    def change() -> tuple[tuple[int, int], tuple[int, int]]:
        route = {"table": MAIN, "dst": f"{WORKLOAD_B}/32", "type": "blackhole"}  # one message each: no process to start
        with IPRoute() as ipr:
            begun = _timed(ipr, "add", route)
            try:
                time.sleep(milliseconds / 1000)
            finally:
                ended = _timed(ipr, "del", route)
        return begun, ended

    return namespace.inside(plan.namespace_path("tgw"), change)


def _timed(ipr: Any, command: str, route: dict[str, Any]) -> tuple[int, int]:
    before_ns = time.time_ns()
    ipr.route(command, **route)
    return before_ns, time.time_ns()


def cut_watchers(plan: Plan, cut: bool) -> None:
    """Let nothing pass from the jumphost to the cloud's API and the units' management, or let it again.

    What it probes is elsewhere.
    """
    text = _CUT_CLEAR + _CUT if cut else _CUT_CLEAR
    namespace.run(namespace.command_inside(plan.namespace_path("igw"), ["nft", "-f", "-"]), text)


def set_ports(plan: Plan, unit: str, state: str, ports: Sequence[str] = PORTS) -> tuple[int, int]:
    """Put ports of a unit (all) "up" or "down". Down takes their routes along, up brings them back.

    Returns:
        When the first port changed, at the earliest, and the last, at the latest; Unix epoch in nanoseconds.
    """

    def change() -> tuple[int, int]:
        with IPRoute() as ipr:
            indexes = [_index(ipr, port) for port in ports]
            first_ns = time.time_ns()
            for index in indexes:
                ipr.link("set", index=index, state=state)
            last_ns = time.time_ns()
            if state == "up":
                _routes_of(ipr, plan, unit)
        return first_ns, last_ns

    return namespace.inside(plan.namespace_path(unit), change)


def _elements(mapping: Mapping[str, str]) -> str:
    return ", ".join(f"{key} : {value}" for key, value in mapping.items())


def _next_hop(plan: Plan, table_name: str, target: str) -> tuple[str, str]:
    """(gateway, interface) on host vpc."""
    if target == "igw":
        return "169.254.0.2", "igw"
    if target == "tgw":  # the attachment in the table's own zone
        return ("10.99.99.68", "transit-b") if table_name.endswith("-b") else ("10.99.99.148", "transit-a")
    return plan.eni(target).address, target


def _set_route(number: int, destination: str, hop: tuple[str, str] | None) -> None:
    with IPRoute() as ipr:
        if hop is None:
            with suppress(NetlinkError):  # no such route: as wished
                ipr.route("del", table=number, dst=destination)
            return
        gateway, interface = hop
        ipr.route("replace", table=number, dst=destination, gateway=gateway, oif=_index(ipr, interface))


def _index(ipr: Any, interface: str) -> int:
    found = ipr.link_lookup(ifname=interface)
    if not found:
        raise namespace.LabError(f"the lab has lost its interface {interface}; run `haprobe lab up` again")
    return int(found[0])


def _sysctls(host: str) -> None:
    """Before any interface exists, so that `default` reaches them all."""
    settings = {
        "ipv4/ip_forward": int(host in ROUTERS),
        "ipv4/conf/%s/rp_filter": 0,  # both directions of a flow may use different interfaces mid-failover
        "ipv4/conf/%s/send_redirects": 0,  # east-west leaves by the interface it came in
        "ipv4/conf/%s/accept_redirects": 0,
        "ipv6/conf/%s/disable_ipv6": 1,
    }
    for name, value in settings.items():
        for scope in ("all", "default") if "%s" in name else ("",):
            path = Path("/proc/sys/net") / (name % scope if scope else name)
            if path.exists():  # a kernel without IPv6 has nothing to switch off
                path.write_text(str(value))


def _veths(plan: Plan) -> None:
    with IPRoute() as ipr:
        for link in plan.links:
            ipr.link("add", kind="veth", **_veth_end(plan, link.a), peer=_veth_end(plan, link.b))


def _veth_end(plan: Plan, end: End) -> dict[str, Any]:
    wish: dict[str, Any] = {"ifname": end.interface, "net_ns_fd": plan.namespace(end.host), "txqlen": _TX_QUEUE}
    if end.mac:
        wish["address"] = end.mac
    return wish


def _ends(plan: Plan, host: str) -> Iterator[End]:
    for link in plan.links:
        for end in (link.a, link.b):
            if end.host == host:
                yield end


def _configure(plan: Plan, host: str) -> None:
    for end in _ends(plan, host):
        # What a sender counts as one packet must be one packet everywhere, with its checksum filled in.
        settings = [word for offload in _OFFLOADS for word in (offload, "off")]
        namespace.run(["ethtool", "-K", end.interface, *settings])
    with IPRoute() as ipr:
        ipr.link("set", index=1, state="up")
        for end in _ends(plan, host):
            index = _index(ipr, end.interface)
            if end.address:
                address, length = end.address.split("/")
                ipr.addr("add", index=index, address=address, prefixlen=int(length))
            ipr.link("set", index=index, state="up")
        _routes_of(ipr, plan, host)
    if host in SILENT_ROUTERS:
        namespace.run(["nft", "-f", "-"], _SILENT)
    if host == "igw":
        namespace.run(["nft", "-f", "-"], _GATEWAY)


def _routes_of(ipr: Any, plan: Plan, host: str) -> None:
    """Static routes, rules and neighbours of a host. Can be repeated after its links were down."""

    def via(destination: str, gateway: str, interface: str, number: int = MAIN) -> None:
        ipr.route("replace", table=number, dst=destination, gateway=gateway, oif=_index(ipr, interface))

    if host == "vpc":
        _routes_of_vpc(ipr, plan, via)
    elif host in UNITS:
        _routes_of_unit(ipr, plan, host, via)
    elif host == "tgw":
        for priority, (interface, (number, gateway, out)) in enumerate(_SPOKE_TABLE.items(), 100):
            ipr.rule("add", priority=priority, iifname=interface, table=number)
            via("0.0.0.0/0", gateway, out, number)
    elif host == "igw":
        via(VPC_CIDR, "169.254.0.1", "vpc")
    elif host == "cloud":
        via("0.0.0.0/0", "198.18.0.1", "eth0")
        via(VPC_CIDR, "169.254.0.5", "endpoint")
    else:
        via("0.0.0.0/0", _GATEWAY_OF[host], "eth0")


def _routes_of_vpc(ipr: Any, plan: Plan, via: Callable[..., None]) -> None:
    for one in plan.enis:
        index = _index(ipr, one.name)
        for address in filter(None, (one.address, one.shared)):
            ipr.neigh("replace", dst=address, lladdr=one.mac, ifindex=index, state="permanent")
        if one.shared:  # its subnet is behind the peer's interface as well
            ipr.route("replace", dst=f"{one.address}/32", oif=index, scope=_LINK)
    # The local route of a VPC precedes every route table.
    ipr.rule("add", priority=100, dst=VPC_CIDR, table=MAIN)
    ipr.route("replace", dst=VPC_CIDR, type="blackhole")
    via(CLOUD_CIDR, "169.254.0.6", "endpoint", _ENDPOINT_TABLE)
    ingress = {one.name: one.subnet for one in plan.enis} | {name: subnet(name) for name in ("transit-a", "transit-b")}
    for priority, (interface, where) in enumerate(ingress.items(), 200):
        if where.name.startswith("mgmt"):
            ipr.rule("add", priority=_ENDPOINT_RULE, iifname=interface, dst=CLOUD_CIDR, table=_ENDPOINT_TABLE)
        ipr.rule("add", priority=priority, iifname=interface, table=table(where.table).number)


def _cut_endpoint() -> None:
    """Packets to the EC2 endpoint vanish, as behind a security group that does not let them in."""
    with IPRoute() as ipr:
        ipr.route("replace", table=_ENDPOINT_TABLE, dst=CLOUD_CIDR, type="blackhole")


def _obey_edge_table() -> None:
    """For what comes in by the internet gateway its own route table precedes all others."""
    with IPRoute() as ipr:
        ipr.rule("add", priority=90, iifname="igw", table=table(EDGE).number)


def _remove_endpoint() -> None:
    """The management ports reach the cloud through the internet gateway."""
    with IPRoute() as ipr:
        ipr.flush_rules(priority=_ENDPOINT_RULE)


def _routes_of_unit(ipr: Any, plan: Plan, unit: str, via: Callable[..., None]) -> None:
    via("0.0.0.0/0", plan.eni_of(unit, "port1").subnet.gateway, "port1")
    for private in PRIVATE_CIDRS:
        via(private, plan.eni_of(unit, "port2").subnet.gateway, "port2")
    via(eni_of(peer_of(unit), "port3").subnet.cidr, eni_of(unit, "port3").subnet.gateway, "port3")
    management = eni_of(unit, "port4")
    via("0.0.0.0/0", management.subnet.gateway, "port4", _MGMT_TABLE)
    for match in ({"src": f"{management.address}/32"}, {"iifname": "lo", "dst": CLOUD_CIDR}):
        with suppress(NetlinkError):  # rules outlive a link that was down
            ipr.rule("add", priority=100, table=_MGMT_TABLE, **match)
