"""The lab's files on disk: its event log, its lock, and what runs in it.

Several processes write to one event log at the same time. Each event is a single `write` to a file opened
with O_APPEND, which the kernel keeps whole; there is no lock to leave behind when a writer is killed. The
lab's lock is a file lock, which the kernel releases with the process that held it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from probe.core.events import TimelineEvent
from probe.lab import namespace, processes, topology
from probe.lab.plan import HOSTS, Plan
from probe.lab.processes import Process


@dataclass
class Record:
    """What `up` leaves for later commands: STATE/lab.json."""

    endpoint_url: str = ""  # the cloud, from the root namespace
    processes: list[Process] = field(default_factory=list)
    agents: dict[str, str] = field(default_factory=dict)  # name to URL; their processes are called "agent NAME"
    ssh_ports: dict[str, int] = field(default_factory=dict)  # unit to its SSH port on 127.0.0.1 of the root namespace

    def save(self, plan: Plan) -> None:
        """Write it, whole or not at all."""
        scratch = _record_file(plan).with_suffix(".new")
        scratch.write_text(json.dumps(asdict(self), indent=1) + "\n")
        scratch.replace(_record_file(plan))

    @classmethod
    def load(cls, plan: Plan) -> Record | None:
        """Read it; None when there is none, or nothing readable."""
        try:
            document = json.loads(_record_file(plan).read_text())
            document["processes"] = [Process(**one) for one in document["processes"]]
            return cls(**document)
        except (OSError, ValueError, TypeError, KeyError):
            return None


def append_event(plan: Plan, event: TimelineEvent) -> None:
    """Add one event to the lab's log (STATE/events.jsonl)."""
    line = json.dumps(event.to_document(), separators=(",", ":")) + "\n"
    descriptor = os.open(plan.events_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read_events(plan: Plan, since_ns: int = 0) -> list[TimelineEvent]:
    """The lab's events from `since_ns` (Unix epoch) on, oldest first.

    A last line without its newline (a writer that was killed, or is writing right now) is left out.
    """
    text = read_text(plan.events_file)
    whole = text[: text.rfind("\n") + 1]
    events = [TimelineEvent(**json.loads(line)) for line in whole.splitlines() if line]
    return sorted((event for event in events if event.at_ns >= since_ns), key=lambda event: event.at_ns)


def read_text(path: Path) -> str:
    """Contents of a file that may be gone; then empty."""
    try:
        return path.read_text()
    except OSError:
        return ""


class Claim:
    """Who may raise and remove a lab: at most one program at a time, for as long as it lives or until `release`.

    Raises:
        LabError: If another program has it; names its pid.
    """

    def __init__(self, plan: Plan):
        path = plan.state.with_name(plan.state.name + ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            owner = self._file.read().strip() or "?"
            self._file.close()
            raise namespace.LabError(f"another haprobe (pid {owner}) uses this lab; wait for it, or end it") from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Let others have the lab. The lock's file stays: removing it would let two programs lock two files."""
        self._file.close()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def namespaces(plan: Plan) -> list[str]:
    """Those of the plan's namespaces that exist."""
    own = {plan.namespace(host) for host in HOSTS}
    return [name for name in namespace.existing(plan.prefix) if name in own]


def leftovers(plan: Plan) -> list[str]:
    """What is there of this lab, in words; empty when it is down."""
    names = namespaces(plan)
    found = [f"namespace {name}" for name in names]
    found += [f"process {one.pid} in {one.name}" for one in processes.inside(names)]
    record = Record.load(plan)
    if record is not None:
        found += [f"process {one.pid} ({one.name})" for one in record.processes if one.alive]
    return found


def clear(plan: Plan, *, grace_s: float = 0.0) -> None:
    """Remove everything of this lab: processes, namespaces, files. Works on whatever a killed one left.

    Args:
        plan: Whose prefix and state directory.
        grace_s: How long agents may take to end by themselves.

    Raises:
        LabError: If a process does not end.
    """
    record = Record.load(plan)
    if record is not None and grace_s > 0:
        processes.kill([one for one in record.processes if one.name.startswith("agent ")], grace_s=grace_s)
    names = namespaces(plan)
    # An agent may have been killed between its start and its entry into a namespace: the record knows it.
    stubborn = processes.kill([*processes.inside(names), *(record.processes if record else [])])
    stubborn += processes.kill(processes.inside(names))  # started while we looked
    if stubborn:
        raise namespace.LabError("processes of the lab do not end: " + ", ".join(str(one.pid) for one in stubborn))
    topology.destroy(plan)
    shutil.rmtree(plan.state, ignore_errors=True)


def _record_file(plan: Plan) -> Path:
    return plan.state / "lab.json"
