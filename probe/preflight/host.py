"""What the host itself allows: privileges, clock, open files, ports."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

from probe.errors import PrivilegeError
from probe.preflight.check import Check
from probe.timesync import HostClock

PROC = Path("/proc")
CAPABILITIES = {"CAP_NET_RAW": 13, "CAP_NET_ADMIN": 12}  # linux/capability.h
CAP_SYS_NICE = 23
GRANT = (
    "run as root, or with systemd's AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN,"
    " or in a container with --cap-add NET_RAW --cap-add NET_ADMIN"
)
MAX_CLOCK_ERROR_NS = 100_000_000  # beyond it the agents' timelines cannot be put in order
MIN_OPEN_FILES = 4096  # a quiet socket per port of a fresh flow
MIN_FREE_PORTS = 8192  # outside the kernel's own range: fresh flows take a new port per probe


def capabilities(proc: Path = PROC) -> Iterator[Check]:
    """CAP_NET_RAW for packet sockets, CAP_NET_ADMIN to keep the kernel's own answers away."""
    effective = _effective(proc)
    for name, bit in CAPABILITIES.items():
        if effective >> bit & 1:
            yield Check(name, "ok", "held")
        else:
            yield Check(name, "fail", "missing", GRANT, PrivilegeError.exit_status)


def _effective(proc: Path) -> int:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", (proc / "self/status").read_text(), re.MULTILINE)
    return int(match[1], 16) if match else 0


def priority(limit: int, proc: Path = PROC) -> Check:
    """Engines come before other processes where they may.

    Args:
        limit: RLIMIT_NICE: 20 less the lowest nice value that may be taken.
        proc: Stands in for /proc in tests.
    """
    lowest = -20 if _effective(proc) >> CAP_SYS_NICE & 1 or limit == resource.RLIM_INFINITY else 20 - min(limit, 40)
    if lowest > -20:
        finding = "engines run as any other process: on a busy host probes go unsent"
        return Check("priority", "warn", finding, "run as root, or LimitNICE=-20 in the unit, or --cap-add SYS_NICE")
    return Check("priority", "ok", "engines come before other processes")


def clock(state: HostClock) -> Check:
    """Durations need no synchronised clock; putting several agents on one timeline does."""
    if state.max_error_ns is None or not state.synchronised:
        return Check("clock", "warn", "not synchronised", "run chrony; on AWS with server 169.254.169.123")
    finding = f"synchronised, error at most {state.max_error_ns / 1e6:.3f} ms ({state.source})"
    if state.max_error_ns > MAX_CLOCK_ERROR_NS:
        return Check("clock", "warn", finding, "check `chronyc tracking`: times of several agents will not line up")
    return Check("clock", "ok", finding)


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
