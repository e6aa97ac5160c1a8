"""Log-linear histogram of delays: 16 bins an octave from 256 ns to 137 s, so any bin is within 6 % of its edges."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

STEPS = 16
LOWEST_OCTAVE = 8
OCTAVES = 29
BINS = STEPS * OCTAVES
_MANTISSA_REST = 52 - 4  # bits of a double behind the first four of its mantissa (IEEE 754 binary64)
_LOWEST = (1023 + LOWEST_OCTAVE) * STEPS


def bins_of(delay_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bin of each delay; what lies outside falls into the first or last bin."""
    # In a double, the exponent and the first four bits of the mantissa stand together: the octave and the step.
    bits = np.maximum(delay_ns, 1).astype(np.float64).view(np.int64)
    place: npt.NDArray[np.int64] = (bits >> _MANTISSA_REST) - _LOWEST
    return np.minimum(np.maximum(place, 0, out=place), BINS - 1, out=place)


@cache
def edges_ns() -> npt.NDArray[np.float64]:
    """The BINS + 1 edges of the bins."""
    place = np.arange(BINS + 1)
    edges: npt.NDArray[np.float64] = 2.0 ** (LOWEST_OCTAVE + place // STEPS) * (1 + (place % STEPS) / STEPS)
    edges.flags.writeable = False
    return edges


def quantile_ns(counts: npt.NDArray[np.int64], q: float) -> int:
    """The `q` quantile of a histogram, interpolated within its bin; 0 when it is empty."""
    total = int(counts.sum())
    if total == 0:
        return 0
    cumulative = np.cumsum(counts)
    rank = max(q * total, 1e-9)  # the lowest of all is in the first bin that is not empty
    place = int(np.searchsorted(cumulative, rank))
    place = min(place, BINS - 1)
    edges = edges_ns()
    before = int(cumulative[place - 1]) if place else 0
    inside = (rank - before) / max(int(counts[place]), 1)
    return int(edges[place] + (edges[place + 1] - edges[place]) * min(max(inside, 0.0), 1.0))
