"""The config file of an agent: its models, and how one is loaded.

Each field says its unit, its default and why. A field's `Allowed` text is what an error message offers; it stands
beside the field so that both change together. Rules across fields live in `probe.config_rules`.

Durations are written with their unit (`250ms`) and held as seconds; `flow_specs` turns flows into nanoseconds.
Secrets never stand in the file: only names of files that hold them.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from probe import config_rules, units, yamlfile
from probe.config_rules import FRESH_SUFFIX, MAX_RATE_PPS, MIN_RATE_PPS, TRIGGER_KEYS, Need, TriggerKind
from probe.config_types import (
    Address,
    Allowed,
    Command,
    Directory,
    EipallocId,
    EnvironmentName,
    ExternalId,
    File,
    Fingerprint,
    HeaderName,
    HeaderValue,
    Host,
    InstanceId,
    Interface,
    InterfaceId,
    LabelName,
    LabelValue,
    Name,
    Network,
    Port,
    Profile,
    Region,
    RoleArn,
    RouteTableId,
    Url,
    UserName,
    duration,
    number,
)
from probe.core.events import DEFAULT_RATE_PPS, STREAM_RATE_PPS, FlowSpec, Protocol, Stack
from probe.wire.sizes import MAX_SIZE, effective_size
from probe.yamlfile import Location

DEFAULT_STAMP_PORT = 862  # RFC 8762, section 4.1


_RATE = number(float, MIN_RATE_PPS, MAX_RATE_PPS, f"{MIN_RATE_PPS} to {MAX_RATE_PPS} probes per second")
_SIZE = number(int, 20, MAX_SIZE, f"20 to {MAX_SIZE} octets of IP packet")


class _Part(BaseModel):
    """What every part of the file shares: unknown keys are mistakes, and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


# --- flows and reflector -------------------------------------------------------------------------------------------


class Flow(_Part):
    """One probe stream. `session: both` makes two: NAME (kept) and NAME-fresh (fresh)."""

    name: Name = Field(description="Unique name; the label of its metrics.")
    protocol: Annotated[Protocol, Allowed("icmp, udp or tcp")] = Field(
        description="What is sent. udp speaks STAMP (RFC 8762)."
    )
    session: Annotated[Literal["kept", "fresh", "both"], Allowed("kept, fresh or both")] = Field(
        default="kept", description="One 5-tuple for the whole run, a new one per probe, or one flow of each."
    )
    stack: Annotated[Stack, Allowed("packet or kernel")] = Field(
        default="packet",
        description="packet: raw packets. kernel: an ordinary TCP connection (a stream) to an echo service.",
    )
    path: Name = Field(
        default="default", description="Which way it takes: ingress, east-west, egress or your own word."
    )
    target: Host = Field(description="Address or name. A name is looked up when the agent starts.")
    port: Port | None = Field(default=None, description="udp: 862 unless given. tcp: required. icmp: none.")
    rate: Annotated[float, _RATE] | None = Field(
        default=None, description="Probes per second, per flow: 1000 unless given. stack kernel: 10, at most 1000."
    )
    size: Annotated[int, _SIZE] | None = Field(
        default=None,
        description="Octets of IP packet; raised to what the protocol needs. Default: room for all we measure.",
    )
    dscp: Annotated[int, number(int, 0, 63, "0 to 63")] = Field(
        default=0, description="Differentiated services code point."
    )
    ttl: Annotated[int, number(int, 1, 255, "1 to 255")] = Field(default=64, description="Time to live or hop limit.")
    interface: Interface | None = Field(
        default=None, description="Interface to send by. Default: as the kernel routes."
    )
    source: Address | None = Field(default=None, description="Source address. Default: as the kernel chooses.")
    loss_threshold: Annotated[float, duration("10ms", "60s")] = Field(
        default=2.0, description="A probe unanswered for so long is lost (RFC 7680; 2 s as in RFC 2544, section 23)."
    )
    outage_min_probes: Annotated[int, number(int, 1, 1_000_000, "1 to 1000000 probes")] = Field(
        default=3, description="Consecutive losses that make an outage; below 2, ordinary loss looks like outages."
    )
    key_file: File | None = Field(
        default=None, description="udp: authenticated STAMP with the key in this file, which the reflector needs too."
    )
    pacing: Annotated[Literal["fine", "coarse"], Allowed("fine or coarse")] = Field(
        default="fine",
        description="fine: each probe at its instant (from 20,000/s on, one processor is busy if a flow has 5,000/s or"
        " more; above 50,000/s as coarse). coarse: what a millisecond brings at once, less processor time.",
    )

    def specs(self) -> list[FlowSpec]:
        """This flow, or both of its twins, as the rest of the program sees them."""
        default_port = DEFAULT_STAMP_PORT if self.protocol == "udp" else 0
        common: dict[str, Any] = {
            "protocol": self.protocol,
            "path": self.path,
            "target": self.target,
            "port": self.port or default_port,
            "rate_pps": float(self.rate or (STREAM_RATE_PPS if self.stack == "kernel" else DEFAULT_RATE_PPS)),
            "stack": self.stack,
            "size": None if self.size is None else effective_size(self.protocol, self.size),
            "dscp": self.dscp,
            "ttl": self.ttl,
            "interface": self.interface,
            "source": self.source,
            "loss_threshold_ns": round(self.loss_threshold * 1e9),
            "outage_min_probes": self.outage_min_probes,
            "pacing": self.pacing,
            "key_file": None if self.key_file is None else str(self.key_file),
        }
        if self.session != "both":
            return [FlowSpec(name=self.name, session=self.session, **common)]
        return [
            FlowSpec(name=self.name, session="kept", **common),
            FlowSpec(name=self.name + FRESH_SUFFIX, session="fresh", **common),
        ]


