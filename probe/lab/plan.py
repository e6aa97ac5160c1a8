"""What the lab consists of: namespaces, links, addresses, subnets, interfaces, route tables. No I/O but one file.

The figures are those of the workshop (multi-AZ, FortiGate VPC 10.99.99.0/24): every address a person knows
from there is found here. With `single_az` the data ports of both units are in one subnet each, and share an address
there. Everything that takes part in the lab (topology, firewalls, cloud, agents) reads this plan, so that a name
means the same thing everywhere:

    host            a network namespace, `plan.namespace(host)` is its name: "wl-a", "tgw", "vpc", "fgt-a" ...
    unit            a host that is a FortiGate stand-in: "fgt-a", "fgt-b"
    port            an interface of a unit: "port1" public, "port2" private, "port3" heartbeat, "port4" management
    ENI name        UNIT-PORT, for instance "fgt-a-port2"; the cloud's own ids (eni-...) are in STATE/cloud.json
    table name      a VPC route table: "public-a", "transit" ...; `number` is the kernel's table on host "vpc"
    target          where a route points: an ENI name, "igw", "tgw", or None for no such route
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

DEFAULT_PREFIX = "haprobe-"
DEFAULT_STATE = Path("/run/haprobe/lab")

VPC_CIDR = "10.99.99.0/24"
PRIVATE_CIDRS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
EIP_CIDR = "203.0.113.0/24"
CLUSTER_EIP = "203.0.113.10"
REGION = "eu-west-2"

CLOUD_ADDRESS = "198.18.0.10"
CLOUD_CIDR = "198.18.0.0/24"
CLOUD_PORT = 5000
CLOUD_URL = f"http://{CLOUD_ADDRESS}:{CLOUD_PORT}"  # from every namespace; the root namespace has Lab.endpoint_url

WORKLOAD_A = "10.99.98.10"
WORKLOAD_B = "10.99.97.10"
JUMP = "198.51.100.10"
INTERNET = "198.51.100.130"

UNITS = ("fgt-a", "fgt-b")
PORTS = ("port1", "port2", "port3", "port4")
HOSTS = ("wl-a", "wl-b", "tgw", "vpc", "igw", "jump", "inet", "cloud", "fgt-a", "fgt-b")
ROUTERS = ("tgw", "vpc", "igw", "fgt-a", "fgt-b")
SILENT_ROUTERS = ("tgw", "vpc", "igw")  # send no ICMP error of their own: a VPC drops silently

Target = str | None


@dataclass(frozen=True, slots=True)
class LabOptions:
    """How this lab behaves; everything a scenario may vary."""

    session_pickup: bool = True  # conntrackd synchronises TCP sessions between the units
    session_pickup_connectionless: bool = False  # and UDP and ICMP as well; without session_pickup nothing is
    reset_sessionless_tcp: bool = False  # answer mid-stream TCP without a session with RST instead of silence
    api_latency_ms: int = 150  # added to every call of a FortiGate to the cloud
    propagation_ms: int = 80  # from the cloud's answer until the data plane obeys
    heartbeat_interval_ms: int = 200  # FortiOS hb-interval 2 (x100 ms)
    heartbeat_lost: int = 20  # FortiOS hb-lost-threshold: 20 x 200 ms = 4 s until a dead peer is declared dead
    vip_extip: Literal["own", "fixed"] = "own"  # fixed: the VIP is bound to fgt-a's port1 address on both units
    # The workshop's exercise 1: ingress is translated to the unit's port2, so that replies need no route that moves.
    ingress_snat: bool = True
    failback_on_unset: bool = True  # `execute ha failover unset` lets priority decide again: a second failover
    # Both units in one zone: the secondary private addresses of their data ports move, with the Elastic IP on one.
    single_az: bool = False
    agent_rate_pps: int = 200  # probes per second of each flow of the lab's agents
    # How the cloud's part goes wrong.
    api_faults: tuple[Mapping[str, Any], ...] = ()  # rules of `faults` in force from the start, as they are POSTed
    awsd_dns: bool = True  # False: the units cannot resolve the API's name
    endpoint: Literal["up", "unreachable"] = "up"  # the units' way to the API: the EC2 interface endpoint
    # What the internet gateway's own (edge) route table holds, see `EDGE_TABLES`.
    edge: Literal["none", "taken", "management", "ingress"] = "none"
    forgotten_tables: tuple[str, ...] = ()  # route tables that awsd does not find, as those of another VPC
    watch_from: Literal["jumphost", "workload-a"] = "jumphost"  # workload-a: from behind the pair
    cut_watchers: bool = False  # each failover cuts the jumphost's way to the API and the units as well


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet of the FortiGate VPC. The VPC router answers on `gateway`."""

    name: str
    cidr: str
    az: str
    gateway: str
    table: str  # route table associated with it

    @property
    def prefix_length(self) -> int:
        return int(self.cidr.rsplit("/", 1)[1])


