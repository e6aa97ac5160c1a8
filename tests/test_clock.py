from __future__ import annotations

import time

from probe.clock import ManualClock, SystemClock, wall_offset_ns


class Interrupted:
    """A machine that stops for a while between two readings, at first."""

    def __init__(self, pauses: list[int]):
        self.mono, self.offset, self._pauses = 1000, 1_700_000_000_000_000_000, pauses

    def mono_ns(self) -> int:
        self.mono += 10
        return self.mono

    def wall_ns(self) -> int:
        wall = self.mono + self.offset
        self.mono += self._pauses.pop(0) if self._pauses else 0
        return wall


def test_the_system_s_clocks():
    clock = SystemClock()
    assert abs(clock.mono_ns() - time.monotonic_ns()) < 10**9
    assert abs(clock.wall_ns() - time.time_ns()) < 10**9
    assert clock.mono_ns() <= clock.mono_ns()


def test_waiting_awake_never_sleeps(monkeypatch):
    def sleep(_):
        raise AssertionError("slept")

    monkeypatch.setattr(time, "sleep", sleep)
    clock = SystemClock()
    for ahead in (-1_000_000, 0, 300_000):
        until = clock.mono_ns() + ahead
        clock.spin_until(until)
        assert clock.mono_ns() >= until


def test_the_manual_clock_moves_by_hand():
    clock = ManualClock()
    mono, wall = clock.mono_ns(), clock.wall_ns()
    clock.advance(5)
    assert (clock.mono_ns(), clock.wall_ns()) == (mono + 5, wall + 5)
    clock.step_wall(-7)
    assert (clock.mono_ns(), clock.wall_ns()) == (mono + 5, wall - 2)
    assert abs(wall - mono) > 10**17, "far enough apart for a mix-up to show"


def test_the_offset_is_that_of_the_tightest_reading():
    clock = Interrupted([5_000_000, 800_000, 0, 900, 0])
    assert abs(wall_offset_ns(clock) - clock.offset) <= 10


def test_the_offset_follows_a_step():
    clock = ManualClock()
    before = wall_offset_ns(clock)
    clock.step_wall(3_600_000_000_000)
    assert wall_offset_ns(clock) - before == 3_600_000_000_000
