"""Starting an engine process and talking to it, from the control process."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from probe import errors
from probe.border import Channel, SharedState
from probe.privileges import drop_privileges

log = logging.getLogger(__name__)

START_S = 10.0
STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how an engine runs.

    Attributes:
        cpu: The only CPU it runs on; None: any.
        realtime: SCHED_FIFO instead of a high priority among others, on processors that do not sleep.
    """

    cpu: int | None = None
    realtime: bool = False

    def options(self) -> list[str]:
        """For its command line."""
        return ([] if self.cpu is None else ["--cpu", str(self.cpu)]) + ["--realtime"] * self.realtime


ANYWHERE = Placement()


class Engine:
    """One engine process.

    Args:
        role: `sender`, `reflector` or `echo`.
        options: Further arguments of `probe.engine`.
        on_event: Called with each event from the engine, from a thread of its own.
        capacity: Number of flow rows.
        first: A message that the engine needs before it can start.
        inherit: File descriptors, named in `options`, that the engine gets as well.

    Raises:
        HaprobeError: As the engine reported it while starting: a missing privilege, a port in use.
    """

    def __init__(
        self,
        role: str,
        options: list[str],
        on_event: Callable[[dict[str, Any]], None],
        capacity: int = 1,
        first: dict[str, Any] | None = None,
        inherit: Sequence[int] = (),
    ):
        self.role = role
        self.shared = SharedState.create(capacity)
        self._on_event = on_event
        self._error: errors.HaprobeError | None = None
        self._ready = threading.Event()
        self._lock = threading.Lock()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        with theirs:
            fds = (theirs.fileno(), self.shared.fd)
            argv = [sys.executable, "-m", "probe.engine", role, "--channel", str(fds[0]), "--memory", str(fds[1])]
            argv += ["--capacity", str(capacity), *options]
            # One thread: numpy's linear algebra would start one for each core, and wait for them with a probe in hand.
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(argv, pass_fds=(*fds, *inherit), stdin=subprocess.DEVNULL, env=environment)
        self._channel = Channel(ours)
        if first is not None:
            self._channel.send(first)
        self._thread = threading.Thread(target=self._listen, name=f"{role}-events", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_S) or self._error is not None:
            self.stop()
            raise self._error or errors.HaprobeError(f"the {role} process did not start within {START_S:g} s")

    def send(self, message: dict[str, Any]) -> None:
        """Send a command; waits while the engine is busy taking in others."""
        deadline = time.monotonic() + START_S
        with self._lock:
            self._channel.send(message)
            while not self._channel.flush():
                if time.monotonic() > deadline:
                    raise errors.HaprobeError(f"the {self.role} process does not take commands")
                select.select([], [self._channel], [], 0.1)

    def alive(self) -> bool:
        return self.process.poll() is None

    def check(self) -> None:
        """See that the process runs.

        Raises:
            HaprobeError: If it has ended: as it said itself, if it did.
        """
        if self.alive():
            return
        self._thread.join(STOP_S)  # its last words may still be on their way
        if isinstance(self._error, errors.PrivilegeError | errors.UsageError | errors.PeerError):
            raise self._error
        raise errors.HaprobeError(f"the {self.role} process has ended unexpectedly")

    def stop(self) -> bool:
        """Ask the engine to end: it closes its sessions and tells what it knows. Then wait, then insist.

        Returns:
            Whether it ended when asked. Else what it knew last is lost.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        answered = True
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            answered = False
            self.process.kill()
            self.process.wait()
        self._thread.join(STOP_S)
        self._channel.close()
        self.shared.close()
        return answered

    def _listen(self) -> None:
        drop_privileges()  # capabilities are a thread's own; this one needs none
        try:
            while not self._channel.closed:
                select.select([self._channel], [], [], 1.0)
                for message in self._channel.receive():
                    self._dispatch(message)
        except Exception:
            # Deaf to its engine, an agent would go on telling states of long ago as the present ones: end it.
            log.exception("what the %s process told could not be taken in", self.role)
            self.process.kill()
        self._ready.set()
        if self.process.poll() not in (None, 0) and self._error is None:
            self._error = errors.HaprobeError(f"the {self.role} process ended with status {self.process.returncode}")

    def _dispatch(self, message: dict[str, Any]) -> None:
        if message["event"] == "error":
            kind = getattr(errors, message["kind"], errors.HaprobeError)
            self._error = kind(message["message"])
            self._ready.set()
        elif message["event"] == "ready":
            self._ready.set()
        self._on_event(message)
