"""What would spoil a drill on this host: privileges, clock, offloads, limits, reachability.

Each check reads one thing and says what it found and what to do. Nothing is changed, and no probe is sent.
"""

from __future__ import annotations

import ctypes
import fcntl
import re
import resource
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from probe import config as configs
from probe.errors import ConfigError, PeerError, PrivilegeError
from probe.timesync import HostClock, host_clock
from probe.watch.fortigate_rest import AskError, RestClient
from probe.watch.fortigate_unit import ssh_target, status_by_ssh

Level = Literal["ok", "warn", "fail"]

PROC = Path("/proc")
CAPABILITIES = {"CAP_NET_RAW": 13, "CAP_NET_ADMIN": 12}  # linux/capability.h
GRANT = (
    "run as root, or with systemd's AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN,"
    " or in a container with --cap-add NET_RAW --cap-add NET_ADMIN"
)
MAX_CLOCK_ERROR_NS = 100_000_000  # beyond it the agents' timelines cannot be put in order
MIN_OPEN_FILES = 4096  # a quiet socket per port of a fresh flow
MIN_FREE_PORTS = 8192  # outside the kernel's own range: fresh flows take a new port per probe
_SIOCETHTOOL = 0x8946  # linux/sockios.h
_ETHTOOL_GGRO = 0x2B  # linux/ethtool.h
_CONNECT_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `remedy` says what to do and is empty when all is well; `exit_status` counts for a fail."""

    name: str
    level: Level
    finding: str
    remedy: str = ""
    exit_status: int = 1


def preflight(config_path: str | Path | None = None) -> list[Check]:
    """Every check of this host, and of what a config file needs if one is given."""
    config, problems = _config(config_path)
    interfaces = {flow.interface for flow in config.flows if flow.interface} if config else set()
    interfaces = interfaces or default_interfaces()
    checks = [*problems, *capabilities(), clock(host_clock())]
    for interface in sorted(interfaces):
        checks += [offload(interface, gro(interface)), reverse_path_filter(interface)]
    checks += [open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)), local_ports()]
    if config:
        checks += agents(config.agents)
        checks += fortigates(config.watchers.fortigate) if config.watchers.fortigate else []
    return checks


def exit_status(checks: Iterable[Check]) -> int:
    """0 without a fail; else a missing privilege counts before a missing peer, and both before the rest."""
    failed = {check.exit_status for check in checks if check.level == "fail"}
    order = (PrivilegeError.exit_status, ConfigError.exit_status, PeerError.exit_status, 1)
    return next((status for status in order if status in failed), 0)


def table(checks: Iterable[Check]) -> str:
    """The checks as text, one per line, each remedy below its finding."""
    lines = []
    for check in checks:
        lines.append(f"{check.level:<5} {check.name:<22} {check.finding}")
        if check.remedy:
            lines.append(f"{'':<28} -> {check.remedy}")
    return "\n".join(lines)


def _config(path: str | Path | None) -> tuple[configs.AgentConfig | None, list[Check]]:
    if path is None:
        return None, []
    try:
        config = configs.load(path, need="any")
        configs.resolve_hosts(config)
        configs.check_files(config)
    except ConfigError as error:
        return None, [Check("config", "fail", text, "correct the file", error.exit_status) for text in error.problems]
    notices = [Check("config", "warn", notice) for notice in config.notices]
    return config, [Check("config", "ok", f"{path}: {len(config.flow_specs())} flows"), *notices]


def capabilities(proc: Path = PROC) -> Iterator[Check]:
    """CAP_NET_RAW for packet sockets, CAP_NET_ADMIN to keep the kernel's own answers away."""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", (proc / "self/status").read_text(), re.MULTILINE)
    effective = int(match[1], 16) if match else 0
    for name, bit in CAPABILITIES.items():
        if effective >> bit & 1:
            yield Check(name, "ok", "held")
        else:
            yield Check(name, "fail", "missing", GRANT, PrivilegeError.exit_status)


def clock(state: HostClock) -> Check:
    """Durations need no synchronised clock; putting several agents on one timeline does."""
    if state.max_error_ns is None or not state.synchronised:
        return Check("clock", "warn", "not synchronised", "run chrony; on AWS with server 169.254.169.123")
    finding = f"synchronised, error at most {state.max_error_ns / 1e6:.3f} ms ({state.source})"
    if state.max_error_ns > MAX_CLOCK_ERROR_NS:
        return Check("clock", "warn", finding, "check `chronyc tracking`: times of several agents will not line up")
    return Check("clock", "ok", finding)


def default_interfaces(proc: Path = PROC) -> set[str]:
    """Interfaces of the IPv4 default routes; `lo` when there are none."""
    rows = [line.split() for line in (proc / "net/route").read_text().splitlines()[1:]]
    return {row[0] for row in rows if row[1] == "00000000"} or {"lo"}


