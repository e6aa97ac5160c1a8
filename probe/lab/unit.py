"""The HA daemon of one FortiGate stand-in: heartbeats, roles, and what a new primary does. Runs in its namespace.

    python -m probe.lab.unit --plan STATE/plan.json --unit fgt-a [--endpoint-url URL]

On becoming primary it takes over the synchronised sessions, forwards, and then lets awsd move addresses and
routes in the cloud. Whatever that needs is imported, connected and started before the unit calls itself
ready, so that no start-up cost of ours ends up in a measured failover.

Control, over the unix socket STATE/UNIT.sock, one JSON object per line each way:

    {"cmd": "status"}                      {"ok": true, "role": "primary", ...}
    {"cmd": "execute ha failover set"}     {"ok": true, "at_ns": ...}    and ... unset
    {"cmd": "forget sessions"}             {"ok": true, ...}             until "synchronise sessions" without its peer's
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import selectors
import signal
import socket
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from probe.core.events import TimelineEvent
from probe.lab import conntrackd, firewall
from probe.lab.election import Election, Heartbeat, Role
from probe.lab.fortios import FLAG_SET, HIGHER_PRIORITY, ONLY_MEMBER, PRIORITY
from probe.lab.namespace import LabError
from probe.lab.plan import CLOUD_URL, UNITS, Plan, eni_of, peer_of
from probe.lab.state import append_event
from probe.priority import come_first

HEARTBEAT_PORT = 703  # UDP, FortiOS's unicast heartbeat
_CONTROL_S = 2.0


class Unit:
    """One unit's daemon: a single loop over heartbeats, commands and the lost threshold."""

    def __init__(self, plan: Plan, unit: str, endpoint_url: str | None):
        options = plan.options
        self.plan, self.unit = plan, unit
        self._interval_ns = options.heartbeat_interval_ms * 1_000_000
        self._election = Election(
            unit,
            PRIORITY[unit],
            self._interval_ns * options.heartbeat_lost,
            options.failback_on_unset,
            time.monotonic_ns(),
        )
        self._role: Role = "init"
        self._peer_lost = False
        self._forwarding = False
        self._takeover = "idle"
        self._ready = False
        self._stopping = False
        self._awsd: Any = None
        self._endpoint_url = endpoint_url
        self._pickup = conntrackd.Conntrackd(plan, unit) if options.session_pickup else None
        self._peer_address = (eni_of(peer_of(unit), "port3").address, HEARTBEAT_PORT)
        self._beat = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._beat.bind((eni_of(unit, "port3").address, HEARTBEAT_PORT))
        self._beat.setblocking(False)
        self._control = _listen(plan.control_socket(unit))

    def start(self) -> None:
        """Rules, session pickup and awsd, everything a failover will need."""
        firewall.install(firewall.options_for(self.unit, self.plan.options))
        conntrackd.flush_sessions()  # a unit that comes back from a crash remembers nothing
        if self._pickup:
            self._pickup.start()
        if self._endpoint_url:
            threading.Thread(target=self._prepare_awsd, name="awsd start", daemon=True).start()
        else:
            self._ready = True

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._beat, selectors.EVENT_READ, self._on_heartbeat)
            selector.register(self._control, selectors.EVENT_READ, self._on_control)
            next_beat_ns = time.monotonic_ns()
            while not self._stopping:
                now_ns = time.monotonic_ns()
                if now_ns >= next_beat_ns:
                    self._send_heartbeat()
                    next_beat_ns = max(next_beat_ns + self._interval_ns, now_ns)
                self._election.decide(now_ns)
                self._follow(now_ns)
                wait_ns = max(0, min(next_beat_ns, self._election.deadline_ns) - time.monotonic_ns())
                if self._election.deadline_ns <= now_ns:  # the peer is gone: nothing to wait for but the next beat
                    wait_ns = max(0, next_beat_ns - time.monotonic_ns())
                for key, _ in selector.select(wait_ns / 1e9):
                    key.data()

    def stop(self, *_: object) -> None:
        """Leave `run`; fit for a signal handler."""
        self._stopping = True

    def close(self) -> None:
        """Release everything. The rules stay: the lab removes the namespace."""
        if self._pickup:
            self._pickup.stop()
        self._beat.close()
        self._control.close()

    def status(self) -> dict[str, Any]:
        """What the control socket answers to `status`."""
        election = self._election
        return {
            "unit": self.unit,
            "role": self._role,
            "failover_set": election.failover_set,
            "claim": election.claim,
            "peer_alive": election.peer_alive(time.monotonic_ns()),
            "peer_role": election.peer.role if election.peer else "",
            "forwarding": self._forwarding,
            "session_pickup": self._pickup is not None,
            "takeover": self._takeover,
            "ready": self._ready,
        }

    # Heartbeats

    def _send_heartbeat(self) -> None:
        with contextlib.suppress(OSError):  # a port that is down is what the peer is to notice, not we
            self._beat.sendto(json.dumps(asdict(self._election.heartbeat())).encode(), self._peer_address)

    def _on_heartbeat(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, sender = self._beat.recvfrom(2048)
                if sender[0] != self._peer_address[0]:
                    continue
                with contextlib.suppress(ValueError, TypeError):  # not a heartbeat
                    self._election.heard(Heartbeat(**json.loads(data)), time.monotonic_ns())
                self._follow(time.monotonic_ns())

    # Roles

    def _follow(self, now_ns: int) -> None:
        """Carry out what the election decided."""
        lost = self._election.peer is not None and not self._election.peer_alive(now_ns)
        if lost and not self._peer_lost:
            self._event("heartbeat_lost", peer=peer_of(self.unit), silence_ns=now_ns - self._election.heard_ns)
        elif self._peer_lost and not lost:
            self._event("heartbeat_back", peer=peer_of(self.unit))
        self._peer_lost = lost
        role = self._election.role
        if role == self._role:
            return
        first, self._role = self._role == "init", role
        why = {"reason": self._reason(now_ns)} if role == "primary" else {}
        self._event("role_change", role=role, **why)
        self._send_heartbeat()  # the peer waits for this one
        if role == "primary":
            self._become_primary(first)
        elif role == "secondary":
            self._become_secondary(first)

    def _reason(self, now_ns: int) -> str:
        """Why this unit is primary, in FortiOS's words."""
        election = self._election
        if election.peer is None or not election.peer_alive(now_ns):
            return ONLY_MEMBER
        return FLAG_SET if election.peer.failover_set else HIGHER_PRIORITY

    def _become_primary(self, first: bool) -> None:
        # Sessions before packets: a mid-stream packet that comes first would be dropped, or reset.
        if self._pickup:
            self._synchronise()
            self._event("sessions_committed", **self._pickup.statistics())
        self._set_forwarding(True)
        if not first and self._endpoint_url:  # at the start the cloud already points here
            self._takeover = "running"  # before anyone can ask
            threading.Thread(target=self._take_over, name="awsd", daemon=True).start()

    def _become_secondary(self, first: bool) -> None:
        if self._awsd is not None:
            self._awsd.stand_down()
        if not first:
            self._set_forwarding(False)
        if self._pickup:
            self._synchronise()
        else:  # a secondary without session pickup knows no session: what it forwarded before is over
            conntrackd.flush_sessions()

    def _synchronise(self) -> None:
        assert self._pickup is not None, "without session pickup there is nothing to synchronise"
        if self._role == "primary":
            self._pickup.to_primary()
        else:
            self._pickup.to_secondary()

    def _set_forwarding(self, enabled: bool) -> None:
        firewall.set_forwarding(enabled)
        self._forwarding = enabled
        self._event("forwarding", enabled=enabled)

    # The cloud

    def _prepare_awsd(self) -> None:
        """Import and connect now; at failover only the calls themselves are left."""
        try:
            module = importlib.import_module("probe.lab.awsd")
            log = self.plan.state / f"{self.unit}-awsd.log"
            self._awsd = module.Awsd(self.plan, self.unit, self._endpoint_url, log)
            self._ready = True
        except Exception as error:
            self._event("awsd_failed", error=f"{type(error).__name__}: {error}")

    def _take_over(self) -> None:
        try:
            if self._awsd is None:
                raise LabError("awsd is not ready")
            self._takeover = "done" if self._awsd.take_over() else "failed"
        except Exception as error:  # a unit whose awsd fails is still primary
            self._takeover = "failed"
            self._event("awsd_failed", error=f"{type(error).__name__}: {error}")

    # Control

    def _on_control(self) -> None:
        connection, _ = self._control.accept()
        with connection:
            connection.settimeout(_CONTROL_S)
            try:
                with connection.makefile("rwb") as stream:
                    answer = self._command(json.loads(stream.readline()))
                    stream.write(json.dumps(answer).encode() + b"\n")
            except (OSError, ValueError) as error:
                print(f"control: {error}", file=sys.stderr)

    def _command(self, request: dict[str, Any]) -> dict[str, Any]:
        command = str(request.get("cmd", "")).strip().removesuffix(" 1")  # 1: the virtual cluster, there is one
        at_ns, now_ns = time.time_ns(), time.monotonic_ns()
        if command == "status":
            return {"ok": True, **self.status()}
        if command == "execute ha failover set":
            self._event("failover_set")
            self._election.set_failover(now_ns)
        elif command == "execute ha failover unset":
            self._event("failover_unset")
            self._election.unset_failover(now_ns)
            self._send_heartbeat()
        elif command == "forget sessions":
            # conntrackd ends for it: once it has committed sessions it does not forget them when told to.
            if self._pickup:
                self._pickup.stop()
            conntrackd.flush_sessions()
        elif command == "synchronise sessions":
            if self._pickup:
                self._pickup.start()
                self._synchronise()
        else:
            return {"ok": False, "error": f"unknown command {command!r}"}
        self._follow(now_ns)
        return {"ok": True, "at_ns": at_ns, "role": self._role}

    def _event(self, name: str, **detail: Any) -> None:
        append_event(self.plan, TimelineEvent(time.time_ns(), "lab", name, detail={"unit": self.unit, **detail}))


def ask(plan: Plan, unit: str, command: str, timeout_s: float = 5.0) -> dict[str, Any]:
    """Give a unit's daemon a command and return its answer.

    Raises:
        LabError: If the unit does not answer, or refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(timeout_s)
            control.connect(str(plan.control_socket(unit)))
            with control.makefile("rwb") as stream:
                stream.write(json.dumps({"cmd": command}).encode() + b"\n")
                stream.flush()
                answer: dict[str, Any] = json.loads(stream.readline() or b"{}")
    except (OSError, ValueError) as error:
        raise LabError(f"unit {unit} of the lab does not answer ({error})") from error
    if not answer.get("ok"):
        raise LabError(f"unit {unit} of the lab: {answer.get('error', 'no answer')}")
    return answer


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(8)
    return listener


def main(argv: list[str] | None = None) -> int:
    """Entry point of the daemon."""
    parser = argparse.ArgumentParser(prog="python -m probe.lab.unit", description=__doc__.splitlines()[0])
    parser.add_argument("--plan", required=True, help="plan.json of the lab")
    parser.add_argument("--unit", required=True, choices=UNITS)
    parser.add_argument("--endpoint-url", default=CLOUD_URL, help='the cloud; "" for a lab without one')
    arguments = parser.parse_args(argv)
    unit = Unit(Plan.load(arguments.plan), arguments.unit, arguments.endpoint_url or None)
    signal.signal(signal.SIGTERM, unit.stop)
    signal.signal(signal.SIGINT, unit.stop)
    come_first(-10)  # heartbeats in time even on a busy machine
    try:
        unit.start()
        unit.run()
    finally:
        unit.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
