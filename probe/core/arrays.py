"""Small array operations that numpy lacks or does slowly for the common case."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def pick(values: npt.NDArray[Any], rows: Ints) -> npt.NDArray[Any]:
    """`values[rows]` for ascending rows, each once. Neighbours, as in a batch of one kind, give a view and no copy."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return values[int(rows[0]) : int(rows[-1]) + 1]
    return values[rows]


def where_all(mask: npt.NDArray[np.bool_], *columns: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], ...]:
    """Each column's elements under the mask; the columns themselves when it is true everywhere."""
    return columns if mask.all() else tuple(column[mask] for column in columns)


def only(values: npt.NDArray[Any]) -> int | None:
    """The one value that all have; None when they differ or there are none."""
    if len(values) and values[0] == values[-1] and all_are(values, int(values[0])):
        return int(values[0])
    return None


def all_are(values: npt.NDArray[Any], value: int) -> bool:
    """Whether every integer is `value`. Those of foreign byte order are compared as they lie."""
    if value < 0 and values.dtype.kind == "u":
        return False
    if not values.dtype.isnative:
        value = int(np.array(value, values.dtype).view(values.dtype.newbyteorder("=")))
        values = values.view(values.dtype.newbyteorder("="))
    return bool((values == value).all())


def order_of(groups: Ints) -> Ints:
    """What sorts `groups`, equal ones in their order."""
    # Short integers are sorted by their digits, several times faster than by comparing.
    return np.argsort(groups.astype(np.uint16) if groups.max(initial=0) < 1 << 16 else groups, kind="stable")


def cumcount(groups: Ints) -> Ints:
    """For each element, how many equal ones stand before it: [5, 7, 5, 5] gives [0, 0, 1, 2]."""
    n = len(groups)
    if n == 0:
        return np.zeros(0, np.int64)
    if only(groups) is not None:
        return np.arange(n)
    order = order_of(groups)
    ranked = groups[order]
    new = np.r_[True, ranked[1:] != ranked[:-1]]
    starts = np.maximum.accumulate(np.where(new, np.arange(n), 0))
    ranks = np.empty(n, np.int64)
    ranks[order] = np.arange(n) - starts
    return ranks


def distinct(values: npt.NDArray[Any]) -> list[int]:
    """The different values, ascending. Most batches hold one, for which no sorting is needed."""
    if len(values) and (values == values[0]).all():
        return [int(values[0])]
    return [int(v) for v in np.unique(values)]


def count_in(counts: Ints, groups: Ints) -> None:
    """Add to each group's count how often it comes."""
    if len(groups) < len(counts) // 8:
        np.add.at(counts, groups, 1)  # a few places, of many
    else:
        counts += np.bincount(groups, minlength=len(counts))


def spans(edge: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(start, end) of each group, given where groups begin."""
    starts = np.flatnonzero(edge)
    ends = np.r_[starts[1:], len(edge)]
    return [(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]
