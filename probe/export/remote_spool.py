"""Requests on disk until the store has taken them: what outlives a path that is down, and the process.

    DIR/000000000042-0003-1800.write    tick, number within the tick, samples; the body of one request
    DIR/state.json                      the last whole tick, and how far each series was written with it

`state.json` is replaced after the tick's requests were written. A process that is killed between leaves requests of a
tick that never was, which the next one removes: it will write that time again. So each sample is in the spool once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.errors import UsageError

log = logging.getLogger("haprobe.remote_write")
_NAME = re.compile(r"(\d{12})-(\d{4,})-(\d+)\.write")
_STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Batch:
    """One request on disk."""

    path: Path
    samples: int
    octets: int


class Spool:
    """Requests in the order they were written, across processes. Safe to use from several threads.

    Args:
        directory: Created if absent. One running agent per directory.
        limit_octets: The oldest requests are dropped once all together are larger.

    Raises:
        UsageError: If the directory cannot be written to, or is another agent's.

    Attributes:
        state: What the last tick of the earlier process left; empty for a new spool.
        dropped: Samples that the limit has cost so far.
    """

    def __init__(self, directory: Path, limit_octets: int):
        self.directory = directory
        self.dropped = 0
        self._limit_octets = limit_octets
        self._changed = threading.Condition()
        self._batches: deque[Batch] = deque()
        self._octets = 0
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._lock = _claim(directory / "lock")
            self.state = self._read_state()
            self._tick = int(self.state.get("tick", 0))
            self._take_up()
        except BlockingIOError as error:
            raise UsageError(
                f"remote_write.spool: {directory} is in use by another agent; give each agent a directory of its own"
            ) from error
        except OSError as error:
            raise UsageError(
                f"remote_write.spool: cannot write to {directory}: {error.strerror or error}; "
                "give a directory that this user may write to, with space left"
            ) from error

    @property
    def octets(self) -> int:
        """Of all requests that wait."""
        return self._octets

    def commit(self, bodies: Sequence[tuple[bytes, int]], state: dict[str, Any], *, sync: bool) -> None:
        """Add the requests of one tick, all or none.

        Args:
            bodies: Each request's body and its number of samples.
            state: What `state` of the next process is to hold.
            sync: Force them to the disk itself, so that a power cut does not take them either.

        Raises:
            OSError: If they could not be written. Nothing of the tick remains.
        """
        tick = self._tick + 1
        batches = [
            Batch(self.directory / f"{tick:012d}-{number:04d}-{samples}.write", samples, len(body))
            for number, (body, samples) in enumerate(bodies)
        ]
        try:
            for batch, (body, _) in zip(batches, bodies, strict=True):
                _write(batch.path, body, sync=sync)
            fresh = self.directory / (_STATE + ".new")
            _write(fresh, json.dumps({**state, "tick": tick}, separators=(",", ":")).encode(), sync=sync)
            fresh.replace(self.directory / _STATE)
        except OSError:
            for batch in batches:
                batch.path.unlink(missing_ok=True)
            raise
        if sync:
            _sync_directory(self.directory)
        self._tick = tick
        with self._changed:
            self._batches += batches
            self._octets += sum(batch.octets for batch in batches)
            self._drop_oldest()
            self._changed.notify_all()

    def next(self, timeout_s: float) -> Batch | None:
        """The oldest request, which stays until it is `done`; None if there is none for so long."""
        with self._changed:
            if not self._batches:
                self._changed.wait(timeout_s)
            return self._batches[0] if self._batches else None

    def done(self, batch: Batch) -> None:
        """This request needs no more care."""
        with self._changed:
            if self._batches and self._batches[0] == batch:
                self._remove_first()

    def wake(self) -> None:
        """End the present wait in `next`."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Let another process have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _read_state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.directory / _STATE).read_text())
            if not isinstance(state, dict):
                raise ValueError("not an object")
        except FileNotFoundError:
            return {}
        except ValueError as error:  # a power cut, or an editor; what waits is still good
            log.warning("%s: %s; series go on from now", self.directory / _STATE, error)
            ticks = [int(m[1]) for m in (_NAME.fullmatch(path.name) for path in self.directory.iterdir()) if m]
            return {"tick": max(ticks, default=0)}
        return state

    def _take_up(self) -> None:
        for path in sorted(self.directory.iterdir(), key=lambda path: path.name):
            name = _NAME.fullmatch(path.name)
            if name is not None and int(name[1]) > self._tick:
                path.unlink()
            elif name is not None:
                self._batches.append(Batch(path, int(name[3]), path.stat().st_size))
        self._octets = sum(batch.octets for batch in self._batches)

    def _drop_oldest(self) -> None:
        lost = 0
        while self._octets > self._limit_octets and len(self._batches) > 1:
            lost += self._batches[0].samples
            self._remove_first()
        if lost:
            self.dropped += lost
            log.error("remote write: %s is full; its oldest %d samples were dropped", self.directory, lost)

    def _remove_first(self) -> None:
        batch = self._batches.popleft()
        self._octets -= batch.octets
        batch.path.unlink(missing_ok=True)


def _claim(path: Path) -> int:
    """A descriptor that no other process holds."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _write(path: Path, content: bytes, *, sync: bool) -> None:
    with path.open("wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
