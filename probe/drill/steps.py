"""What a scenario does to the lab after its trigger, one step after the other, while the drill watches.

Around the trigger and each failover the firewalls' session tables are read (`lab.note_sessions`): the ground truth
that the probes' verdicts can be held against.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from probe.drill.scenarios import Step
from probe.errors import HaprobeError

MOVE_LIMIT_S = 30.0


class SteppedLab(Protocol):
    """The part of a lab that a trigger and its steps need."""

    def failover(self, kind: Literal["graceful", "crash", "split"] = "graceful") -> int: ...
    def unset(self) -> None: ...
    def active_unit(self) -> str: ...
    def wait_moved(self, before: str, limit_s: float = ...) -> None: ...
    def note_sessions(self, moment: Literal["before", "moved", "end"]) -> None: ...
    def restart_agent(self, name: str) -> None: ...
    def drop(self, percent: int) -> None: ...
    def cut(self, milliseconds: float) -> None: ...
    def set_route(self, destination: str, target: str, table: str = ...) -> None: ...
    def restore_watchers(self) -> None: ...


class Script:
    """The steps of one drill, on a thread of their own: each may wait for the lab, and the drill must go on polling.

    Args:
        lab: The lab.
        steps: In order.
    """

    def __init__(self, lab: SteppedLab, steps: Sequence[Step]):
        self._lab = lab
        self._steps = tuple(steps)
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None
        self.error = ""  # why it ended early

    def start(self, failing_over: str) -> None:
        """Begin.

        Args:
            failing_over: The unit whose failover the trigger has just started; "" when it started none.
        """
        self._thread = threading.Thread(target=self._run, args=(failing_over,), name="scenario", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether more of it is to come."""
        return bool(self._steps) and self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Let it end after the step that is under way (each is bounded)."""
        self._cancelled.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, failing_over: str) -> None:
        try:
            if failing_over:
                self._moved(failing_over)
            for step in self._steps:
                if self._cancelled.wait(step.after_s):
                    return
                self._take(step)
        except (HaprobeError, OSError) as error:
            self.error = f"the scenario's steps ended early: {error}"

    def _take(self, step: Step) -> None:
        before = self._lab.active_unit()
        arguments: dict[str, Any] = dict(step.arguments)
        getattr(self._lab, step.do)(**arguments)
        if step.do == "failover":
            self._moved(before)
        elif step.do == "unset":  # waits by itself; whether anything moved depends on the lab
            self._lab.note_sessions("moved")

    def _moved(self, before: str) -> None:
        deadline = time.monotonic() + MOVE_LIMIT_S
        while True:
            try:
                self._lab.wait_moved(before, 1.0)
                break
            except HaprobeError:
                if self._cancelled.is_set() or time.monotonic() > deadline:
                    if self._steps:
                        raise
                    break  # the cloud's part went wrong, as this scenario may want: the tables tell all the same
        self._lab.note_sessions("moved")
