"""Ways to start a failover. Each knows how to say what it does, to do it, when it did, and how to undo it.

Those that reach for AWS or a FortiGate are in `triggers_aws` and `triggers_fortigate`.
"""

from __future__ import annotations

import select
import shlex
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import IO, Any, Literal

from probe.clock import Clock, SystemClock
from probe.core.events import TimelineEvent
from probe.drill.scenarios import Step
from probe.drill.steps import Script, SteppedLab
from probe.errors import HaprobeError, NoFailoverError, UsageError

UNDO_LIMIT_S = 600.0  # for a command that undoes another


class Trigger(ABC):
    """One way to start a failover. Used once."""

    kind: str  # short name for the result document
    outside = False  # whether it changes something outside the lab by itself, so that somebody has to agree first
    unattended = False  # whether it may do so without consent when nobody is there to give it
    unit = ""  # the unit that has to be active for it; "" when it does not matter

    @abstractmethod
    def describe(self) -> str:
        """What will happen, or what the user is to do; for the terminal."""

    def rehearse(self) -> str:
        """Find out, changing nothing, whether it could be done.

        Returns:
            What was found out; "" when there is nothing to ask.

        Raises:
            HaprobeError: If it could not be done.
        """
        return ""

    @abstractmethod
    def fire(self) -> int:
        """Start it.

        Returns:
            When, in Unix epoch nanoseconds.

        Raises:
            UsageError: If it cannot be done at all.
            NoFailoverError: If it was up to the user, and nothing happened in time.
            PrivilegeError, PeerError: If it was refused or could not be reached.
        """

    @abstractmethod
    def event(self, at_ns: int) -> TimelineEvent:
        """The timeline's entry for a trigger fired at `at_ns`."""

    def failure(self) -> str:
        """Why the trigger did not do its work, as far as known by now; "" when nothing speaks against it."""
        return ""

    def pending(self) -> str:
        """What of it is still to come, in a few words; the recovery is not over before. "" when all is done."""
        return ""

    def look_back(self) -> None:
        """The recovery has been watched, the run is about to end: note what the report needs besides."""
        return

    def undo(self) -> str:
        """How to undo it, for a person; "" when nothing stays changed."""
        return ""

    def revert(self) -> str:
        """Undo it, if that was asked for; what was done, "" for nothing. Called after the measurement.

        Raises:
            HaprobeError: If it could not be undone.
        """
        return ""

    def close(self) -> None:
        """End what may still be running."""
        return


LabKind = Literal["graceful", "crash", "split", "script"]
_LAB_KINDS: dict[LabKind, str] = {
    "graceful": "graceful failover: execute ha failover set 1 on the active unit",
    "crash": "crash: every link of the active unit down, its processes killed",
    "split": "split: the heartbeat between the units is cut",
    "script": "no failover",
}


class LabTrigger(Trigger):
    """The lab's own failover (graceful: `execute ha failover set 1`, a crash, a cut heartbeat), and a scenario's steps.

    Args:
        lab: The lab.
        kind: How; "script" does the steps alone.
        steps: What else is done to the lab afterwards.
        stays: Whether the lab stays up afterwards, failed over.
    """

    def __init__(self, lab: SteppedLab, kind: LabKind, steps: Sequence[Step] = (), *, stays: bool = False):
        self.kind: str = kind
        self._how = kind
        self._lab = lab
        self._steps = tuple(steps)
        self._script = Script(lab, steps)
        self._stays = stays

    def describe(self) -> str:
        return "; ".join([_LAB_KINDS[self._how], *(step.describe() for step in self._steps)])

    def fire(self) -> int:
        self._lab.note_sessions("before")
        before = self._lab.active_unit()
        if self._how == "script":
            at_ns = time.time_ns()
            self._script.start("")
        else:
            at_ns = self._lab.failover(self._how)
            self._script.start(before)
        return at_ns

    def event(self, at_ns: int) -> TimelineEvent:
        return TimelineEvent(at_ns=at_ns, source="lab", event="trigger", detail={"kind": self.kind})

    def failure(self) -> str:
        return self._script.error

    def pending(self) -> str:
        return "the rest of the scenario" if self._script.running else ""

    def look_back(self) -> None:
        self._lab.note_sessions("end")

    def close(self) -> None:
        self._script.close()

    def undo(self) -> str:
        if not self._stays or self._how == "script":
            return ""
        return "haprobe lab failover --unset" if self._how != "crash" else "haprobe lab up raises the lab anew"


