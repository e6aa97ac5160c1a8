"""The failover as an operator makes it: `execute ha failover set` on the active FortiGate, by SSH."""

from __future__ import annotations

import asyncio

from probe.clock import Clock, SystemClock
from probe.core.events import TimelineEvent
from probe.drill.triggers import Trigger
from probe.errors import ConfigError, HaprobeError, PeerError, PrivilegeError
from probe.watch.fortigate_ssh import (
    CommandRefusedError,
    LoginFileError,
    LoginRefusedError,
    SshError,
    SshTarget,
    login,
)


class FortigateTrigger(Trigger):
    """`execute ha failover set`, and `unset` afterwards when asked, because it is sticky.

    Each command has a session of its own: FortiOS ends one that is idle for as long as a drill may take.

    Args:
        target: The active unit, and how to log in to it.
        vcluster: The virtual cluster.
        undo: Take it back after the drill, which may cause a second failover.
        clock: Stamps the command.
    """

    kind = "fortigate"
    outside = True

    def __init__(self, target: SshTarget, *, vcluster: int = 1, undo: bool = False, clock: Clock | None = None):
        self.unit = target.unit
        self._target = target
        self._vcluster = vcluster
        self._undo = undo
        self._clock = clock or SystemClock()
        self._typed_ns = self._answered_ns = 0

    def describe(self) -> str:
        at = self._target
        place = f"{at.user}@{at.host}" + ("" if at.port == 22 else f":{at.port}")
        return f"graceful failover: {self._command('set')} on {self.unit} ({place})"

    def rehearse(self) -> str:
        status = " ".join(self._run("execute ha failover status").split())
        return f"{self.unit} answers `execute ha failover status`: {status or 'nothing'}"

    def fire(self) -> int:
        self._run(self._command("set"))
        self._answered_ns = self._clock.wall_ns()
        return self._typed_ns

    def event(self, at_ns: int) -> TimelineEvent:
        detail = {"kind": self.kind, "unit": self.unit, "command": self._command("set")}
        return TimelineEvent(at_ns, "fortigate", "trigger", 0, {**detail, "answered_ns": self._answered_ns})

    def undo(self) -> str:
        return f"{self._command('unset')}   on {self.unit}: it stays failed over until then, and may fail straight back"

    def revert(self) -> str:
        if not self._undo or not self._answered_ns:
            return ""
        self._run(self._command("unset"))
        return f"{self._command('unset')} on {self.unit}"

    def _command(self, verb: str) -> str:
        return f"execute ha failover {verb} {self._vcluster}"

    def _run(self, command: str) -> str:
        self._typed_ns = 0
        try:
            return asyncio.run(self._type(command))
        except SshError as error:
            done = self._typed_ns and not isinstance(error, CommandRefusedError)
            text = f"FortiGate {self.unit}: {error}" + ("; it may have been carried out" if done else "")
            raise _kind(error)(text) from error

    async def _type(self, command: str) -> str:
        async with login(self._target) as line:
            self._typed_ns = self._clock.wall_ns()  # only now: the login takes longer than the command
            return await line.ask(command, confirm=True)


def _kind(error: SshError) -> type[HaprobeError]:
    """What it is for the user."""
    if isinstance(error, LoginFileError):
        return ConfigError
    return PrivilegeError if isinstance(error, LoginRefusedError) else PeerError
