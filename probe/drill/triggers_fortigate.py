"""The failover as an operator makes it: `execute ha failover set` on the active FortiGate."""

from __future__ import annotations

import asyncio
import re

from probe.clock import Clock, SystemClock
from probe.core.events import TimelineEvent
from probe.drill.console import Console
from probe.drill.triggers import Trigger
from probe.errors import PeerError

_REFUSED = re.compile(r"command fail|command parse error|unknown action|permission denied|return code -", re.I)


class FortigateTrigger(Trigger):
    """`execute ha failover set`, and `unset` afterwards when asked, because it is sticky.

    Args:
        console: Runs a CLI command on a unit.
        unit: The active unit's name.
        vcluster: The virtual cluster.
        undo: Take it back after the drill, which may cause a second failover.
        clock: Stamps the command.
    """

    kind = "fortigate"
    outside = True

    def __init__(
        self, console: Console, unit: str, *, vcluster: int = 1, undo: bool = False, clock: Clock | None = None
    ):
        self.unit = unit
        self._console = console
        self._vcluster = vcluster
        self._undo = undo
        self._clock = clock or SystemClock()
        self._runner = asyncio.Runner()  # one loop for all, so that the console may keep its connection
        self._answered_ns = 0

    def describe(self) -> str:
        return f"graceful failover: {self._command('set')} on {self.unit} ({self._console.where(self.unit)})"

    def rehearse(self) -> str:
        status = " ".join(self._run("execute ha failover status").split())
        return f"{self.unit} answers `execute ha failover status`: {status or 'nothing'}"

    def fire(self) -> int:
        self._runner.run(self._console.open(self.unit))  # the login takes longer than the command
        at_ns = self._clock.wall_ns()
        self._run(self._command("set"))
        self._answered_ns = self._clock.wall_ns()
        return at_ns

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

    def close(self) -> None:
        self._runner.run(self._console.close())
        self._runner.close()

    def _command(self, verb: str) -> str:
        return f"execute ha failover {verb} {self._vcluster}"

    def _run(self, command: str) -> str:
        text = self._runner.run(self._console.run(self.unit, command))
        if _REFUSED.search(text):
            raise PeerError(f"{self.unit} refused `{command}`: {' '.join(text.split())}")
        return text