@dataclass(frozen=True, slots=True)
class Eni:
    """A network interface of a unit. `device_index` as in the workshop: port1 is 0."""

    name: str  # "fgt-a-port1"
    unit: str
    port: str
    address: str
    subnet: Subnet
    mac: str
    device_index: int
    shared: str = ""  # secondary address that belongs to whichever unit is active; in one zone, on data ports

    @property
    def port_address(self) -> str:
        """What FortiOS has on the port: in one zone both units have the address that they share."""
        return self.shared or self.address


@dataclass(frozen=True, slots=True)
class RouteTable:
    """A VPC route table as it is at the start; the VPC's local route is implied."""

    name: str
    number: int  # kernel table on host "vpc"
    routes: tuple[tuple[str, str], ...]  # (destination, target)


@dataclass(frozen=True, slots=True)
class ElasticIp:
    """A public address and the ENI whose primary address it belongs to at the start."""

    name: str
    address: str
    eni: str


def management_addresses(unit: str) -> tuple[str, str]:
    """Where a unit's management plane is reached: from the internet, and inside the VPC."""
    eni_name = f"{unit}-port4"
    return next(one.address for one in ELASTIC_IPS if one.eni == eni_name), eni(eni_name).address


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link. `address` has a prefix length; None for an interface without one."""

    host: str
    interface: str
    address: str | None
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair between two hosts."""

    a: End
    b: End


def _subnet(kind: str, az: str, first: int, table: str) -> Subnet:
    net = "10.99.99."
    return Subnet(f"{kind}-{az}", f"{net}{first}/28", f"{REGION}{az}", f"{net}{first + 1}", table)


SUBNETS: tuple[Subnet, ...] = (
    _subnet("public", "a", 80, "public-a"),
    _subnet("private", "a", 96, "private-a"),
    _subnet("mgmt", "a", 112, "mgmt-a"),
    _subnet("hasync", "a", 128, "hasync"),
    _subnet("transit", "a", 144, "transit"),
    _subnet("public", "b", 0, "public-b"),
    _subnet("private", "b", 16, "private-b"),
    _subnet("mgmt", "b", 32, "mgmt-b"),
    _subnet("hasync", "b", 48, "hasync"),
    _subnet("transit", "b", 64, "transit"),
)
_SUBNET = {subnet.name: subnet for subnet in SUBNETS}
_PORT_SUBNET = {"port1": "public", "port2": "private", "port3": "hasync", "port4": "mgmt"}


DATA_PORTS = ("port1", "port2")


def _enis(single_az: bool) -> tuple[Eni, ...]:
    enis = []
    for number, (unit, az) in enumerate(zip(UNITS, "ab", strict=True)):
        for index, port in enumerate(PORTS):
            # In one zone the data ports of both units share a subnet: only within one can an address move.
            together = single_az and port in DATA_PORTS
            subnet = _SUBNET[f"{_PORT_SUBNET[port]}-{'a' if together else az}"]
            first = int(subnet.cidr.split("/")[0].rsplit(".", 1)[1])
            mac = f"02:99:00:00:0{number + 1}:0{index + 1}"
            address = f"10.99.99.{first + 10 + (number if together else 0)}"
            shared = f"10.99.99.{first + 12}" if together else ""
            enis.append(Eni(f"{unit}-{port}", unit, port, address, subnet, mac, index, shared))
    return tuple(enis)


