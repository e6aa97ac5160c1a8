"""Ending early, in order, when asked to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager


@contextmanager
def interruptible(
    halt: Callable[[], None] = lambda: None, numbers: Collection[signal.Signals] = (signal.SIGINT, signal.SIGTERM)
) -> Iterator[threading.Event]:
    """Let Ctrl-C (or SIGTERM) end the measurement early: the event yielded is set.

    A second Ctrl-C interrupts for good.

    Args:
        halt: Called then, in the middle of whatever the main thread does: it must take no lock that may be held there.
        numbers: The signals that do so.
    """
    interrupted = threading.Event()

    def stop(_number: int, _frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        halt()

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
