"""The live view of a drill: a small table on a terminal, one plain line a second elsewhere, nothing with -q.

`wall_view` says what; `Wall` only decides where and how often. Everything goes to stderr: results own stdout.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from probe.drill.wall_view import WallState, plain_line, render

PLAIN_LINE_GAP_S = 1.0


class Wall:
    """Where the live view goes. A context manager; `say` and `show` work inside and outside of it.

    Args:
        console: On stderr.
        quiet: Show nothing at all; warnings still come through `warn`.
        now: Seconds, only for spacing plain lines.
    """

    def __init__(
        self, console: Console | None = None, *, quiet: bool = False, now: Callable[[], float] = time.monotonic
    ):
        self.console = console or Console(stderr=True, highlight=False)
        self._quiet = quiet
        self._now = now
        self._live: Live | None = None
        self._last_line_s = float("-inf")
        self._last_phase = ""

    def __enter__(self) -> Self:
        if not self._quiet and self.console.is_terminal:
            # Redrawn when a new state comes, not from a thread of its own.
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rest()

    def rest(self) -> None:
        """Take the live view away, so that what follows is not drawn over."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """One line that stays."""
        if not self._quiet:
            self._print(Text(text))

    def warn(self, text: str) -> None:
        """One line that stays and comes through -q as well: the result cannot be read without it."""
        self._print(Text(text, style="bold red"))

    def show(self, state: WallState) -> None:
        """The newest state: at once on a terminal, at most once a second as lines."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(render(state, self.console.height), refresh=True)
            return
        if state.phase == self._last_phase and self._now() - self._last_line_s < PLAIN_LINE_GAP_S:
            return
        self._last_phase, self._last_line_s = state.phase, self._now()
        self._print(Text(plain_line(state)))

    def _print(self, text: Text) -> None:
        # soft_wrap: a log line stays one line however narrow the terminal is said to be.
        self.console.print(text, soft_wrap=True)