class CommandTrigger(Trigger):
    """A command of the user, without a shell. It runs on while recovery is watched.

    Args:
        argv: Program and arguments.
        clock: Stamps the start.
        undo_argv: What undoes it, if anything does.
        undo: Run that after the drill.
    """

    kind = "command"
    outside = True
    unattended = True  # who puts a command of their own into the config, and then a drill into a script, has agreed

    def __init__(
        self,
        argv: Sequence[str],
        clock: Clock | None = None,
        *,
        undo_argv: Sequence[str] = (),
        undo: bool = False,
    ):
        if not argv:
            raise UsageError("drill.trigger.command is empty; a list of program and arguments is needed")
        self._argv = list(argv)
        self._undo_argv = list(undo_argv)
        self._undo = undo
        self._clock = clock or SystemClock()
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._error = ""

    def describe(self) -> str:
        return f"running {shlex.join(self._argv)}"

    def fire(self) -> int:
        # A file and not a pipe: a command that talks a lot would otherwise stop halfway, waiting for a reader.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the process
        at_ns = self._clock.wall_ns()
        try:
            # Its own session: Ctrl-C ends the drill in order, not the command in the middle of its work.
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._output.close()
            raise UsageError(f"drill.trigger.command: cannot run {self._argv[0]}: {error.strerror}") from error
        return at_ns

    def event(self, at_ns: int) -> TimelineEvent:
        status = self._process.poll() if self._process else None
        detail: dict[str, Any] = {"kind": self.kind, "command": self._argv, "exit_status": status}
        return TimelineEvent(at_ns=at_ns, source="user", event="trigger", detail=detail)

    def failure(self) -> str:
        if self._process is None or not self._process.poll():
            return ""
        if not self._error:
            self._error = f"the trigger command ended with exit status {self._process.returncode}{self._said()}"
        return self._error

    def undo(self) -> str:
        if self._undo_argv:
            return shlex.join(self._undo_argv)
        return "whatever undoes that command (drill.trigger.undo_command would say what)"

    def revert(self) -> str:
        if not self._undo:
            return ""
        try:
            done = subprocess.run(
                self._undo_argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=UNDO_LIMIT_S, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HaprobeError(f"not undone: {self.undo()}: {error}") from error
        if done.returncode:
            said = " ".join((done.stdout + done.stderr)[-500:].split())
            raise HaprobeError(f"not undone: {self.undo()}: exit status {done.returncode}: {said}")
        return f"ran {self.undo()}"

    def close(self) -> None:
        """End the command if it is still running."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._output is not None:
            self._output.close()

    def _said(self) -> str:
        if self._output is None or self._output.closed:
            return ""
        self._output.seek(0)
        text = " ".join(self._output.read()[-500:].decode(errors="replace").split())
        return f": {text}" if text else ""


class ManualTrigger(Trigger):
    """The user starts the failover; Enter, or the first loss, tells when.

    Args:
        first_loss: Asks the agents; Unix epoch nanoseconds of the first loss, None while all is well.
        limit_s: How long to wait for the user.
        terminal: Where Enter comes from; None: nowhere, only loss counts.
        clock: Stamps Enter.
    """

    kind = "manual"

    def __init__(
        self,
        first_loss: Callable[[], int | None],
        limit_s: float,
        terminal: IO[str] | None = None,
        clock: Clock | None = None,
    ):
        self._first_loss = first_loss
        self._limit_s = limit_s
        self._terminal = terminal
        self._clock = clock or SystemClock()
        self._seen_by = ""

    def describe(self) -> str:
        now = "press Enter here at the same moment" if self._terminal else "the first loss counts as its moment"
        return (
            "start the failover now, on the active unit: execute ha failover set 1   "
            "(undo later: execute ha failover unset 1); "
            f"{now}; waiting {self._limit_s:g} s"
        )

    def fire(self) -> int:
        deadline = time.monotonic() + self._limit_s
        while time.monotonic() < deadline:
            if self._enter(0.25):
                self._seen_by = "enter"
                return self._clock.wall_ns()
            lost_ns = self._first_loss()
            if lost_ns is not None:
                self._seen_by = "first_loss"
                return lost_ns
        raise NoFailoverError(
            f"no failover was started within {self._limit_s:g} s (no loss was seen and Enter was not pressed)"
        )

    def event(self, at_ns: int) -> TimelineEvent:
        return TimelineEvent(
            at_ns=at_ns, source="user", event="trigger", detail={"kind": self.kind, "seen_by": self._seen_by}
        )

    def undo(self) -> str:
        return "execute ha failover unset 1   on the unit that was failed over (may cause a second failover)"

    def _enter(self, timeout_s: float) -> bool:
        if self._terminal is None:
            time.sleep(timeout_s)
            return False
        ready, _, _ = select.select([self._terminal], [], [], timeout_s)
        if not ready:
            return False
        if self._terminal.readline():
            return True
        self._terminal = None  # end of input: from now on only loss counts
        return False


def terminal_input() -> IO[str] | None:
    """Standard input when a person can press Enter on it."""
    try:
        return sys.stdin if sys.stdin is not None and sys.stdin.isatty() else None
    except ValueError:  # closed
        return None