ENIS: tuple[Eni, ...] = _enis(single_az=False)
_ENIS_SINGLE_AZ: tuple[Eni, ...] = _enis(single_az=True)

TRANSIT_TABLE = "transit"
ROUTE_TABLES: tuple[RouteTable, ...] = (
    RouteTable("public-a", 101, (("0.0.0.0/0", "igw"),)),
    RouteTable("public-b", 102, (("0.0.0.0/0", "igw"),)),
    RouteTable("private-a", 103, (("0.0.0.0/0", "tgw"),)),
    RouteTable("private-b", 104, (("0.0.0.0/0", "tgw"),)),
    RouteTable("mgmt-a", 105, (("0.0.0.0/0", "igw"),)),
    RouteTable("mgmt-b", 106, (("0.0.0.0/0", "igw"),)),
    RouteTable("hasync", 107, ()),
    RouteTable(TRANSIT_TABLE, 108, (("0.0.0.0/0", "fgt-a-port2"),)),
)

EDGE = "edge"
_EDGE_NUMBER = 109
# The internet gateway's own route table: where it sends what comes in, ahead of the VPC's local route. With the first
# two, the units reach the API through the gateway instead of an endpoint, so that its routes decide who gets answers.
EDGE_TABLES: dict[str, RouteTable] = {
    # An earlier failover has pointed fgt-b's management subnet at fgt-a: nothing gets back to fgt-b.
    "taken": RouteTable(EDGE, _EDGE_NUMBER, (("10.99.99.32/28", "fgt-a-port4"),)),
    # Each in its place. awsd takes fgt-a's for a route of its own, and rewrites it when fgt-b takes over.
    "management": RouteTable(EDGE, _EDGE_NUMBER, (("10.99.99.112/28", "fgt-a-port4"),)),
    # Ingress routing: what comes in for either public subnet goes through the active unit.
    "ingress": RouteTable(EDGE, _EDGE_NUMBER, (("10.99.99.80/28", "fgt-a-port1"), ("10.99.99.0/28", "fgt-a-port1"))),
}

ELASTIC_IPS: tuple[ElasticIp, ...] = (
    ElasticIp("cluster", CLUSTER_EIP, "fgt-a-port1"),
    ElasticIp("mgmt-a", "203.0.113.11", "fgt-a-port4"),
    ElasticIp("mgmt-b", "203.0.113.12", "fgt-b-port4"),
)


def _links(enis: tuple[Eni, ...]) -> tuple[Link, ...]:
    links = [
        Link(End("wl-a", "eth0", f"{WORKLOAD_A}/26"), End("tgw", "spoke-a", "10.99.98.1/26")),
        Link(End("wl-b", "eth0", f"{WORKLOAD_B}/26"), End("tgw", "spoke-b", "10.99.97.1/26")),
        Link(End("tgw", "transit-a", "10.99.99.148/28"), End("vpc", "transit-a", "10.99.99.145/28")),
        Link(End("tgw", "transit-b", "10.99.99.68/28"), End("vpc", "transit-b", "10.99.99.65/28")),
        Link(End("vpc", "igw", "169.254.0.1/30"), End("igw", "vpc", "169.254.0.2/30")),
        Link(End("jump", "eth0", f"{JUMP}/25"), End("igw", "jump", "198.51.100.1/25")),
        Link(End("inet", "eth0", f"{INTERNET}/25"), End("igw", "inet", "198.51.100.129/25")),
        Link(End("cloud", "eth0", f"{CLOUD_ADDRESS}/24"), End("igw", "cloud", "198.18.0.1/24")),
        # The EC2 interface endpoint: the management ports reach the cloud without the internet gateway.
        Link(End("cloud", "endpoint", "169.254.0.6/30"), End("vpc", "endpoint", "169.254.0.5/30")),
    ]
    for eni in enis:
        length = eni.subnet.prefix_length
        links.append(
            Link(
                End(eni.unit, eni.port, f"{eni.port_address}/{length}", eni.mac),
                End("vpc", eni.name, f"{eni.subnet.gateway}/{length}"),
            )
        )
    return tuple(links)


LINKS: tuple[Link, ...] = _links(ENIS)
_LINKS_SINGLE_AZ: tuple[Link, ...] = _links(_ENIS_SINGLE_AZ)


