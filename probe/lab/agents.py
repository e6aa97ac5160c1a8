"""The lab's agents: their config files, and how they are started in their namespaces.

    agent        host   probes
    workload-a   wl-a   east-west to workload B; egress to the internet host; reflector for ingress;
                        watches the cloud and the units where the lab's options say so
    workload-b   wl-b   reflector for east-west
    jumphost     jump   ingress to the cluster's Elastic IP; watches the cloud and the units
    internet     inet   reflector for egress

An agent probes in its namespace, but is asked from the root namespace, where nothing of the lab is reachable.
Its listening web socket is therefore made in the root namespace and handed to it the way systemd does
(LISTEN_FDS, LISTEN_PID, descriptor 3): a socket belongs to the namespace it was made in, for good.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from probe.lab import processes
from probe.lab.credentials import USERNAME, Credentials
from probe.lab.ids import CloudIds
from probe.lab.plan import (
    CLOUD_URL,
    CLUSTER_EIP,
    EDGE,
    INTERNET,
    REGION,
    TRANSIT_TABLE,
    UNITS,
    WORKLOAD_B,
    LabOptions,
    Plan,
    management_addresses,
)

CALLER = "watcher"  # how the agents' calls sign, so that fault rules can be aimed at the watcher alone
UDP_PORT = 862
TCP_PORT = 8620
ECHO_PORT = 8622
STREAMED = ("east-west", "ingress")  # the paths that people have sessions on; each with one stream
HOST_OF = {"workload-a": "wl-a", "workload-b": "wl-b", "jumphost": "jump", "internet": "inet"}
# Moves the inherited socket from stdin to descriptor 3 and tells the agent that it is meant for it. The shell
# replaces itself twice, so its pid is the agent's in the end.
_ACTIVATE = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0 0</dev/null'


@dataclass(frozen=True, slots=True)
class AgentHandle:
    """A running agent. `url` is reachable from the root namespace."""

    name: str
    url: str
    pid: int
    log: Path


def configs(
    options: LabOptions, ids: CloudIds | None, credentials: Credentials | None = None
) -> dict[str, dict[str, Any]]:
    """The agents' config documents by name.

    Args:
        options: Of the lab.
        ids: Of its cloud; without them nobody watches it.
        credentials: Of the units' management planes; without them nobody watches those.
    """
    reflector = {"udp": UDP_PORT, "tcp": TCP_PORT, "echo": ECHO_PORT}
    rate = options.agent_rate_pps
    documents: dict[str, dict[str, Any]] = {
        "workload-a": {
            "flows": [*_flows("east-west", WORKLOAD_B, rate), *_flows("egress", INTERNET, rate)],
            "reflector": reflector,
        },
        "workload-b": {"reflector": reflector},
        "jumphost": {"flows": _flows("ingress", CLUSTER_EIP, rate)},
        "internet": {"reflector": reflector},
    }
    watchers = {} if ids is None else {"aws": _aws_watcher(ids, Plan(options=options))}
    if credentials is not None:
        watchers["fortigate"] = _fortigate_watcher(credentials)
    if watchers:
        documents[options.watch_from]["watchers"] = watchers
    return documents


def write_configs(
    directory: Path, options: LabOptions, ids: CloudIds | None, credentials: Credentials | None = None
) -> dict[str, Path]:
    """Write DIRECTORY/NAME.yml for each agent; returns the paths by name."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, document in configs(options, ids, credentials).items():
        paths[name] = directory / f"{name}.yml"
        paths[name].write_text(yaml.safe_dump(document, sort_keys=False))
    return paths


def agent_command(config: Path, address: str, journal: Path) -> list[str]:
    """The command line of an agent."""
    return [
        *(sys.executable, "-m", "probe.cli", "run"),
        *("--config.file", str(config), "--web.listen-address", address, "--journal.dir", str(journal)),
    ]


def start(
    plan: Plan,
    name: str,
    config: Path,
    directory: Path,
    command: Callable[[Path, str, Path], Sequence[str]] = agent_command,
    port: int = 0,
) -> tuple[AgentHandle, subprocess.Popen[bytes]]:
    """Start one agent in its namespace.

    Args:
        plan: The lab.
        name: "workload-a" and so on.
        config: Its config file.
        directory: For its log and journal.
        command: (config, listen address, journal directory) to command line.
        port: Where it answers in the root namespace; 0: anywhere.

    Returns:
        The handle, and the process, which the caller has to wait for some day.
    """
    log, journal = directory / f"{name}.log", directory / f"{name}.journal"
    journal.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", port), backlog=64) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        process = processes.spawn(
            f"agent {name}",
            plan.namespace_path(HOST_OF[name]),
            ["sh", "-c", _ACTIVATE, "sh", *command(config, address, journal)],
            log,
            stdin=listener,
            env=processes.environment({"AWS_ACCESS_KEY_ID": CALLER}),
        )
    return AgentHandle(name, f"http://{address}", process.pid, log), process


def _flows(path: str, target: str, rate_pps: int) -> list[dict[str, Any]]:
    ports = {"icmp": None, "udp": UDP_PORT, "tcp": TCP_PORT}
    flows = []
    for protocol, port in ports.items():
        flow: dict[str, Any] = {"name": f"{path}-{protocol}", "protocol": protocol, "session": "both", "path": path}
        flow |= {"target": target, "rate": rate_pps}
        flows.append(flow if port is None else {**flow, "port": port})
    if path in STREAMED:
        stream = {"name": f"{path}-stream", "protocol": "tcp", "stack": "kernel", "path": path, "target": target}
        flows.append({**stream, "port": ECHO_PORT})
    return flows


def _aws_watcher(ids: CloudIds, plan: Plan) -> dict[str, Any]:
    shared = [ids.enis[one.name] for one in plan.enis if one.shared]
    return {
        **({"network_interfaces": shared} if shared else {}),
        "region": REGION,
        "addresses": [ids.allocations["cluster"]],
        "route_tables": [ids.route_tables[name] for name in (TRANSIT_TABLE, EDGE) if name in ids.route_tables],
        "units": ids.units(),
        "instances": dict(ids.instances),
        "endpoint_url": CLOUD_URL,
        "interval": "1s",
        "fast_interval": "250ms",
    }


def _fortigate_watcher(credentials: Credentials) -> dict[str, Any]:
    units = {}
    for unit in UNITS:
        units[unit] = {
            "host": management_addresses(unit)[0],
            "token_file": str(credentials.token(unit)),
            "ca_file": str(credentials.ca),
            "ssh": {
                "user": USERNAME,
                "key_file": str(credentials.client_key),
                "known_hosts": str(credentials.known_hosts),
            },
        }
    return {"units": units, "interval": "1s", "fast_interval": "250ms"}