class Reflector(_Part):
    """The Session-Reflector: answers the probes of other agents."""

    udp: Port | None = Field(default=None, description="STAMP port; 862 is the registered one. None: no UDP.")
    tcp: Port | None = Field(default=None, description="Port for kept TCP sessions. None: no TCP.")
    echo: Port | None = Field(default=None, description="TCP port of an echo service, for streams. None: no echo.")
    allow: list[Network] = Field(default_factory=list, description="Networks that are answered. Empty: everybody.")
    key_file: File | None = Field(
        default=None,
        description="File with the STAMP key, 16 octets or more. With it, only authenticated UDP is answered.",
    )


Cpu = Annotated[int, Field(ge=0)]


class Engines(_Part):
    """Where the probing processes run. On a host of two CPUs or more the defaults do well."""

    sender_cpu: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The sender's only CPU. None: any."
    )
    reflector_cpu: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="The reflector's only CPU. None: any."
    )
    realtime: bool = Field(
        default=False,
        description="Run them with SCHED_FIFO, before everything else, and keep the processors from sleeping while they"
        " run: probes leave more exactly. For rates that do not take a whole CPU, and hosts that may look busy.",
    )


# --- watchers ------------------------------------------------------------------------------------------------------


class AwsWatcher(_Part):
    """Whom elastic IPs, routes and private addresses belong to. Credentials come by boto3's own chain."""

    region: Region = Field(description="AWS region.")
    profile: Profile | None = Field(default=None, description="Profile of the AWS config files to take credentials of.")
    role_arn: RoleArn | None = Field(default=None, description="Role to assume with those credentials.")
    external_id: ExternalId | None = Field(default=None, description="External id to assume the role with.")
    addresses: list[EipallocId] = Field(default_factory=list, description="Elastic IPs, by allocation id.")
    route_tables: list[RouteTableId] = Field(default_factory=list, description="Route tables, by id.")
    network_interfaces: list[InterfaceId] = Field(
        default_factory=list, description="Interfaces whose private addresses move (single-AZ pairs)."
    )
    units: dict[Name, list[InterfaceId]] = Field(
        default_factory=dict, description="Each unit's network interfaces: tells whom an address or route points at."
    )
    instances: dict[Name, InstanceId] = Field(
        default_factory=dict, description="Each unit's instance, by the names of units: its state is watched."
    )
    endpoint_url: Url | None = Field(default=None, description="Another EC2 endpoint than the region's.")
    interval: Annotated[float, duration("100ms", "1h")] = Field(
        default=2.0, description="Between polls while nothing happens; pollers share the account's API limits."
    )
    fast_interval: Annotated[float, duration("50ms", "1h")] = Field(
        default=0.25, description="Between polls from the first suspected loss until recovery has held."
    )
    api_share: Annotated[float, number(float, 0, 1, "more than 0 and up to 1", above=True)] = Field(
        default=0.1,
        description="Of the account's API limits (bucket and refill of each operation), how much the watcher may use.",
    )


