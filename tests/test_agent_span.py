"""Which span a report of an agent is about, whatever was asked for."""

from __future__ import annotations

import pytest

from probe.agent import _span

BEGAN, NOW = 1_000, 9_000


@pytest.mark.parametrize(
    ("asked", "span"),
    [
        ((None, None), (BEGAN, NOW)),
        ((3_000, 4_000), (3_000, 4_000)),
        ((3_000, 99_000), (3_000, NOW)),
        ((1, 2), (1, 2)),
        ((None, 5), (5, 5)),  # before it began
        ((20_000, None), (20_000, 20_000)),  # in the future
        ((20_000, 30_000), (20_000, 20_000)),
    ],
)
def test_a_span_never_runs_backwards(asked: tuple[int | None, int | None], span: tuple[int, int]) -> None:
    assert _span(*asked, BEGAN, NOW) == span
