"""Who else takes part: other agents, and the FortiGates as the watcher will ask them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from probe import config as configs
from probe.errors import ConfigError, PeerError
from probe.preflight.check import Check, Level
from probe.watch.fortigate_rest import AskError, RestClient
from probe.watch.fortigate_unit import ssh_target, status_by_ssh

_CONNECT_TIMEOUT_S = 2.0
_FORTIGATE = "see docs/fortigate.md: profile, token, trusted host, certificate and host key"


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


def _status(error: Exception) -> int:
    return ConfigError.exit_status if isinstance(error, ConfigError) else PeerError.exit_status