class FortigateSsh(_Part):
    """The command line of one FortiGate: what its REST API cannot give (awsd's debug output, reasons of a failover)."""

    port: Port = Field(default=22, description="SSH port.")
    user: UserName = Field(default="haprobe", description="Administrator to log in as.")
    key_file: File | None = Field(default=None, description="File with the private key. One of the three is needed.")
    password_file: File | None = Field(default=None, description="File with the password instead.")
    password_env: EnvironmentName | None = Field(default=None, description="Environment variable with it instead.")
    known_hosts: File | None = Field(default=None, description="File with the unit's host key, as OpenSSH's.")
    fingerprint: Fingerprint | None = Field(
        default=None, description="Of its host key, instead. With neither, the refusal tells the one presented."
    )


class FortigateUnit(_Part):
    """One FortiGate's own management address, not the cluster's: each unit is asked for itself."""

    host: Host = Field(description="Management address or name.")
    port: Port = Field(default=443, description="HTTPS port of the REST API.")
    token_file: File | None = Field(default=None, description="File with the REST API token. Or token_env.")
    token_env: EnvironmentName | None = Field(default=None, description="Environment variable with it instead.")
    ca_file: File | None = Field(default=None, description="CA certificate to trust. None: the system's.")
    tls_name: Host | None = Field(default=None, description="Name in its certificate, where that is not the host.")
    ssh: FortigateSsh | None = Field(default=None, description="Its command line. None: only the REST API is used.")


class FortigateWatcher(_Part):
    """HA role, version and serial number of each unit, and what awsd does while a drill runs."""

    units: dict[Name, FortigateUnit] = Field(description="Both units by name, as in watchers.aws.units.")
    interval: Annotated[float, duration("500ms", "1h")] = Field(
        default=2.0, description="Between polls while nothing happens."
    )
    fast_interval: Annotated[float, duration("100ms", "1h")] = Field(
        default=0.5, description="Between polls around a failover."
    )


class Watchers(_Part):
    """Where HA state is read."""

    aws: AwsWatcher | None = None
    fortigate: FortigateWatcher | None = None


# --- remote write --------------------------------------------------------------------------------------------------


class RemoteWrite(_Part):
    """A store of the Prometheus kind, which gets states of flows and HA events at their true millisecond."""

    url: Url = Field(description="Where it takes it, such as https://mimir.example/api/v1/push.")
    username: UserName | None = Field(default=None, description="User, for basic authentication.")
    password_file: File | None = Field(default=None, description="File with that user's password.")
    token_file: File | None = Field(default=None, description="File with a bearer token, instead of a user.")
    ca_file: File | None = Field(default=None, description="CA certificate to trust. None: the system's.")
    cert_file: File | None = Field(default=None, description="Client certificate, for mutual TLS.")
    key_file: File | None = Field(default=None, description="Key of the client certificate.")
    headers: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, description="Further headers, such as X-Scope-OrgID; no secrets."
    )
    external_labels: dict[LabelName, LabelValue] = Field(
        default_factory=dict,
        description="Labels of every series. job (haprobe) and instance (the host's name) are there without.",
    )
    send_interval: Annotated[float, duration("100ms", "1m")] = Field(
        default=5.0, description="Between two looks at what has become certain."
    )
    lag: Annotated[float, duration("0s", "10m")] = Field(
        default=2.0,
        description="How much longer than a loss takes to be one to wait for late replies: what is written stays.",
    )
    spool: Directory | None = Field(
        default=None, description="Directory for what the store has not taken yet. None: remote-write in the journal's."
    )
    spool_limit: Annotated[int, number(int, 1, 1_000_000, "1 to 1000000 MiB")] = Field(
        default=256, description="MiB it may hold; beyond, the oldest is dropped, counted and logged."
    )


# --- drill ---------------------------------------------------------------------------------------------------------


class Agent(_Part):
    """An agent whose measurements a drill merges."""

    url: Url = Field(description="Its web address.")
    ca_file: File | None = Field(default=None, description="CA certificate to trust. None: the system's.")
    cert_file: File | None = Field(default=None, description="Client certificate, for mutual TLS.")
    key_file: File | None = Field(default=None, description="Key of the client certificate.")
    username: UserName | None = Field(default=None, description="User of the agent's web config.")
    password_file: File | None = Field(default=None, description="File with that user's password.")


