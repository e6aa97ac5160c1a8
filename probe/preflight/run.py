"""What would spoil a drill on this host: privileges, clock, offloads, limits, firewall, reachability.

Each check reads one thing and says what it found and what to do. Nothing is changed, and no probe is sent.
"""

from __future__ import annotations

import resource
from pathlib import Path

from probe import config as configs
from probe.errors import ConfigError
from probe.preflight import firewall, host, network, peers
from probe.preflight.check import Check
from probe.timesync import host_clock

DEFAULT_WEB_PORT = 10862


def preflight(config_path: str | Path | None = None) -> list[Check]:
    """Every check of this host, and of what a config file needs if one is given."""
    config, problems = _config(config_path)
    interfaces = {flow.interface for flow in config.flows if flow.interface} if config else set()
    checks = [*problems, *host.capabilities(), host.clock(host_clock())]
    for interface in sorted(interfaces or network.default_interfaces()):
        checks += network.interface(interface, network.largest(config, interface))
    checks += [host.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)), host.local_ports()]
    checks.append(host.priority(resource.getrlimit(resource.RLIMIT_NICE)[0]))
    checks += firewall.check(_served(config))
    if config:
        checks += peers.agents(config.agents)
        checks += peers.fortigates(config.watchers.fortigate) if config.watchers.fortigate else []
    return checks


def _served(config: configs.AgentConfig | None) -> list[firewall.Service]:
    """What the kernel itself answers here, or hands to a listening socket: that, a firewall can keep away."""
    served = [firewall.Service("icmp", 0, "echo requests"), firewall.Service("tcp", DEFAULT_WEB_PORT, "the web port")]
    if config and config.reflector and config.reflector.echo:
        served.append(firewall.Service("tcp", config.reflector.echo, "the echo service"))
    return served


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
