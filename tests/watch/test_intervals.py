"""A few of the failovers of `python -m tests.bench.changes`: every interval holds the true time of its change."""

from __future__ import annotations

from pathlib import Path

from tests.bench.changes import measure


def test_every_interval_holds_the_true_time_of_its_change(tmp_path: Path) -> None:
    outcome = measure(3, latency_ms=5, pause_s=0.0, directory=tmp_path)
    assert outcome.missed == []
    assert outcome.changes == 6
    assert len(outcome.widths_ms) == 6
    for operation, (share, missing) in outcome.costs.items():
        assert 0 < share <= 0.1, operation
        assert 0 < missing <= 0.1, operation
