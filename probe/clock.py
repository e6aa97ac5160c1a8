"""Clocks: the only module that reads one. Everything in `core` takes time as an argument.

Schedules, TX times and durations live on CLOCK_MONOTONIC. Kernel receive stamps and everything shown to
people live on CLOCK_REALTIME. `WallMap` turns the first into the second with an anchor that a step of the
wall clock does not move, so that no step can change a duration.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """Two readings in nanoseconds, and waiting for one of them."""

    def mono_ns(self) -> int:
        """CLOCK_MONOTONIC."""

    def wall_ns(self) -> int:
        """CLOCK_REALTIME, Unix epoch."""

    def sleep_until(self, mono_ns: int) -> None:
        """Return when CLOCK_MONOTONIC has reached that, at once if it has."""

    def spin_until(self, mono_ns: int) -> None:
        """The same without sleeping: exact to less than a microsecond, and the processor is busy meanwhile."""


class SystemClock:
    """The kernel's clocks."""

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()

    def sleep_until(self, mono_ns: int) -> None:
        pause = mono_ns - time.monotonic_ns()
        if pause > 0:
            time.sleep(pause / 1e9)

    def spin_until(self, mono_ns: int) -> None:
        while time.monotonic_ns() < mono_ns:
            pass


@dataclass
class ManualClock:
    """A clock for tests, moved by hand. The two readings start far apart so that mixing them up shows."""

    mono: int = 1_000_000_000_000
    wall: int = 1_700_000_000_000_000_000

    def mono_ns(self) -> int:
        return self.mono

    def wall_ns(self) -> int:
        return self.wall

    def sleep_until(self, mono_ns: int) -> None:
        self.advance(max(0, mono_ns - self.mono))

    spin_until = sleep_until

    def advance(self, ns: int) -> None:
        """Let time pass on both clocks."""
        self.mono += ns
        self.wall += ns

    def step_wall(self, ns: int) -> None:
        """Step the wall clock alone, as NTP or an operator would."""
        self.wall += ns


def wall_offset_ns(clock: Clock, tries: int = 5) -> int:
    """CLOCK_REALTIME minus CLOCK_MONOTONIC, from the tightest of a few bracketed readings."""
    best_width, best = None, 0
    for _ in range(tries):
        before = clock.mono_ns()
        wall = clock.wall_ns()
        after = clock.mono_ns()
        if best_width is None or after - before < best_width:
            best_width, best = after - before, wall - (before + after) // 2
    return best
