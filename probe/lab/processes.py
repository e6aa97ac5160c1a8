"""Processes of the lab: started so that they outlive their starter, found again, and ended by identity.

A pid alone does not say which process it is once the first owner has gone. Together with its start time
(/proc/PID/stat) it does, so nothing but what the lab started is ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.lab import namespace

_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the lab: what it is called, its pid, and its start time in clock ticks since boot."""

    name: str
    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it still runs, or holds what it had open: a zombie does until the last of its threads has ended."""
        state, started, threads = _stat(self.pid)
        return (state not in ("", "Z", "X") or threads > 1) and started == self.started

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def identify(name: str, pid: int) -> Process:
    """The process that has this pid now."""
    return Process(name, pid, _stat(pid)[1])


def spawn(name: str, path: Path, argv: Sequence[str], log: Path, **popen: Any) -> subprocess.Popen[bytes]:
    """Start a long-running process in a namespace, in a session of its own, writing to `log`.

    Args:
        name: What error messages call it.
        path: The namespace.
        argv: Its command line.
        log: Where its stdout and stderr go, appended.
        **popen: More arguments of `subprocess.Popen`.

    Raises:
        LabError: If it cannot be started.
    """
    settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "cwd": "/", **popen}
    with log.open("ab") as output:
        try:
            command = namespace.command_inside(path, argv)
            return subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **settings)
        except OSError as error:
            raise namespace.LabError(f"{name} of the lab did not start: {error}") from error


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process of the lab: ours, without the way to any real cloud or proxy.

    The AWS access key doubles as the caller's name in the lab's cloud.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and not name.lower().endswith("_proxy") and name != "LISTEN_FDS"
    }
    aws = {
        "AWS_ACCESS_KEY_ID": "lab",
        "AWS_SECRET_ACCESS_KEY": "lab",
        "AWS_DEFAULT_REGION": "eu-west-2",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    return {**kept, **aws, **(more or {})}


def kill(processes: Iterable[Process], *, grace_s: float = 0.0, limit_s: float = 5.0) -> list[Process]:
    """End processes: SIGTERM with `grace_s` seconds to comply if that is not zero, then SIGKILL.

    Returns:
        Those that still run after `limit_s` more seconds; normally none.
    """
    left = [one for one in processes if one.alive]
    if grace_s > 0:
        for one in left:
            one.signal(signal.SIGTERM)
        left = _wait(left, grace_s)
    for one in left:
        one.signal(signal.SIGKILL)
    return _wait(left, limit_s)


def inside(names: Sequence[str]) -> list[Process]:
    """Every process in these namespaces but ourselves."""
    return [identify(name, pid) for pid, name in namespace.processes(names).items() if pid != os.getpid()]


def _wait(processes: list[Process], limit_s: float) -> list[Process]:
    deadline = time.monotonic() + limit_s
    left = [one for one in processes if one.alive]
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        left = [one for one in left if one.alive]
    return left


def _stat(pid: int) -> tuple[str, int, int]:
    """(state letter, start time, number of threads) of a pid; ("", 0, 0) when there is none."""
    try:
        text = (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return "", 0, 0
    words = text.rsplit(")", 1)[1].split()  # the command name before it may hold anything, even ")"
    return words[0], int(words[19]), int(words[17])
