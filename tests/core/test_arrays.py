from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.core.arrays import cumcount, distinct, pick

GROUPS = st.lists(st.integers(0, 5), max_size=40)


def test_the_docstring_s_example():
    assert cumcount(np.array([5, 7, 5, 5])).tolist() == [0, 0, 1, 2]


@given(GROUPS)
def test_cumcount_counts_equal_ones_before(groups):
    seen: Counter[int] = Counter()
    expected = []
    for group in groups:
        expected.append(seen[group])
        seen[group] += 1
    assert cumcount(np.array(groups, np.int64)).tolist() == expected


@given(GROUPS)
def test_distinct_is_the_sorted_set(groups):
    assert distinct(np.array(groups, np.int64)) == sorted(set(groups))


def test_distinct_gives_plain_ints():
    # Session numbers are uint64: they must not pass through a float.
    big = (1 << 64) - 1
    for values in ([big], [big, 1]):
        found = distinct(np.array(values, np.uint64))
        assert found == sorted(values) and all(type(v) is int for v in found)


@pytest.mark.parametrize("rows", [[], [3], [2, 3, 4], [2, 4, 6], [0, 9]])
def test_pick_is_indexing(rows):
    values = np.arange(10) * 10
    assert pick(values, np.array(rows, np.int64)).tolist() == [v * 10 for v in rows]
