"""Writing every probe to a spool, beside the measurement and never in its way.

The loop packs what the logs of the evidence took in since the last time, a few times a second; a thread of its own
writes it, as a disk may take its time. When it takes too long, or refuses, the recording ends and the measurement
goes on.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from probe.core.columns import ColumnLog
from probe.core.evidence import Evidence
from probe.core.ledger import Ledger
from probe.spool import END_BLOCK, FATE_BLOCK, REPLY_BLOCK, SENT_BLOCK, Columns, pack

Ints = npt.NDArray[np.int64]

STEP_NS: Final = 50_000_000  # between two blocks: longer ones would cost the loop more at a time
MOST_WAITING: Final = 64 << 20  # octets that the disk may lag behind
CLOSE_S: Final = 3.0  # within the control process's patience for our end


class Recording:
    """The recording of one sender.

    Args:
        fd: The spool, open for appending.
    """

    def __init__(self, fd: int):
        self.error = ""  # why it has ended before its time
        self._fd = fd
        self._work: queue.SimpleQueue[list[bytes] | None] = queue.SimpleQueue()
        self._given = self._written = 0  # octets
        self._failure = ""  # set by the thread
        self._read: dict[int, int] = {SENT_BLOCK: 0, REPLY_BLOCK: 0}  # how far, as a position in the log
        self._fates: list[tuple[npt.NDArray[Any], ...]] = []
        self._next_ns = 0
        self._thread = threading.Thread(target=self._write, name="recording", daemon=True)
        self._thread.start()

    def follow(self, ledger: Ledger) -> None:
        """Hear of fates from this ledger."""
        ledger.on_fate = self._changed

    def _changed(self, flow: Ints | int, first: Ints, last: Ints, was: int, fate: npt.NDArray[np.uint8] | int) -> None:
        if not self.error:
            shape = first.shape
            self._fates.append(tuple(np.broadcast_to(value, shape) for value in (flow, first, last, was, fate)))

    def tick(self, evidence: Evidence, now: int) -> None:
        """Hand on what is new, if it is time. `error` says when it came to its end."""
        if now >= self._next_ns and not self.error:
            self._next_ns = now + STEP_NS
            self._hand_on(evidence)

    def close(self, evidence: Evidence) -> None:
        """Write what is left, and that it is all."""
        self._hand_on(evidence)
        if not self.error:
            self._give(pack(END_BLOCK, {}))
        self._work.put(None)
        self._thread.join(CLOSE_S)
        self.error = self.error or self._failure
        if not self.error and self._thread.is_alive():
            self.error = _TOO_SLOW

    def _hand_on(self, evidence: Evidence) -> None:
        for kind, log in _logs(evidence):
            if self._read[kind] < log.tail:
                self.error = self.error or "this host is too busy to record so many probes"
            if not self.error:
                self._give_rows(kind, log)
        if self._fates and not self.error:
            columns = [np.concatenate(column) for column in zip(*self._fates, strict=True)]
            self._give(pack(FATE_BLOCK, dict(zip(("flow", "first", "last", "was", "fate"), columns, strict=True))))
        self._fates = []
        self.error = self.error or self._failure
        if not self.error and self._given - self._written > MOST_WAITING:
            self.error = _TOO_SLOW

    def _give_rows(self, kind: int, log: ColumnLog) -> None:
        for _, piece in log.pieces(self._read[kind], log.head, log.rows):
            columns: Columns = {name: column[piece] for name, column in log.columns.items()}
            self._give(pack(kind, columns))
        self._read[kind] = log.head

    def _give(self, block: list[bytes]) -> None:
        self._given += sum(map(len, block))
        self._work.put(block)

    def _write(self) -> None:
        while (block := self._work.get()) is not None:
            try:
                for part in [] if self._failure else block:
                    self._write_whole(part)
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                self._failure = "the disk is full" if full else str(error.strerror or error)
            self._written += sum(map(len, block))

    def _write_whole(self, part: bytes) -> None:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(self._fd, rest) :]


_TOO_SLOW = "the disk takes too long to write"


def _logs(evidence: Evidence) -> tuple[tuple[int, ColumnLog], tuple[int, ColumnLog]]:
    return (SENT_BLOCK, evidence.sent_log), (REPLY_BLOCK, evidence.reply_log)
