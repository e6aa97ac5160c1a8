"""An agent's append-only journal: outages and HA changes on disk as they are found.

One JSON object per line, one `write(2)` with O_APPEND per record. A process that is killed leaves whole lines, and at
most a torn last one; a new process starts a new file, so a torn line is never continued. The page cache survives the
process; what a power cut may take is bounded by the interval of fsync.

    DIR/journal-20261122T120000.jsonl      UTC time of creation; files sort by age
    {"kind": "outage", "at_ns": 1700000000000000000, "data": {…}}

A file begins with a line of its own that names the format; `replay` does not return it. Once the journal is open, no
failure of the disk reaches the caller: it is counted in `failures`, and measuring goes on.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from probe.clock import Clock
from probe.errors import UsageError

FORMAT = "haprobe.journal/1"
MAX_LINE_OCTETS = 1 << 20  # a longer "line" is not ours; reading it whole could take all memory
_GLOB = "journal-*.jsonl"

log = logging.getLogger("haprobe.journal")


@dataclass(frozen=True, slots=True)
class Record:
    """One entry. `at_ns` is Unix epoch, by the clock of the process that wrote it."""

    kind: str
    at_ns: int
    data: dict[str, Any]


class Journal:
    """Writer of one process's journal files. Safe to use from several threads.

    Args:
        directory: Created if absent. One running agent per directory.
        clock: Stamps records and names files.
        max_file_octets: A file that would grow beyond this is followed by a new one.
        max_total_octets: Oldest files are removed once all together are larger; the one being written stays.
        fsync_interval_ns: At most so much of the past is lost in a power cut; 0 syncs every record.

    Raises:
        UsageError: If the directory cannot be written to.

    Attributes:
        failures: Records that did not get to disk, and files that could not be rotated, so far.
        last_failure: Why, for people; "" when there was none.
    """

    def __init__(
        self,
        directory: Path | str,
        clock: Clock,
        *,
        max_file_octets: int = 16 << 20,
        max_total_octets: int = 256 << 20,
        fsync_interval_ns: int = 5_000_000_000,
    ):
        self.directory = Path(directory)
        self.failures = 0
        self.last_failure = ""
        self._clock = clock
        self._max_file_octets = max_file_octets
        self._max_total_octets = max_total_octets
        self._fsync_interval_ns = fsync_interval_ns
        self._lock = threading.Lock()
        self._synced_mono_ns = clock.mono_ns()
        self._closed = False
        self._torn = False  # whether the file ends in an unfinished line
        try:
            self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise UsageError(
                f"--journal.dir: cannot write to {self.directory}: {error.strerror or error}; "
                "give a directory that this user may write to, with space left"
            ) from error
        self._remove_oldest()

    @property
    def path(self) -> Path:
        """The file being written."""
        return self._path

    def append(self, kind: str, data: Any, *, at_ns: int | None = None, sync: bool = False) -> bool:
        """Write one record.

        Args:
            kind: What it is, such as `outage`.
            data: A dict or a record dataclass; what JSON does not know is written as text.
            at_ns: Unix epoch; default now.
            sync: Force it to the disk itself before returning.

        Returns:
            Whether it was written. If not, `failures` has counted it.
        """
        stamp = self._clock.wall_ns() if at_ns is None else at_ns
        with self._lock:
            try:
                line = _line({"kind": kind, "at_ns": stamp, "data": data})
                if self._closed:
                    raise OSError("the journal is closed")
                if self._octets + len(line) > self._max_file_octets:
                    self._rotate()
                self._write(line)
                self._sync_if_due(sync)
            except (OSError, ValueError, TypeError) as error:
                self._failed(error)
                return False
        return True

    def close(self) -> None:
        """Sync and close; later records count as failures."""
        with self._lock:
            if not self._closed:
                self._closed = True
                try:
                    os.fsync(self._fd)
                except OSError as error:
                    self._failed(error)
                os.close(self._fd)

    def _write(self, line: bytes) -> None:
        # After a short write (a full disk) the file ends in a torn line: end it, so that it spoils only itself.
        whole = b"\n" + line if self._torn else line
        written = os.write(self._fd, whole)
        self._octets += written
        self._torn = self._torn if written == 0 else written != len(whole)
        if written != len(whole):
            raise OSError(f"only {written} of {len(whole)} octets were written")

    def _sync_if_due(self, forced: bool) -> None:
        now = self._clock.mono_ns()
        if forced or now - self._synced_mono_ns >= self._fsync_interval_ns:
            self._synced_mono_ns = now  # also when it fails: a broken disk is not asked again for every record
            os.fsync(self._fd)

    def _open(self) -> None:
        """Start a new file; the former one stays in use if this fails."""
        path, fd = _create(self.directory, self._clock.wall_ns())
        header = _line({"journal": FORMAT})
        if os.write(fd, header) != len(header):
            os.close(fd)
            path.unlink(missing_ok=True)
            raise OSError("no space left on device")
        self._path, self._fd, self._octets, self._torn = path, fd, len(header), False

    def _rotate(self) -> None:
        former = self._fd
        try:
            os.fsync(former)
            self._open()
        except OSError as error:
            self._failed(error)
            return
        os.close(former)
        self._remove_oldest()

    def _remove_oldest(self) -> None:
        try:
            files = [(path, path.stat().st_size) for path in journal_files(self.directory)]
            total = sum(size for _, size in files)
            for path, size in files:
                if total <= self._max_total_octets or path == self._path:
                    break
                path.unlink()
                total -= size
        except OSError as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        reason = getattr(error, "strerror", None) or str(error)
        if reason != self.last_failure:
            log.error("journal %s: %s", self.directory, reason)
        self.last_failure = reason


class Replay(Iterator[Record]):
    """Records of all journal files of a directory, oldest file first, in the order written.

    Attributes:
        damage: `FILE:LINE: what` for every line that could not be read, once iterated past it.
        torn: How many of those were the last line of their file, cut off in mid-write.
    """

    def __init__(self, directory: Path | str):
        self.damage: list[str] = []
        self.torn = 0
        self._records = self._read_all(Path(directory))

    def __next__(self) -> Record:
        return next(self._records)

    def _read_all(self, directory: Path) -> Iterator[Record]:
        for path in journal_files(directory):
            try:
                yield from self._read(path)
            except OSError as error:  # removed by rotation, or unreadable
                self.damage.append(f"{path}: {error.strerror or error}")

    def _read(self, path: Path) -> Iterator[Record]:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_OCTETS):
                number += 1
                try:
                    record = _record(line)
                except ValueError as error:
                    self.torn += not line.endswith(b"\n") and len(line) < MAX_LINE_OCTETS
                    self.damage.append(f"{path}:{number}: {error}")
                    continue
                if record is not None:
                    yield record


def replay(directory: Path | str) -> Replay:
    """Read back what is in a directory; an absent one is an empty journal. Damage is reported, never fatal."""
    return Replay(directory)


def journal_files(directory: Path) -> list[Path]:
    """A directory's journal files, oldest first."""
    return sorted(directory.glob(_GLOB))


