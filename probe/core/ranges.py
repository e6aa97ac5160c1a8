"""Inclusive ranges of integers: sequences that are known, spans of time that went unobserved."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Ranges:
    """Inclusive ranges of integers, ascending and apart."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Add [first, last]; what it touches becomes one range with it."""
        if first > last:
            return
        a, b = bisect_left(self.ends, first), bisect_right(self.starts, last)
        if a < b:
            first, last = min(first, self.starts[a]), max(last, self.ends[b - 1])
        self.starts[a:b], self.ends[a:b] = [first], [last]

    def cut(self, first: int, last: int) -> bool:
        """Take [first, last] out of the range that holds all of it; False when none does."""
        place = bisect_right(self.starts, first) - 1
        if place < 0 or self.ends[place] < last:
            return False
        start, end = self.starts[place], self.ends[place]
        rest = [(a, b) for a, b in ((start, first - 1), (last + 1, end)) if a <= b]
        self.starts[place : place + 1] = [a for a, _ in rest]
        self.ends[place : place + 1] = [b for _, b in rest]
        return True

    def touches(self, first: int, last: int) -> bool:
        place = bisect_right(self.starts, last) - 1
        return place >= 0 and self.ends[place] >= first

    def covers(self, first: int, last: int) -> bool:
        place = bisect_right(self.starts, first) - 1
        return place >= 0 and self.ends[place] >= last

    def between(self, first: int, last: int) -> Ranges:
        """What of [first, last] lies in the ranges."""
        part = Ranges()
        a, b = bisect_left(self.ends, first), bisect_right(self.starts, last)
        part.starts = [max(first, start) for start in self.starts[a:b]]
        part.ends = [min(last, end) for end in self.ends[a:b]]
        return part

    def contains(self, sequences: Ints) -> Bools:
        """Which of the numbers, ascending, lie in one of the ranges."""
        if not len(sequences) or not self.starts:
            return np.zeros(len(sequences), bool)
        a = max(bisect_right(self.starts, int(sequences[0])) - 1, 0)
        b = bisect_right(self.starts, int(sequences[-1]))
        if a >= b:
            return np.zeros(len(sequences), bool)
        starts, ends = np.array(self.starts[a:b], np.int64), np.array(self.ends[a:b], np.int64)
        place = np.searchsorted(starts, sequences, side="right") - 1
        inside: Bools = (place >= 0) & (sequences <= ends[np.maximum(place, 0)])
        return inside

    def trim(self, kept: int) -> int | None:
        """Drop the oldest when there are more than twice `kept`; where the rest begins, None if nothing was dropped."""
        if len(self.starts) <= 2 * kept:
            return None
        del self.starts[:-kept], self.ends[:-kept]
        return self.starts[0]

    def within(self, start: int, end: int) -> int:
        """How much of the time from `start` to `end` lies in ranges that are spans of time."""
        a, b = bisect_right(self.ends, start), bisect_left(self.starts, end)
        return sum(min(self.ends[i], end) - max(self.starts[i], start) for i in range(a, b))
