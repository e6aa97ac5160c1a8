"""Progress on stderr: one line that is rewritten on a terminal, plain lines in a file or pipe, nothing with -q.

Results go to stdout and are no business of this module.
"""

from __future__ import annotations

import shutil
import sys
import threading
from types import TracebackType
from typing import TextIO

from probe.clock import Clock, SystemClock

PLAIN_INTERVAL_S = 1.0  # between plain lines of `update`: a log, not an animation
_ERASE = "\r\x1b[K"  # to the start of the line, erase to its end (ECMA-48)


class Progress:
    """A reporter that any thread may call; itself callable, as `progress("raising the lab")`.

    Args:
        stream: Where to; stderr by default.
        quiet: Say nothing at all.
        clock: For the spacing of plain lines.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False, clock: Clock | None = None):
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._quiet = quiet
        self._terminal = self._stream.isatty()
        self._live = ""
        self._plain = ""
        self._plain_at_ns: int | None = None

    def __call__(self, text: str) -> None:
        self.line(text)

    def line(self, text: str) -> None:
        """Say something that stays."""
        with self._lock:
            live, erase = self._live, _ERASE if self._live else ""
            self._write(f"{erase}{text}\n{self._fitted(live) if live else ''}")

    def update(self, text: str) -> None:
        """Say how things stand now: replaces the live line, or becomes a plain line once in a while."""
        with self._lock:
            if self._terminal:
                self._live = text
                self._write(f"{_ERASE}{self._fitted(text)}")
                return
            now_ns = self._clock.mono_ns()
            recently = self._plain_at_ns is not None and now_ns - self._plain_at_ns < PLAIN_INTERVAL_S * 1e9
            if text != self._plain and not recently:
                self._plain, self._plain_at_ns = text, now_ns
                self._write(f"{text}\n")

    def done(self) -> None:
        """Take the live line away. Call it before a result is printed."""
        with self._lock:
            if self._live:
                self._live = ""
                self._write(_ERASE)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done()

    @staticmethod
    def _fitted(text: str) -> str:
        """Cut to the terminal: a wrapped line could not be erased."""
        width = shutil.get_terminal_size().columns - 1
        return text if len(text) <= width else text[: max(width - 1, 0)] + "…"

    def _write(self, text: str) -> None:
        if self._quiet:
            return
        encoding = self._stream.encoding or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):
            self._quiet = True  # nobody reads any more; that must not end a measurement
