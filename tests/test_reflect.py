"""`haprobe reflect`: what its control process tells the one that reflects."""

from __future__ import annotations

from typing import Any

import pytest

from probe import reflect
from probe.timesync import HostClock


def test_the_reflector_hears_of_a_clock_that_has_become_better(monkeypatch: pytest.MonkeyPatch) -> None:
    loose, tight = HostClock(synchronised=False, max_error_ns=None), HostClock(synchronised=True, max_error_ns=800_000)
    readings = [loose, loose, tight, tight, loose]
    told: list[dict[str, Any]] = []

    class Engine:
        def alive(self) -> bool:
            return bool(readings)

        def send(self, message: dict[str, Any]) -> None:
            told.append(message)

    monkeypatch.setattr(reflect, "CLOCK_ASKED_EVERY_S", 0.0)
    monkeypatch.setattr(reflect, "host_clock", lambda: readings.pop(0))
    reflect._tell_of_clock(Engine(), loose)  # type: ignore[arg-type]
    assert [message["error_estimate"] for message in told] == [tight.error_estimate(), loose.error_estimate()]