class Trigger(_Part):
    """How a drill starts the failover."""

    kind: Annotated[TriggerKind, Allowed(", ".join(TRIGGER_KEYS))] = Field(
        default="manual",
        description="manual: a person does it when asked. command: runs a command. lab: the lab's own."
        " fortigate: `execute ha failover set`, by SSH. aws-stop-instance, aws-reboot-instance: a crash.",
    )
    command: Command | None = Field(default=None, description="command: what to run.")
    undo_command: Command | None = Field(default=None, description="command: what undoes it.")
    undo: bool = Field(
        default=False,
        description="Undo it after each drill: `execute ha failover unset`, start the instance, run undo_command.",
    )
    unit: Name | None = Field(
        default=None, description="fortigate, aws-*: the active unit, which is to fail; a name of watchers.aws.units."
    )
    host: Host | None = Field(default=None, description="fortigate: the unit's management address.")
    port: Port = Field(default=22, description="fortigate: SSH port.")
    user: UserName | None = Field(default=None, description="fortigate: administrator who may `execute ha failover`.")
    key_file: File | None = Field(default=None, description="fortigate: private key of the user.")
    password_file: File | None = Field(default=None, description="fortigate: file with the user's password instead.")
    password_env: EnvironmentName | None = Field(
        default=None, description="fortigate: environment variable with it instead."
    )
    known_hosts: File | None = Field(default=None, description="fortigate: file with the unit's host key.")
    fingerprint: Fingerprint | None = Field(
        default=None, description="fortigate: fingerprint of the unit's host key, instead of known_hosts."
    )
    vcluster: Annotated[int, number(int, 1, 30, "1 to 30")] = Field(
        default=1, description="fortigate: virtual cluster to fail over."
    )
    instance: InstanceId | None = Field(
        default=None, description="aws-*: the instance. None: the unit's, of watchers.aws.instances."
    )
    force: bool = Field(default=False, description="aws-stop-instance: without a shutdown of the operating system.")
    region: Region | None = Field(default=None, description="aws-*: as the following, taken of watchers.aws if none.")
    profile: Profile | None = Field(default=None, description="aws-*: profile of the AWS config files.")
    role_arn: RoleArn | None = Field(default=None, description="aws-*: role to assume.")
    external_id: ExternalId | None = Field(default=None, description="aws-*: external id to assume the role with.")
    endpoint_url: Url | None = Field(default=None, description="aws-*: another EC2 endpoint than the region's.")


class Drill(_Part):
    """Steady state, trigger, recovery."""

    trigger: Trigger = Field(default_factory=Trigger)
    steady: Annotated[float, duration("1s", "1h")] = Field(
        default=10.0, description="All flows must be clean for so long before the trigger."
    )
    validation: Annotated[float, duration("1s", "1h")] = Field(
        default=10.0, description="Recovery must last so long (RFC 6412 recommends at least 5 s)."
    )
    limit: Annotated[float, duration("5s", "24h")] = Field(
        default=600.0, description="Give up waiting for recovery after this."
    )


# --- the file ------------------------------------------------------------------------------------------------------


class AgentConfig(_Part):
    """One agent's config file.

    Load it with `load`: only there all rules are checked.
    """

    flows: list[Flow] = Field(default_factory=list, description="What to probe.")
    reflector: Reflector | None = Field(default=None, description="Answers other agents' probes.")
    engines: Engines = Field(default_factory=Engines, description="Where the probing processes run.")
    watchers: Watchers = Field(default_factory=Watchers, description="HA state to read.")
    remote_write: RemoteWrite | None = Field(
        default=None, description="Where exact windows are written for Grafana. None: nowhere."
    )
    agents: dict[Name, Agent] = Field(
        default_factory=dict, description="For `drill --config.file`: whose measurements to merge."
    )
    drill: Drill = Field(default_factory=Drill, description="For `drill --config.file`.")

    _file: yamlfile.YamlFile = PrivateAttr(default_factory=lambda: yamlfile.YamlFile("config"))
    _notices: list[str] = PrivateAttr(default_factory=list)

    def flow_specs(self) -> list[FlowSpec]:
        """All flows in file order, `both` already taken apart."""
        return [spec for flow in self.flows for spec in flow.specs()]

    @property
    def notices(self) -> list[str]:
        """What was changed or left unused, one line each with file, line and field."""
        return self._notices

    @property
    def file(self) -> yamlfile.YamlFile:
        """The file behind this config, for messages about a line."""
        return self._file


