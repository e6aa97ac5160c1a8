"""Where a drill is played: in the lab, which it raises and takes down, or with agents that run already."""

from __future__ import annotations

import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from probe.core.events import TimelineEvent
from probe.drill.client import AgentEndpoint
from probe.drill.plan import DrillPlan
from probe.drill.scenarios import Step
from probe.drill.triggers import CommandTrigger, LabKind, LabTrigger, ManualTrigger, Trigger, terminal_input
from probe.errors import PeerError
from probe.lab.plan import LabOptions

Tell = Callable[[str], None]


class Stage(Protocol):
    """What the run of a drill needs around it."""

    ready_timeout_s: float  # for agents to become ready

    def prepare(self, tell: Tell) -> None:
        """Have agents running. What fails half-way is cleaned up by `close`."""

    def endpoints(self) -> Sequence[AgentEndpoint]:
        """The agents to ask; valid until `renew`."""

    def trigger(self, first_loss: Callable[[], int | None]) -> Trigger:
        """A trigger for one drill. `first_loss` tells when the first loss was, None while there is none."""

    def events(self, since_ns: int) -> list[TimelineEvent]:
        """What happened around the agents and is not in their reports."""

    def renew(self, tell: Tell) -> None:
        """Get back to where a next drill can start: the first unit active, new sessions."""

    def close(self, tell: Tell) -> None:
        """Leave nothing behind."""


