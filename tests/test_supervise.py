"""An engine process and whoever started it. What engines do is in other tests."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from probe.errors import HaprobeError
from probe.supervise import Engine

LIMIT_S = 30.0


def test_an_engine_that_is_not_understood_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    """An agent that hears nothing any more must not go on as if nothing happened."""

    def puzzled(message: dict[str, Any]) -> None:
        raise KeyError("flows")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(HaprobeError, match="ended"):  # sooner or later, as the machine has it
        engine = Engine("echo", ["--tcp", str(port)], puzzled)
        try:
            engine.process.wait(LIMIT_S)
            engine.check()
        finally:
            engine.stop()
    assert "could not be taken in" in caplog.text
