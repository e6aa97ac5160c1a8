"""Ending early, in order, when asked to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptible(halt: Callable[[], None]) -> Iterator[threading.Event]:
    """Let Ctrl-C (or SIGTERM) end the measurement early: `halt` is called, and the event yielded is set.

    A second Ctrl-C interrupts for good.
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
    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
