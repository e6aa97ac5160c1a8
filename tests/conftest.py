"""For all tests."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """A shell starts what it puts into the background with SIGINT ignored, `nohup` with SIGHUP; tests send them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A directory that we may not look into, in one where everybody may do everything; root is nobody meanwhile."""
    with tempfile.TemporaryDirectory() as place:
        directory, was = Path(place) / "closed", os.geteuid()
        directory.parent.chmod(0o777)
        directory.mkdir(0)
        if was == 0:
            os.seteuid(65534)
        try:
            yield directory
        finally:
            os.seteuid(was)
            directory.chmod(0o700)
