"""The lab as a whole: raise it, fail it over, look at it, remove it.

    root namespace            namespaces
    Lab, drill, curl  <----   cloud (moto, fabric: routes and Elastic IPs as the API says)
                      <----   agents in wl-a, wl-b, jump, inet
                              units in fgt-a, fgt-b (HA daemon, conntrackd, nftables)

The processes outlive the command that raised them. All that a later command needs is in the state directory;
all that a killed one left behind is found by its namespaces' names and removed before a lab is raised.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pyroute2.netlink.exceptions import NetlinkError

from probe.core.events import TimelineEvent
from probe.errors import PrivilegeError
from probe.lab import agents, credentials, namespace, processes, sessions, state, topology, unit
from probe.lab.agents import AgentHandle
from probe.lab.credentials import Credentials
from probe.lab.ids import CloudIds
from probe.lab.management import ready_file
from probe.lab.namespace import LabError
from probe.lab.plan import (
    CLUSTER_EIP,
    DEFAULT_PREFIX,
    DEFAULT_STATE,
    TRANSIT_TABLE,
    UNITS,
    LabOptions,
    Plan,
    management_addresses,
    peer_of,
)

__all__ = ["AgentHandle", "Lab", "LabError", "LabOptions"]

HEARTBEAT_PORT = "port3"
LOOPBACK = "127.0.0.1"  # of the root namespace, where nothing of the lab is reachable by itself
UP_LIMIT_S = 40.0  # takes about five seconds; a busy machine may take longer
SETTLE_LIMIT_S = 30.0
_AGENT_GRACE_S = 5.0  # to write the journal
_POLL_S = 0.05
_TOOLS = {"nft": "nftables", "nsenter": "util-linux", "ethtool": "ethtool", "conntrack": "conntrack"}


def _quiet(_: str) -> None:
    """No progress."""


class Lab:
    """A lab that is up. Get one by `Lab.up` or `Lab.load`."""

    def __init__(self, plan: Plan, record: state.Record, claim: state.Claim | None = None):
        self.plan = plan
        self._claim = claim
        self._record = record
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._agents: dict[str, Path] = {}  # those we started: name to config file
        self._kept: dict[str, sessions.Kept] = {}

    # Up and down

    @classmethod
    def up(
        cls,
        options: LabOptions | None = None,
        progress: Callable[[str], None] = _quiet,
        *,
        prefix: str = DEFAULT_PREFIX,
        state_dir: Path = DEFAULT_STATE,
        cloud: bool = True,
    ) -> Lab:
        """Raise a lab, after removing what is left of an earlier one with the same prefix and state directory.

        The lab stays claimed by this process until `down`, or until it ends; the lab itself stays up then.

        Args:
            options: How it behaves.
            progress: Told about each step in a few words.
            prefix: Start of its namespaces' names.
            state_dir: Its files. Emptied first.
            cloud: Without it nothing moves routes and addresses but `topology.set_route` and `set_eips`.

        Raises:
            PrivilegeError: If we are not root.
            LabError: If a tool is missing, another process uses the lab, or a part does not start; everything
                is removed again.
        """
        plan = Plan(prefix, state_dir, options or LabOptions())
        _check_host(plan)
        lab = cls(plan, state.Record(), state.Claim(plan))
        try:
            if state.leftovers(plan):
                progress("removing an earlier lab")
            state.clear(plan)
            lab._raise(progress, cloud)
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def load(cls, *, state_dir: Path = DEFAULT_STATE) -> Lab | None:
        """The lab that an earlier command raised; None when none is up."""
        try:
            plan = Plan.load(state_dir / "plan.json")
        except (OSError, ValueError):
            return None
        record = state.Record.load(plan)
        return cls(plan, record) if record is not None and state.namespaces(plan) else None

    def down(self) -> None:
        """Remove everything of it: agents (which get time to close their journals), units, cloud, namespaces."""
        claim, self._claim = self._claim or state.Claim(self.plan), None
        with claim:
            state.clear(self.plan, grace_s=_AGENT_GRACE_S)
            for child in self._children.values():
                child.wait()
            self._children.clear()

    def _raise(self, progress: Callable[[str], None], cloud: bool) -> None:
        self.plan.save()
        topology.create(self.plan, progress)
        progress("cloud and firewalls")
        if cloud:
            self._start_cloud()
            credentials.make(self.plan.credentials, {name: management_addresses(name) for name in UNITS})
        for name in UNITS:
            self._start_unit(name, cloud)
        self._record.save(self.plan)
        self._wait_up(cloud)
        progress("lab is up")

    def _start_cloud(self) -> None:
        with socket.create_server((LOOPBACK, 0), backlog=64) as listener:
            self._record.endpoint_url = f"http://{LOOPBACK}:{listener.getsockname()[1]}"
            number = listener.fileno()
            argv = [sys.executable, "-m", "probe.lab.cloud", "--plan", str(self.plan.file), "--listen-fd", str(number)]
            self._spawn("cloud", "cloud", argv, pass_fds=(number,))

    def _start_unit(self, name: str, cloud: bool) -> None:
        options = ["--plan", str(self.plan.file), "--unit", name]
        unit_argv = [sys.executable, "-m", "probe.lab.unit", *options]
        self._spawn(name, name, unit_argv if cloud else [*unit_argv, "--endpoint-url", ""])
        if cloud:  # without awsd there is little to manage
            self._start_management(name, options)

    def _start_management(self, name: str, options: Sequence[str]) -> None:
        """The unit's own address is reachable inside the lab only: its command line listens out here as well."""
        ready_file(self.plan, name).unlink(missing_ok=True)
        known = self._record.ssh_ports.get(name, 0)
        with socket.create_server((LOOPBACK, known), backlog=16) as listener:
            port, number = listener.getsockname()[1], listener.fileno()
            argv = [sys.executable, "-m", "probe.lab.management", *options, "--listen-fd", str(number)]
            self._spawn(f"{name}-management", name, argv, pass_fds=(number,))
        if not known:
            self._record.ssh_ports[name] = port
            Credentials(self.plan.credentials).know(name, LOOPBACK, port)

    def ssh_login(self, name: str) -> dict[str, Any]:
        """How to log in to a unit's command line from here, as `drill.trigger` and `ssh` want to know it.

        Raises:
            LabError: If there is none: a lab without a cloud has no management planes.
        """
        if name not in self._record.ssh_ports:
            raise LabError(f"unit {name} of this lab has no command line; it comes with the cloud")
        keys = Credentials(self.plan.credentials)
        return {
            "host": LOOPBACK,
            "port": self._record.ssh_ports[name],
            "user": credentials.USERNAME,
            "key_file": str(keys.client_key),
            "known_hosts": str(keys.known_hosts),
        }

    def _spawn(self, name: str, host: str, argv: Sequence[str], **popen: Any) -> None:
        log = self.plan.state / f"{name}.log"
        path = self.plan.namespace_path(host)
        self._keep(name, processes.spawn(name, path, argv, log, env=processes.environment(), **popen))

    def _keep(self, name: str, child: subprocess.Popen[bytes]) -> None:
        self._children[name] = child
        self._record.processes = [one for one in self._record.processes if one.alive]
        self._record.processes.append(processes.identify(name, child.pid))

    def _wait_up(self, cloud: bool) -> None:
        def ready() -> bool:
            self._check_processes()
            if cloud and not self.plan.cloud_file.exists():
                return False
            if cloud and not all(ready_file(self.plan, name).exists() for name in UNITS):
                return False
            units = self._units()
            return all(one.get("ready") for one in units.values()) and self._roles_settled(units)

        _wait_for(ready, UP_LIMIT_S, lambda: f"the lab did not come up: {self._units()}")

    def _check_processes(self) -> None:
        for name, child in self._children.items():
            if child.poll() is not None:
                log = state.read_text(self.plan.state / f"{name}.log").strip().splitlines()[-5:]
                raise LabError(f"{name} of the lab ended: " + " / ".join(log))
        failed = [event for event in self.events() if event.event == "awsd_failed"]
        if failed:
            raise LabError(f"awsd of {failed[0].detail['unit']} did not start: {failed[0].detail['error']}")

    # Failover

    def failover(self, kind: Literal["graceful", "crash", "split"] = "graceful") -> int:
        """Make the active unit fail over, and return at once.

        Args:
            kind: "graceful" is `execute ha failover set` on the primary, sticky until `unset`. "crash" pulls all
                plugs of the primary and kills everything in it. "split" cuts the heartbeat between them: each
                takes the other for dead, and both are primary.

        Returns:
            When the trigger was pulled, Unix epoch in nanoseconds: just before the command was sent, or the first
            port went down. Recorded as the event `trigger`.

        Raises:
            LabError: If no unit is primary, or its peer could not take over.
        """
        units = self._units()
        active = self.active_unit()
        if not active:
            raise LabError("no unit of the lab is primary; see `haprobe lab status`")
        peer = peer_of(active)
        if units[peer]["role"] == "dead" or units[peer].get("failover_set"):
            why = "is dead" if units[peer]["role"] == "dead" else "is failed over by command"
            raise LabError(f"{peer} {why} and would not take over; first: haprobe lab failover --unset")
        if self.plan.options.cut_watchers:
            topology.cut_watchers(self.plan, True)
            self._event(time.time_ns(), "watchers_cut_off")
        if kind == "graceful":
            at_ns = time.time_ns()
            unit.ask(self.plan, active, "execute ha failover set 1")
            self._trigger(at_ns, kind, active)
            return at_ns
        if kind == "split":
            # At both ends: a unit whose port is down would send its heartbeats by another.
            at_ns, _ = topology.set_ports(self.plan, active, "down", [HEARTBEAT_PORT])
            topology.set_ports(self.plan, peer, "down", [HEARTBEAT_PORT])
            self._trigger(at_ns, kind, active)
            return at_ns
        at_ns, down_ns = topology.set_ports(self.plan, active, "down")
        processes.kill(processes.inside([self.plan.namespace(active)]))
        self._reap()
        self._trigger(at_ns, kind, active, ports_down_ns=down_ns, killed_ns=time.time_ns())
        return at_ns

    def unset(self) -> None:
        """End a failover: `execute ha failover unset` where it was set, repair of a crashed unit or a cut heartbeat.
        Waits until settled.

        With `failback_on_unset` the unit of higher priority takes over again: a second failover. A repaired unit
        comes back as secondary.

        Raises:
            LabError: If the lab does not settle.
        """
        cloud = bool(self._record.endpoint_url)
        units = self._units()
        if all(status["role"] == "primary" for status in units.values()):
            for name in units:
                topology.set_ports(self.plan, name, "up", [HEARTBEAT_PORT])
        for name, status in units.items():
            if status.get("failover_set"):
                unit.ask(self.plan, name, "execute ha failover unset 1")
            elif status["role"] == "dead":
                topology.set_ports(self.plan, name, "up")
                self._start_unit(name, cloud)
                self._record.save(self.plan)
                self._event(time.time_ns(), "unit_restarted", unit=name)
        self.wait_settled()

    def forget_sessions(self) -> None:
        """Have both units forget every session and every neighbour, as if they had just been started.

        Raises:
            LabError: If a unit does not.
        """
        for step in ("forget sessions", "synchronise sessions"):  # all forget before any asks its peer
            for name in UNITS:
                unit.ask(self.plan, name, step)
        for name in UNITS:
            path = self.plan.namespace_path(name)
            namespace.run(namespace.command_inside(path, ["ip", "neigh", "flush", "all"]))

    def wait_settled(self, limit_s: float = SETTLE_LIMIT_S) -> None:
        """Wait until one unit is primary, its awsd is through, and the data plane obeys the cloud's state.

        Raises:
            LabError: If that takes longer than `limit_s` seconds.
        """
        _wait_for(self._settled, limit_s, lambda: f"the lab did not settle within {limit_s:g} s: {self._units()}")

    def wait_moved(self, before: str, limit_s: float = SETTLE_LIMIT_S) -> None:
        """Wait until another unit than `before` is primary and has moved what it could; `before` may be dead.

        Raises:
            LabError: If that takes longer than `limit_s` seconds.
        """

        def moved() -> bool:
            found = {name: one for name, one in self._units().items() if name != before and one["role"] == "primary"}
            return any(self._through(name, one) for name, one in found.items())

        _wait_for(moved, limit_s, lambda: f"no failover within {limit_s:g} s: {self._units()}")

    def _settled(self) -> bool:
        units = self._units()
        active = next((name for name, one in units.items() if one["role"] == "primary"), "")
        return self._roles_settled(units) and self._through(active, units[active])

    def _through(self, active: str, status: dict[str, Any]) -> bool:
        """Whether the primary's awsd has ended and the data plane obeys what it did."""
        if status["takeover"] != "done":  # nothing moved, or not everything (start, no cloud, failed calls)
            return bool(status["takeover"] != "running")
        transit = topology.routes(self.plan)[TRANSIT_TABLE].get("0.0.0.0/0")
        eip = topology.eips(self.plan).get(CLUSTER_EIP)
        shared = [name.rpartition("-")[0] for name in topology.private_ips(self.plan).values()]
        at_home = eip == self.plan.eni_of(active, "port1").port_address and shared == [active] * len(shared)
        return transit == f"{active}-port2" and at_home

    @staticmethod
    def _roles_settled(units: dict[str, dict[str, Any]]) -> bool:
        if sorted(one["role"] for one in units.values()) != ["primary", "secondary"]:
            return False
        claims = [one for one in units.values() if one["claim"]]
        return not claims and all(one["peer_alive"] and one["ready"] for one in units.values())

    def _trigger(self, at_ns: int, kind: str, active: str, **detail: int) -> None:
        self._event(at_ns, "trigger", kind=kind, unit=active, **detail)

    def _event(self, at_ns: int, name: str, **detail: Any) -> None:
        state.append_event(self.plan, TimelineEvent(at_ns, "lab", name, detail=detail))

    # Trouble of other kinds

    def drop(self, percent: int) -> None:
        """Lose that share of all packets to workload A at the transit gateway; 0 for none."""
        topology.set_loss(self.plan, percent)
        self._event(time.time_ns(), "loss", percent=percent, towards="workload-a")

    def cut(self, milliseconds: float) -> None:
        """Lose all packets to workload B at the transit gateway for so long; waits until that is over."""
        begun, ended = topology.cut(self.plan, milliseconds)
        names = ("began_after_ns", "began_before_ns", "ended_after_ns", "ended_before_ns")
        self._event(begun[0], "cut", towards="workload-b", **dict(zip(names, (*begun, *ended), strict=True)))

    def restore_watchers(self) -> None:
        """Let the jumphost reach the API and the units again (option `cut_watchers`)."""
        topology.cut_watchers(self.plan, False)
        self._event(time.time_ns(), "watchers_restored")

    def set_route(self, destination: str, target: str, table: str = TRANSIT_TABLE) -> None:
        """Point a route at an interface in the cloud, as somebody would who does not know of the failover.

        Args:
            destination: CIDR. A route that is not there yet is made.
            target: ENI name.
            table: Name of the route table.

        Raises:
            LabError: If the cloud refuses, or does not answer.
        """
        # boto3 takes long to load, and few need it here.
        from botocore.exceptions import BotoCoreError, ClientError

        from probe.lab.client import lab_client

        ids = CloudIds.load(self.plan.cloud_file)
        try:
            client = lab_client(self.endpoint_url, "operator")
            (known,) = client.describe_route_tables(RouteTableIds=[ids.route_tables[table]])["RouteTables"]
            there = any(one.get("DestinationCidrBlock") == destination for one in known["Routes"])
            (client.replace_route if there else client.create_route)(
                RouteTableId=ids.route_tables[table],
                DestinationCidrBlock=destination,
                NetworkInterfaceId=ids.enis[target],
            )
        except (ClientError, BotoCoreError) as error:
            raise LabError(f"the lab's cloud sets no route to {destination}: {error}") from error
        self._event(
            time.time_ns(),
            "route_rewritten" if there else "route_added",
            table=table,
            destination=destination,
            target=target,
        )

    # Looking

    def note_sessions(self, moment: Literal["before", "moved", "end"]) -> None:
        """Put the active unit's table of the kept sessions into the timeline (event `sessions`); never raises.

        Args:
            moment: "before" a failover, which is when the kept sessions are found; "moved", after one; or at the
                "end", which also says what all tables together imply (`truth`).
        """
        active = self.active_unit() or next((n for n, u in self._units().items() if u["role"] == "primary"), "")
        detail: dict[str, Any] = {"moment": moment, "unit": active}
        try:
            if moment == "before":
                self._kept = sessions.find(self.plan, active)
            began = [e.at_ns for e in self.events() if e.event == "forwarding" and e.detail["unit"] == active]
            eips = topology.eips(self.plan)
            detail["flows"] = sessions.account(self.plan, active, self._kept, eips, max(began, default=0))
        except (OSError, KeyError, NetlinkError, LabError) as error:
            detail["error"] = f"{type(error).__name__}: {error}"
        self._event(time.time_ns(), "sessions", **detail)

    @property
    def endpoint_url(self) -> str:
        """The cloud's API, from the root namespace; empty for a lab without a cloud."""
        return self._record.endpoint_url

    def active_unit(self) -> str:
        """The primary unit; empty while there is none, or two."""
        primaries = [name for name, one in self._units().items() if one["role"] == "primary"]
        return primaries[0] if len(primaries) == 1 else ""

    def status(self) -> dict[str, Any]:
        """Roles, owners and processes, as they are now."""
        alive = [{"name": one.name, "pid": one.pid, "alive": one.alive} for one in self._record.processes]
        return {
            "prefix": self.plan.prefix,
            "state": str(self.plan.state),
            "endpoint_url": self.endpoint_url,
            "options": asdict(self.plan.options),
            "units": self._units(),
            "active_unit": self.active_unit(),
            "eips": topology.eips(self.plan),
            "private_ips": topology.private_ips(self.plan),
            "routes": topology.routes(self.plan),
            "namespaces": state.namespaces(self.plan),
            "processes": alive,
            "agents": dict(self._record.agents),
            "ssh": {name: self.ssh_login(name) for name in self._record.ssh_ports},
        }

    def events(self, since_ns: int = 0) -> list[TimelineEvent]:
        """What happened in the lab from `since_ns` (Unix epoch) on, oldest first."""
        return state.read_events(self.plan, since_ns)

    def run_in(self, host: str, argv: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
        """Start a program in the namespace of `host`; arguments as for `subprocess.Popen`."""
        return subprocess.Popen(namespace.command_inside(self.plan.namespace_path(host), argv), **popen)

    def _units(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name in UNITS:
            try:
                found[name] = unit.ask(self.plan, name, "status")
            except LabError:
                found[name] = {"role": "dead", "ready": False, "takeover": "idle", "claim": False, "peer_alive": False}
        return found

    # Agents

    def start_agents(
        self, directory: Path, command: Callable[[Path, str, Path], Sequence[str]] = agents.agent_command
    ) -> list[AgentHandle]:
        """Start the lab's agents; their configs, logs and journals go to `directory`. Does not wait for them.

        Args:
            directory: Made if missing.
            command: Their command line; another one for tests.
        """
        ids = CloudIds.load(self.plan.cloud_file) if self.plan.cloud_file.exists() else None
        keys = Credentials(self.plan.credentials) if self.plan.credentials.exists() else None
        handles = []
        for name, config in agents.write_configs(Path(directory).resolve(), self.plan.options, ids, keys).items():
            handle, child = agents.start(self.plan, name, config, config.parent, command)
            self._keep(f"agent {name}", child)
            self._agents[name] = config
            self._record.agents[name] = handle.url
            self._record.save(self.plan)  # at once: a killed drill must not leave an agent nobody knows
            handles.append(handle)
        return handles

    def restart_agent(self, name: str) -> None:
        """Kill all that runs on the host of an agent we have started, as a reboot would, and start the agent anew.

        It answers at the same URL. Nothing says goodbye: the host's kernel refuses what comes in the meantime.

        Raises:
            LabError: If there is no such agent.
        """
        if name not in self._agents:
            raise LabError(f"agent {name} was not started by this program")
        at_ns = time.time_ns()
        processes.kill(processes.inside([self.plan.namespace(agents.HOST_OF[name])]))  # its engine as well
        self._reap()
        config, port = self._agents[name], int(self._record.agents[name].rpartition(":")[2])
        _, child = agents.start(self.plan, name, config, config.parent, port=port)
        self._keep(f"agent {name}", child)
        self._record.save(self.plan)
        self._event(at_ns, "agent_restarted", agent=name)

    def stop_agents(self) -> None:
        """End the agents, in order; after five seconds by force."""
        processes.kill([one for one in self._record.processes if one.name.startswith("agent ")], grace_s=_AGENT_GRACE_S)
        self._reap()
        self._record.agents.clear()
        self._record.save(self.plan)

    def _reap(self) -> None:
        """Collect our children that have ended; zombies would look like leftovers to others."""
        self._children = {name: child for name, child in self._children.items() if child.poll() is None}
        self._record.processes = [one for one in self._record.processes if one.alive]


def _check_host(plan: Plan) -> None:
    if os.geteuid() != 0:
        raise PrivilegeError(
            "the lab makes network namespaces (CAP_SYS_ADMIN, CAP_NET_ADMIN): run it as root, for instance by sudo"
        )
    wanted = dict(_TOOLS, **({"conntrackd": "conntrackd"} if plan.options.session_pickup else {}))
    missing = sorted({package for tool, package in wanted.items() if shutil.which(tool) is None})
    if missing:
        raise LabError(f"the lab needs more packages: apt-get install {' '.join(missing)}")


def _wait_for(condition: Callable[[], bool], limit_s: float, complaint: Callable[[], str]) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(complaint())
        time.sleep(_POLL_S)