def load(path: str | Path, *, need: Need = "agent") -> AgentConfig:
    """Read, parse and check a config file.

    Args:
        path: The file.
        need: What it must hold: something to do for an "agent", agents for a "drill", or "any" of both.

    Raises:
        ConfigError: With every problem at once, each as `FILE:LINE: FIELD: what is wrong; what is allowed`.
    """
    return from_yaml(yamlfile.read(path), need=need)


def from_yaml(document: yamlfile.YamlFile, *, need: Need = "agent") -> AgentConfig:
    """The second half of `load`: check a parsed file."""
    data = {} if document.data is None else document.data
    problems = document.problems + config_rules.model_problems(AgentConfig, data)
    problems += config_rules.cross_problems(data, need, bad={location for location, _ in problems})
    if problems:
        raise document.errors(problems)
    config = AgentConfig.model_validate(data)
    config._file = document
    config._notices = [
        f"{document.name}:{document.line(location)}: {yamlfile.field_name(location)}: {text}"
        for location, text in config_rules.notices(data)
    ]
    return config


def resolve_hosts(config: AgentConfig) -> dict[tuple[str, str | None], str]:
    """Look up every flow's target.

    Returns:
        Address of each target, by target and source as in the config: the first that the resolver offers.

    Raises:
        ConfigError: With every target that has no address, each with its line.
    """
    found: dict[tuple[str, str | None], str] = {}
    problems: list[tuple[Location, str]] = []
    for index, flow in enumerate(config.flows):
        way = flow.target, flow.source
        try:
            found[way] = found.get(way) or look_up(flow.target, like=flow.source)
        except OSError as error:
            what = f"host {flow.target!r} is unknown ({error.strerror or error})"
            problems.append(
                (("flows", index, "target"), f"{what}; allowed: an IP address, or a name that can be looked up")
            )
    if problems:
        raise config.file.errors(problems)
    return found


def look_up(host: str, *, like: str | None = None) -> str:
    """Address of a host, of the family of the address `like` if given; a link-local one with `%interface`, where known.

    Raises:
        OSError: If there is none.
    """
    family = socket.AF_UNSPEC
    if like is not None:
        family = socket.AF_INET6 if ipaddress.ip_address(like).version == 6 else socket.AF_INET
    try:
        address, _port, *rest = socket.getaddrinfo(host, None, family, socket.SOCK_DGRAM)[0][4]
        zone = int(rest[1]) if rest else 0  # behind the flow label, of IPv6 only; the address itself is without it
        return f"{address}%{socket.if_indextoname(zone)}" if zone else str(address)
    except UnicodeError as error:  # a label that is empty or too long for DNS
        raise OSError(None, f"no host name: {error}") from error


def check_files(config: AgentConfig) -> None:
    """Open every file that the config names, to read one octet.

    Raises:
        ConfigError: With every file that cannot be read, each with its line.
    """
    problems: list[tuple[Location, str]] = []
    for location, name in _named_files(config.model_dump(), ()):
        try:
            with Path(name).open("rb") as file:
                file.read(1)
        except OSError as error:
            problems.append((location, f"{name} cannot be read: {error.strerror}; allowed: a readable file"))
    if problems:
        raise config.file.errors(problems)


def _named_files(value: Any, location: Location) -> list[tuple[Location, str]]:
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in _named_files(inner, (*location, key))]
    if isinstance(value, list):
        return [found for i, inner in enumerate(value) for found in _named_files(inner, (*location, i))]
    is_file = bool(location) and str(location[-1]).endswith("_file") and isinstance(value, str)
    return [(location, value)] if is_file else []


def json_schema() -> dict[str, Any]:
    """JSON Schema (Draft 2020-12) of the file, for editors; committed as docs/haprobe.schema.json."""
    schema = AgentConfig.model_json_schema(mode="validation")
    for part in (schema, *schema["$defs"].values()):
        for entry in part["properties"].values():
            if entry.get("pattern") == units.DURATION_PATTERN and "default" in entry:
                entry["default"] = units.format_duration(entry["default"])  # as it is written, not as it is held
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "haprobe config file"}