class LabStage:
    """The namespace lab.

    Args:
        options: How it behaves.
        kind: How its active unit fails.
        steps: What a scenario does to it afterwards.
        keep: Leave it standing, agents and all, for a look around.
        lab_type: `probe.lab.lab.Lab`, unless a test brings its own.
    """

    ready_timeout_s = 20.0

    def __init__(
        self,
        options: LabOptions,
        kind: LabKind,
        steps: Sequence[Step] = (),
        *,
        keep: bool = False,
        lab_type: Any = None,
    ):
        self._options = options
        self._kind = kind
        self._steps = tuple(steps)
        self._keep = keep
        self._lab_type = lab_type
        self._lab: Any = None
        self._endpoints: tuple[AgentEndpoint, ...] = ()
        self._directory: Path | None = None

    def prepare(self, tell: Tell) -> None:
        tell("raising the lab")
        self._lab = (self._lab_type or _lab_type()).up(self._options, tell)
        self._start_agents(tell)

    def endpoints(self) -> Sequence[AgentEndpoint]:
        return self._endpoints

    def trigger(self, first_loss: Callable[[], int | None]) -> Trigger:
        return LabTrigger(self._lab, self._kind, self._steps, stays=self._keep)

    def events(self, since_ns: int) -> list[TimelineEvent]:
        return list(self._lab.events(since_ns))

    def renew(self, tell: Tell) -> None:
        """After a graceful failover, fail back and start new agents; after anything else, have a new lab."""
        if self._kind != "graceful" or self._steps:
            self._take_down(tell)
            self.prepare(tell)
            return
        tell("failing back: execute ha failover unset 1")
        self._lab.unset()
        self._lab.stop_agents()
        self._remove_directory()
        self._start_agents(tell)

    def close(self, tell: Tell) -> None:
        if self._keep and self._endpoints:
            urls = ", ".join(f"{endpoint.name} {endpoint.url}" for endpoint in self._endpoints)
            tell(f"the lab stays up (haprobe lab down removes it); agents: {urls}")
            return
        # A second Ctrl-C must not leave namespaces and processes behind; taking down is bounded.
        with interrupts_ignored():
            self._take_down(tell)

    def _start_agents(self, tell: Tell) -> None:
        tell("starting the agents")
        self._directory = Path(tempfile.mkdtemp(prefix="haprobe-drill-"))
        self._endpoints = tuple(
            AgentEndpoint(name=agent.name, url=agent.url, log=Path(agent.log), pid=agent.pid)
            for agent in self._lab.start_agents(self._directory)
        )

    def _take_down(self, tell: Tell) -> None:
        self._endpoints = ()
        if self._lab is not None:
            tell("taking the lab down")
            lab, self._lab = self._lab, None
            lab.down()
        self._remove_directory()

    def _remove_directory(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


class ConfiguredStage:
    """Agents of a config file, wherever they run. Nothing there is started or stopped.

    Args:
        plan: Names the agents and the trigger.
        lab_type: As of `LabStage`; used for the trigger `lab` only, which needs a lab that is up already.
    """

    ready_timeout_s = 10.0

    def __init__(self, plan: DrillPlan, *, lab_type: Any = None):
        self._plan = plan
        self._lab_type = lab_type
        self._lab: Any = None

    def prepare(self, tell: Tell) -> None:
        if self._plan.trigger == "lab":
            self._lab = (self._lab_type or _lab_type()).load()
            if self._lab is None:
                raise PeerError("drill.trigger.kind is lab, but no lab is up; raise it with: haprobe lab up")
        names = ", ".join(f"{agent.name} ({agent.url})" for agent in self._plan.agents)
        tell(f"asking {names}")

    def endpoints(self) -> Sequence[AgentEndpoint]:
        return self._plan.agents

    def trigger(self, first_loss: Callable[[], int | None]) -> Trigger:
        if self._plan.trigger == "lab":
            return LabTrigger(self._lab, "graceful", stays=True)
        if self._plan.trigger in ("command", "fortigate", "aws-stop-instance", "aws-reboot-instance"):
            return _own_trigger(self._plan)
        return ManualTrigger(first_loss, self._plan.limit_ns / 1e9, terminal_input())

    def events(self, since_ns: int) -> list[TimelineEvent]:
        return list(self._lab.events(since_ns)) if self._lab is not None else []

    def renew(self, tell: Tell) -> None:
        """The pair and the agents are not ours: say what is needed; the steady state check sees when it is done."""
        if self._lab is not None:
            self._lab.unset()
        if self._plan.settings is not None and self._plan.settings.undo:
            return
        tell(
            "next drill: fail back (execute ha failover unset 1) and restart the agents whose kept sessions were lost "
            "(systemctl restart haprobe)"
        )

    def close(self, tell: Tell) -> None:
        """Nothing of ours is left there."""


def _own_trigger(plan: DrillPlan) -> Trigger:
    """The trigger that a config file sets up, of those that act by themselves."""
    settings = plan.settings
    if plan.trigger == "command":
        undo_argv = settings.undo_command or () if settings else ()
        return CommandTrigger(plan.command, undo_argv=undo_argv, undo=bool(settings and settings.undo))
    unit = settings.unit or ""
    if plan.trigger == "fortigate":
        from probe.drill.triggers_fortigate import FortigateTrigger
        from probe.watch.fortigate_ssh import SshTarget

        target = SshTarget.configured("drill.trigger", unit, settings.host, settings)
        return FortigateTrigger(target, vcluster=settings.vcluster, undo=settings.undo)
    from probe.drill.triggers_aws import InstanceTrigger

    how: Literal["stop", "reboot"] = "stop" if plan.trigger == "aws-stop-instance" else "reboot"
    return InstanceTrigger(how, plan.account, settings.instance, unit=unit, force=settings.force, undo=settings.undo)


def _lab_type() -> Any:
    from probe.lab.lab import Lab

    return Lab


def stage_for(plan: DrillPlan) -> Stage:
    """The stage that a plan asks for."""
    if plan.lab is None:
        return ConfiguredStage(plan)
    return LabStage(plan.lab, cast(LabKind, plan.trigger), plan.steps, keep=plan.keep_lab)


def in_main_thread() -> bool:
    """Signal handlers can only be set there."""
    return threading.current_thread() is threading.main_thread()


INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a drill to end."""


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP do nothing inside."""
    if not in_main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end a drill as Ctrl-C does: in order, with the lab taken down."""
    if not in_main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
