"""Doing things inside a network namespace, from a process that stays where it is.

A network namespace belongs to a thread. `inside` therefore runs a function in a thread of its own that has
entered the namespace: sockets, /proc/sys/net, ioctls and child processes made there belong to it, and the
rest of the program notices nothing. (pyroute2 can open a namespace by itself, but forks to do so, which a
process with threads, such as the cloud, must not.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import netns

from probe.errors import HaprobeError

CLONE_NEWNET = 0x40000000
_NETNS_DIR = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)

Result = TypeVar("Result")


class LabError(HaprobeError):
    """The lab could not be raised, or a part of it does not answer."""


def _enter(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def inside(path: Path, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call `function(*arguments)` in the network namespace at `path` and return its result.

    Whatever the function opens stays in that namespace. It runs in another thread, the caller waits.

    Raises:
        OSError: If the namespace does not exist or may not be entered.
        Exception: Whatever the function raises.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            _enter(path)
            outcome.append(function(*arguments))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, name=f"inside {path.name}")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def command_inside(path: Path, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` in a namespace; it replaces itself by `argv`, so the pid stays the same."""
    return ["nsenter", f"--net={path}", "--", *argv]


def create(name: str) -> None:
    """Make a namespace, empty but for a loopback interface that is down."""
    netns.create(name)


def remove(name: str) -> None:
    """Remove a namespace's name; the kernel drops it, with its links, when the last process in it has gone."""
    with contextlib.suppress(FileNotFoundError):
        netns.remove(name)


def existing(prefix: str) -> list[str]:
    """Names of the namespaces that start with `prefix`."""
    if not _NETNS_DIR.is_dir():
        return []
    return sorted(entry.name for entry in _NETNS_DIR.iterdir() if entry.name.startswith(prefix))


def processes(names: Sequence[str]) -> dict[int, str]:
    """Every process in one of these namespaces: pid to the namespace's name."""
    inodes: dict[int, str] = {}
    for name in names:
        with contextlib.suppress(OSError):
            inodes[(_NETNS_DIR / name).stat().st_ino] = name
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            inode = (entry / "ns/net").stat().st_ino
            if inode in inodes:
                found[int(entry.name)] = inodes[inode]
    return found


def run(argv: Sequence[str], text: str | None = None) -> str:
    """Run a tool of the system and return what it printed.

    Raises:
        LabError: If it is not installed or fails; carries what it said.
    """
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed, and the lab needs it") from error
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit status {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
