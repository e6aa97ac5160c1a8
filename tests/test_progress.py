"""Progress on a terminal, in a pipe, and not at all."""

from __future__ import annotations

import io

import pytest

from probe.clock import ManualClock
from probe.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_a_terminal_shows_one_line_that_is_rewritten() -> None:
    terminal = Terminal()
    with Progress(terminal) as progress:
        progress.update("1 s")
        progress.update("2 s")
    assert terminal.getvalue() == "\r\x1b[K1 s\r\x1b[K2 s\r\x1b[K"


def test_a_line_that_stays_goes_above_the_live_one() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    progress.update("working")
    progress("lab is up")
    assert terminal.getvalue() == "\r\x1b[Kworking\r\x1b[Klab is up\nworking"


def test_a_live_line_never_wraps() -> None:
    terminal = Terminal()
    Progress(terminal).update("x" * 200)
    shown = terminal.getvalue().removeprefix("\r\x1b[K")
    assert shown == "x" * 78 + "…"


def test_a_pipe_gets_a_plain_line_once_in_a_while() -> None:
    pipe, clock = io.StringIO(), ManualClock()
    progress = Progress(pipe, clock=clock)
    for tenth in range(25):
        progress.update(f"{tenth / 10} s")
        clock.advance(100_000_000)
    progress.line("done")
    progress.done()
    assert pipe.getvalue() == "0.0 s\n1.0 s\n2.0 s\ndone\n"


def test_a_pipe_is_not_told_the_same_again() -> None:
    pipe, clock = io.StringIO(), ManualClock()
    progress = Progress(pipe, clock=clock)
    for _ in range(5):
        progress.update("waiting")
        clock.advance(2_000_000_000)
    assert pipe.getvalue() == "waiting\n"


def test_quiet_is_silent() -> None:
    terminal = Terminal()
    with Progress(terminal, quiet=True) as progress:
        progress.update("a")
        progress.line("b")
    assert terminal.getvalue() == ""


def test_a_reader_that_went_away_ends_progress_and_nothing_else() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    progress = Progress(Closed())
    progress.line("a")
    progress.line("b")


def test_a_terminal_without_unicode_still_gets_the_text() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Progress(stream).line("é is up")
    stream.flush()
    assert raw.getvalue() == b"? is up\n"