def gro(interface: str) -> bool | None:
    """Whether generic receive offload is on; None when the interface does not say."""
    value = bytearray(struct.pack("II", _ETHTOOL_GGRO, 0))
    buffer = (ctypes.c_char * len(value)).from_buffer(value)
    request = struct.pack("16sP16x", interface.encode()[:15], ctypes.addressof(buffer))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            fcntl.ioctl(handle, _SIOCETHTOOL, request)
    except OSError:
        return None
    return bool(struct.unpack_from("I", value, 4)[0])


def offload(interface: str, enabled: bool | None) -> Check:
    """GRO joins TCP segments before a packet socket sees them; our PSH flag keeps ours apart, at some cost."""
    name = f"GRO {interface}"
    if enabled is None:
        return Check(name, "warn", "unknown: no such interface, or it does not say", "name an existing interface")
    if enabled:
        return Check(name, "warn", "on: TCP probes may be joined on receipt", f"ethtool -K {interface} gro off")
    return Check(name, "ok", "off")


def reverse_path_filter(interface: str, proc: Path = PROC) -> Check:
    """A strict filter drops answers that come back another way, as they do during a failover."""
    name = f"rp_filter {interface}"
    try:
        values = [int((proc / "sys/net/ipv4/conf" / scope / "rp_filter").read_text()) for scope in ("all", interface)]
    except (OSError, ValueError):
        return Check(name, "warn", "unknown: no such interface", "name an existing interface")
    if max(values) == 1:  # the kernel takes the larger of the two; 2 is loose
        remedy = f"sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{interface}.rp_filter=2"
        return Check(name, "warn", "strict: answers over another interface are dropped", remedy)
    return Check(name, "ok", "off" if max(values) == 0 else "loose")


def open_files(soft: int, hard: int) -> Check:
    """Every port of ours is held by a socket, so that the kernel stays silent on it."""
    most = float("inf") if hard == resource.RLIM_INFINITY else hard
    finding = f"{soft} open files, may be raised to {'any number' if most == float('inf') else hard}"
    if most < MIN_OPEN_FILES:
        return Check("RLIMIT_NOFILE", "warn", finding, f"ulimit -n {MIN_OPEN_FILES}, or LimitNOFILE= in the unit")
    return Check("RLIMIT_NOFILE", "ok", finding)


def local_ports(proc: Path = PROC) -> Check:
    """Our ports come from outside the kernel's range, so that no other program is given one of them."""
    low, high = (int(word) for word in (proc / "sys/net/ipv4/ip_local_port_range").read_text().split())
    free = max(low - 1024, 0) + max(65535 - high, 0)
    finding = f"kernel uses {low} to {high}, {free} ports are left"
    if free < MIN_FREE_PORTS:
        return Check("ip_local_port_range", "warn", finding, 'sysctl -w net.ipv4.ip_local_port_range="32768 60999"')
    return Check("ip_local_port_range", "ok", finding)


def agents(wanted: dict[str, configs.Agent]) -> Iterator[Check]:
    """Whether the agents of a drill accept a connection."""
    for name, agent in wanted.items():
        parts = urlsplit(agent.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_TIMEOUT_S):
                yield Check(f"agent {name}", "ok", f"{agent.url} answers")
        except OSError as error:
            remedy = f"start it with `haprobe run`, or open port {port} on the way"
            finding = f"{agent.url}: {error.strerror or error}"
            yield Check(f"agent {name}", "fail", finding, remedy, PeerError.exit_status)


def fortigates(watcher: configs.FortigateWatcher) -> Iterator[Check]:
    """Whether each unit tells its role by REST and lets us in by SSH, as the watcher will ask it."""
    for name, unit in watcher.units.items():
        try:
            with RestClient(name, unit) as client:
                told = client.ask()
        except (AskError, ConfigError) as error:
            yield Check(f"fortigate {name}", "fail", f"{unit.host}: {error}", _FORTIGATE, _status(error))
        else:
            level: Level = "ok" if not told.note else "warn"
            finding = f"{told.role}, FortiOS {told.version} build {told.build}, {told.serial}"
            yield Check(f"fortigate {name}", level, finding, told.note and f"{told.note}: is the cluster formed?")
        if unit.ssh is not None:
            yield _command_line(name, unit)


def _command_line(name: str, unit: configs.FortigateUnit) -> Check:
    try:
        status, why = status_by_ssh(ssh_target(name, unit))
    except ConfigError as error:
        status, why = None, str(error)
    if status is None:
        return Check(f"ssh {name}", "fail", why, _FORTIGATE, PeerError.exit_status)
    return Check(f"ssh {name}", "ok", f"{status.mode}, {len(status.roles)} members")


_FORTIGATE = "see docs/fortigate.md: profile, token, trusted host, certificate and host key"


def _status(error: Exception) -> int:
    return ConfigError.exit_status if isinstance(error, ConfigError) else PeerError.exit_status