# How far a name may run ahead of the clock to keep files in order, after a step of the wall clock or several files
# within a second. A file from farther in the future is not waited for.
_AHEAD = timedelta(hours=1)


def _create(directory: Path, wall_ns: int) -> tuple[Path, int]:
    """A new file named after the time, or a later second if that is needed to sort behind the others."""
    stamp = datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC)
    farthest = _name(stamp + _AHEAD)
    newest = max((path.name for path in journal_files(directory) if path.name <= farthest), default="")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    while True:
        path = directory / _name(stamp)
        if path.name > newest:
            try:
                return path, os.open(path, flags, 0o640)
            except FileExistsError:
                pass
        stamp += timedelta(seconds=1)


def _name(stamp: datetime) -> str:
    return f"journal-{stamp:%Y%m%dT%H%M%S}.jsonl"


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    """What JSON does not know: records become objects, numpy numbers plain ones, anything else its text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value.item() if hasattr(value, "item") else str(value)


def _record(line: bytes) -> Record | None:
    """The record of a line; None for a header or an empty line.

    Raises:
        ValueError: If it is none; says why.
    """
    if not line.strip():
        return None
    try:
        content = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    match content:
        case {"journal": str()}:
            return None
        case {"kind": str(kind), "at_ns": int(at_ns), "data": dict(data)}:
            return Record(kind, at_ns, data)
    raise ValueError("not a record: needs kind, at_ns and data")
