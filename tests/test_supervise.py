"""An engine process and whoever started it. What engines do is in other tests."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import pytest

from probe.errors import HaprobeError
from probe.supervise import Engine

LIMIT_S = 30.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@pytest.mark.parametrize("stopped", [False, True])
def test_whether_an_engine_ended_when_asked(stopped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine("echo", ["--tcp", str(free_port())], lambda _event: None)
    if stopped:
        monkeypatch.setattr("probe.supervise.STOP_S", 0.2)
        os.kill(engine.process.pid, signal.SIGSTOP)
    assert engine.stop() is not stopped
    assert not engine.alive()


def test_an_engine_that_is_not_understood_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    """An agent that hears nothing any more must not go on as if nothing happened."""

    def puzzled(message: dict[str, Any]) -> None:
        raise KeyError("flows")

    port = free_port()
    with pytest.raises(HaprobeError, match="ended"):  # sooner or later, as the machine has it
        engine = Engine("echo", ["--tcp", str(port)], puzzled)
        try:
            engine.process.wait(LIMIT_S)
            engine.check()
        finally:
            engine.stop()
    assert "could not be taken in" in caplog.text
