from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.core.histogram import BINS, bins_of, edges_ns, quantile_ns

INSIDE = st.integers(256, 137_000_000_000)


def counts_of(delays: list[int]) -> np.ndarray:
    return np.bincount(bins_of(np.array(delays, np.int64)), minlength=BINS)


def test_the_edges_are_those_of_the_docstring():
    edges = edges_ns()
    assert len(edges) == BINS + 1 and (np.diff(edges) > 0).all()
    assert edges[0] == 256 and edges[-1] == 2.0**37
    assert (np.diff(edges) / edges[:-1]).max() <= 1 / 16


@given(st.lists(INSIDE, min_size=1, max_size=50))
def test_a_delay_lies_between_the_edges_of_its_bin(delays):
    edges, values = edges_ns(), np.array(delays)
    place = bins_of(values)
    assert (edges[place] <= values).all() and (values < edges[place + 1]).all()


def test_every_edge_opens_its_own_bin():
    edges = edges_ns()[:-1]
    assert bins_of(edges.astype(np.int64)).tolist() == list(range(BINS))
    assert bins_of(np.ceil(edges).astype(np.int64)[1:] - 1).tolist() == list(range(BINS - 1))


@pytest.mark.parametrize(("delay", "place"), [(-(2**62), 0), (-1, 0), (0, 0), (1, 0), (255, 0), (2**62, BINS - 1)])
def test_outside_falls_into_the_outermost_bins(delay, place):
    assert bins_of(np.array([delay])).tolist() == [place]


def test_empty():
    assert bins_of(np.zeros(0, np.int64)).tolist() == []
    assert quantile_ns(np.zeros(BINS, np.int64), 0.5) == 0


@given(st.lists(INSIDE, min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_right_to_within_its_bin(delays, q):
    found = quantile_ns(counts_of(delays), q)
    ordered = sorted(delays)
    rank = min(max(int(np.ceil(q * len(delays))) - 1, 0), len(delays) - 1)
    place = int(bins_of(np.array([ordered[rank]]))[0])
    edges = edges_ns()
    assert edges[place] - 1 <= found <= edges[place + 1]


def test_quantiles_of_a_known_set():
    counts = counts_of([1_000_000] * 99 + [50_000_000])
    assert quantile_ns(counts, 0.5) == pytest.approx(1_000_000, rel=1 / 16)
    assert quantile_ns(counts, 0.99) == pytest.approx(1_000_000, rel=1 / 16)
    assert quantile_ns(counts, 1.0) == pytest.approx(50_000_000, rel=1 / 16)
