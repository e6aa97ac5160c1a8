"""What an interface does to probes: offloads, filters, sizes, and the allowances of a cloud's network card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool

from probe import config as configs
from probe.preflight.check import Check
from probe.preflight.host import PROC
from probe.wire.sizes import effective_size

SYS = Path("/sys")
GRO, LRO = "rx-gro", "rx-lro"  # the kernel's names (net/ethtool/common.c)
# Counters of an instance's allowances (Amazon's ENA driver): what was dropped or delayed beyond each.
ALLOWANCES = {
    "bw_in_allowance_exceeded": "bandwidth in",
    "bw_out_allowance_exceeded": "bandwidth out",
    "pps_allowance_exceeded": "packets per second",
    "conntrack_allowance_exceeded": "tracked connections",
    "linklocal_allowance_exceeded": "queries of DNS, instance metadata and time",
}


def interface(name: str, largest: int = 0) -> Iterator[Check]:
    """All checks of one interface.

    Args:
        name: Of the interface.
        largest: Octets of the largest IP packet to be sent there; 0: not known.
    """
    yield from offloads(name, features(name))
    yield reverse_path_filter(name)
    yield from mtu(name, largest)
    yield from allowances(name, statistics(name))


def default_interfaces(proc: Path = PROC) -> set[str]:
    """Interfaces of the IPv4 default routes; `lo` when there are none."""
    rows = [line.split() for line in (proc / "net/route").read_text().splitlines()[1:]]
    return {row[0] for row in rows if row[1] == "00000000"} or {"lo"}


def largest(config: configs.AgentConfig | None, name: str) -> int:
    """The largest IP packet that the config's flows send over an interface; 0: none."""
    specs = config.flow_specs() if config else []
    mine = [spec for spec in specs if spec.interface in (None, name)]
    return max((effective_size(spec.protocol, spec.size) for spec in mine), default=0)


def features(name: str) -> dict[str, bool] | None:
    """Whether GRO and LRO are on; None when the interface does not say."""
    try:
        with closing(IoctlEthtool(name)) as tool:
            told = tool.get_features()
            return {feature: bool(told.is_active(feature)) for feature in (GRO, LRO) if feature in told}
    except (EthtoolError, OSError):
        return None


def statistics(name: str) -> dict[str, int]:
    """The driver's own counters; none when it has none."""
    try:
        with closing(IoctlEthtool(name)) as tool:
            return dict(tool.get_statistics())
    except (EthtoolError, OSError):
        return {}


def offloads(name: str, told: dict[str, bool] | None) -> Iterator[Check]:
    """GRO and LRO join TCP segments before a packet socket sees them; our PSH flag keeps ours apart, at some cost."""
    if told is None:
        yield Check(
            f"offloads {name}", "warn", "unknown: no such interface, or it does not say", "name an existing one"
        )
        return
    for label, feature in (("GRO", GRO), ("LRO", LRO)):
        if told.get(feature):
            remedy = f"ethtool -K {name} {label.lower()} off"
            yield Check(f"{label} {name}", "warn", "on: TCP probes may be joined on receipt", remedy)
        else:
            yield Check(f"{label} {name}", "ok", "off")


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


def mtu(name: str, largest: int, sys: Path = SYS) -> Iterator[Check]:
    """A probe that does not fit is not sent: nothing here cuts packets."""
    try:
        most = int((sys / "class/net" / name / "mtu").read_text())
    except (OSError, ValueError):
        return  # there is no such interface: the others have said so
    if largest > most:
        remedy = f"lower `size` to {most} at most, or raise the MTU on the whole way"
        yield Check(f"MTU {name}", "fail", f"{most}, and the largest probe has {largest} octets", remedy)
    else:
        yield Check(f"MTU {name}", "ok", f"{most}" + (f", the largest probe has {largest} octets" if largest else ""))


def allowances(name: str, told: dict[str, int]) -> Iterator[Check]:
    """What a cloud's card dropped since it came up: such losses look like any others."""
    counted = {what: told[counter] for counter, what in ALLOWANCES.items() if counter in told}
    exceeded = ", ".join(f"{what} ({count})" for what, count in counted.items() if count)
    if exceeded:
        remedy = f"watch `ethtool -S {name} | grep exceeded` during a drill; lower rates, or take a larger instance"
        yield Check(f"allowances {name}", "warn", f"exceeded since the interface came up: {exceeded}", remedy)
    elif counted:
        yield Check(f"allowances {name}", "ok", "none exceeded since the interface came up")
