"""Questions that may never end, asked on threads of their own: who waits for an answer waits no longer than a limit.

Timeouts of sockets hold between two octets. A name server that is silent, a server that sends its headers octet by
octet, an answer of ever more pages: none of them ever runs into one. Such a question is given up here. Its thread is
a daemon and ends with the question, or with the process, whose end it does not hold up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
MOST_LEFT = 4  # threads of questions that were given up and have not ended; then no more are asked


class OverdueError(Exception):
    """There was no answer in time; or too many questions are under way that had none."""


class Asker:
    """Asks one question after the other. For one thread; `close` may be called by any.

    Args:
        name: Of its threads.
    """

    def __init__(self, name: str):
        self._name = name
        self._turn = threading.Condition()
        self._left = 0  # given up, and not ended yet
        self._closed = False

    def ask(self, question: Callable[[], _T], limit_s: float) -> _T:
        """What the question gives or raises.

        Args:
            question: Carried out on another thread.
            limit_s: How long to wait for it.

        Raises:
            OverdueError: If that was not long enough, or this is being closed.
        """
        with self._turn:
            if self._left >= MOST_LEFT:
                raise OverdueError(f"{self._left} earlier questions hang")
            asked = _Asked(question, self._turn)
            thread = threading.Thread(target=asked.carry_out, name=self._name, daemon=True)
            thread.start()
            self._turn.wait_for(lambda: asked.ended or self._closed, limit_s)
            if not asked.ended:
                self._left += 1
                asked.at_last = self._ended
                raise OverdueError(f"no whole answer within {limit_s:g} s")
        error, asked.error = asked.error, None
        if error is not None:
            try:
                raise error
            finally:
                error = None  # its traceback holds this frame, and all that the question had read
        value: _T = asked.value
        return value

    def close(self) -> None:
        """Wait for nothing any more."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()

    def _ended(self) -> None:
        self._left -= 1


class _Asked:
    """One question and what came of it. `turn` guards all of it."""

    def __init__(self, question: Callable[[], Any], turn: threading.Condition):
        self._question, self._turn = question, turn
        self.ended = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.at_last: Callable[[], None] | None = None  # of a question that was given up, when it ends after all

    def carry_out(self) -> None:
        value, error = None, None
        try:
            value = self._question()
        except BaseException as raised:  # whoever asked gets it, whatever it is
            error = raised
        with self._turn:
            self.value, self.error, self.ended = value, error, True
            error = None  # likewise
            if self.at_last is not None:
                self.at_last()
                self.value = None
            self._turn.notify_all()
