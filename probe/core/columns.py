"""A log of rows held by column, of bounded length: the oldest rows give way to new ones.

Appending copies each column of a batch in one piece (two where the log wraps), so that a row costs nanoseconds and no
object.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class ColumnLog:
    """Rows in the order in which they came. A *position* counts all rows that ever came, from 0.

    Args:
        kinds: Column name to dtype, in the order in which `append` takes them.
        rows: Rows to hold.
    """

    def __init__(self, kinds: Mapping[str, npt.DTypeLike], rows: int):
        self.columns: dict[str, Array] = {name: _touched(rows, kind) for name, kind in kinds.items()}
        self.rows = rows
        self.head = 0  # position of the next row
        self._first = 0  # nothing older survived the last change of size

    @property
    def tail(self) -> int:
        """Position of the oldest row that is held."""
        return max(self._first, self.head - self.rows)

    def append(self, *values: Array) -> None:
        """Add a batch: an array for each column, all of one length."""
        n = len(values[0])
        if n > self.rows:
            values = tuple(value[n - self.rows :] for value in values)
            self.head += n - self.rows
            n = self.rows
        start = self.head % self.rows
        room = self.rows - start
        for column, value in zip(self.columns.values(), values, strict=True):
            if n <= room:
                column[start : start + n] = value
            else:
                column[start:] = value[:room]
                column[: n - room] = value[room:]
        self.head += n

    def resize(self, rows: int) -> None:
        """Hold so many rows from now on; those that are held stay, as far as there is room."""
        held = np.arange(max(self.tail, self.head - rows), self.head)
        for name, old in self.columns.items():
            self.columns[name] = _touched(rows, old.dtype)
            self.columns[name][held % rows] = old[held % self.rows]
        self.rows, self._first = rows, self.head - len(held)

    def pieces(self, start: int, stop: int, most: int) -> Iterator[tuple[int, slice]]:
        """The rows from position `start` to `stop`, as (position, where they lie) of runs of at most `most` rows."""
        while start < stop:
            place = start % self.rows
            n = min(stop - start, self.rows - place, most)
            yield start, slice(place, place + n)
            start += n

    def take(self, name: str, position: npt.NDArray[np.int64]) -> Array:
        """A column's values at these positions; a copy."""
        values: Array = self.columns[name][position % self.rows]
        return values

    def first_at(self, name: str, value: int) -> int:
        """Position of the first row whose value in a column that ascends is at least `value`."""
        column = self.columns[name]
        held = range(self.tail, self.head)
        return held.start + bisect_left(held, value, key=lambda position: int(column[position % self.rows]))


def _touched(rows: int, kind: npt.DTypeLike) -> Array:
    """Zeros whose memory is there: fresh pages cost milliseconds when they are first written to."""
    column = np.empty(rows, kind)
    column.fill(0)
    return column