@dataclass(frozen=True, slots=True)
class Plan:
    """One lab: its names on this machine, where its state lives, and its options.

    Args:
        prefix: Start of every namespace's name. Two labs with different prefixes do not meet.
        state: Directory of the lab's files (events.jsonl, cloud.json, logs, sockets).
        options: How the lab behaves.
    """

    prefix: str = DEFAULT_PREFIX
    state: Path = DEFAULT_STATE
    options: LabOptions = field(default_factory=LabOptions)

    @property
    def enis(self) -> tuple[Eni, ...]:
        """The units' network interfaces."""
        return _ENIS_SINGLE_AZ if self.options.single_az else ENIS

    @property
    def route_tables(self) -> tuple[RouteTable, ...]:
        """The VPC's, and the internet gateway's where there is one."""
        edge = EDGE_TABLES.get(self.options.edge)
        return ROUTE_TABLES if edge is None else (*ROUTE_TABLES, edge)

    @property
    def links(self) -> tuple[Link, ...]:
        """The veth pairs."""
        return _LINKS_SINGLE_AZ if self.options.single_az else LINKS

    def eni(self, name: str) -> Eni:
        """The ENI of that name ("fgt-a-port1")."""
        return {one.name: one for one in self.enis}[name]

    def eni_of(self, unit: str, port: str) -> Eni:
        """The ENI behind a unit's port."""
        return self.eni(f"{unit}-{port}")

    def namespace(self, host: str) -> str:
        """Name of a host's network namespace, as in `ip netns list`."""
        if host not in HOSTS:
            raise KeyError(f"no host {host!r} in the lab; there are {', '.join(HOSTS)}")
        return self.prefix + host

    def namespace_path(self, host: str) -> Path:
        return Path("/run/netns") / self.namespace(host)

    @property
    def events_file(self) -> Path:
        """Timeline events of the whole lab, one JSON document per line (see `state.append_event`)."""
        return self.state / "events.jsonl"

    @property
    def cloud_file(self) -> Path:
        """The cloud's ids, written by `cloud` when it is ready."""
        return self.state / "cloud.json"

    @property
    def file(self) -> Path:
        """This plan, for the processes of the lab (`--plan`)."""
        return self.state / "plan.json"

    @property
    def credentials(self) -> Path:
        """Keys and certificates of the units' management planes."""
        return self.state / "credentials"

    def control_socket(self, unit: str) -> Path:
        """Where a unit's HA daemon takes commands."""
        return self.state / f"{unit}.sock"

    def save(self) -> Path:
        """Write the plan to `self.file` and return that path."""
        document = {"prefix": self.prefix, "state": str(self.state), "options": asdict(self.options)}
        self.state.mkdir(parents=True, exist_ok=True)
        scratch = self.file.with_suffix(".new")
        scratch.write_text(json.dumps(document, indent=1) + "\n")
        scratch.replace(self.file)
        return self.file

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read a plan written by `save`.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it holds no plan.
        """
        document: dict[str, Any] = json.loads(Path(path).read_text())
        try:
            # JSON has no tuples.
            options: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in document["options"].items()
            }
            return cls(document["prefix"], Path(document["state"]), LabOptions(**options))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no lab plan: {error}") from error


def eni(name: str) -> Eni:
    """The ENI of that name ("fgt-a-port1") across zones; `Plan.eni` knows the lab's own."""
    return _ENI[name]


def eni_of(unit: str, port: str) -> Eni:
    """The ENI behind a unit's port across zones; of port3 and port4 in one zone as well."""
    return _ENI[f"{unit}-{port}"]


def subnet(name: str) -> Subnet:
    """The subnet of that name ("public-a")."""
    return _SUBNET[name]


def table(name: str) -> RouteTable:
    """The route table of that name ("transit")."""
    return _TABLE[name]


def peer_of(unit: str) -> str:
    """The other unit of the cluster."""
    return UNITS[1 - UNITS.index(unit)]


_ENI = {one.name: one for one in ENIS}
_TABLE = {one.name: one for one in (*ROUTE_TABLES, EDGE_TABLES["taken"])}
