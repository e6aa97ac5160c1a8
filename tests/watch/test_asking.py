"""Questions without end are given up, and hold up nobody; after that, others are asked."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable

import pytest

from probe.watch.asking import MOST_LEFT, Asker, OverdueError

LONG_S = 120.0


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def test_what_a_question_gives_or_raises_is_handed_on() -> None:
    asker = Asker("ask")
    assert asker.ask(lambda: threading.current_thread().name, LONG_S) == "ask"

    def refuse() -> None:
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        asker.ask(refuse, LONG_S)


def test_a_question_that_hangs_is_given_up_and_the_next_one_asked() -> None:
    asker, over = Asker("ask"), threading.Event()
    try:
        for _ in range(MOST_LEFT):
            with pytest.raises(OverdueError, match=r"within 0\.05 s"):
                asker.ask(lambda: over.wait(LONG_S), 0.05)
            if _ < MOST_LEFT - 1:
                assert asker.ask(lambda: 7, LONG_S) == 7
        with pytest.raises(OverdueError, match=f"{MOST_LEFT} earlier questions hang"):
            asker.ask(lambda: 7, LONG_S)
        assert all(one.daemon for one in threading.enumerate() if one.name == "ask"), "they hold up no process's end"
    finally:
        over.set()

    def answered() -> bool:
        try:
            return asker.ask(lambda: 7, LONG_S) == 7
        except OverdueError:
            return False

    wait_for(answered)


def test_closing_it_ends_the_waiting() -> None:
    asker, over, asked = Asker("ask"), threading.Event(), threading.Event()
    given_up: list[OverdueError] = []

    def ask() -> None:
        try:
            asker.ask(lambda: (asked.set(), over.wait(LONG_S)), LONG_S)
        except OverdueError as error:
            given_up.append(error)

    waiting = threading.Thread(target=ask, daemon=True)
    waiting.start()
    assert asked.wait(30)
    asker.close()
    waiting.join(30)
    over.set()
    assert given_up


def test_what_a_failed_question_had_read_is_let_go_at_once() -> None:
    """Not only when the garbage collector comes by: answers of many megabytes would pile up until then."""

    class Read:
        pass

    kept: list[weakref.ref[Read]] = []

    def fail() -> None:
        read = Read()
        kept.append(weakref.ref(read))
        raise ValueError

    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            Asker("ask").ask(fail, LONG_S)
        wait_for(lambda: kept[0]() is None)
    finally:
        gc.enable()
