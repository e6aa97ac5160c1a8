"""Flows handed to an engine, and again when it refused them; the engine and the kernel's tables are stand-ins."""

from __future__ import annotations

from typing import Any

import pytest

from probe import prober
from probe.border import SharedState
from probe.core.events import FlowSpec
from probe.errors import PeerError
from probe.link.path import Path
from probe.prober import Prober

SPEC = FlowSpec("a", "udp", "kept", "p", "192.0.2.9", 862, 100.0)


def way(ifindex: int) -> Path:
    return Path("ethernet", ifindex, f"eth{ifindex}", "192.0.2.1", "", b"\2" * 6, b"\4" * 6, 1500, "192.0.2.9")


class Engine:
    """Takes commands, and tells what the test makes it tell."""

    def __init__(self, _role: str, _options: list[str], on_event: Any, capacity: int, **_more: Any):
        self.shared, self.tell = SharedState.create(capacity), on_event
        self.commands: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.commands.append(message)

    def heard(self) -> list[str]:
        told, self.commands = [message["command"] for message in self.commands], []
        return told


def no_way(*_: object, path: Path | None = None, **more: Any) -> Any:
    if path is None:
        raise PeerError("no way yet")
    return _prepare(*_, path=path, **more)


_prepare = prober.prepare


def test_a_flow_that_was_refused_is_added_again_when_there_is_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interface may come, go while the engine opens it, and come again."""
    monkeypatch.setattr(prober, "Engine", Engine)
    monkeypatch.setattr(prober, "prepare", no_way)
    probing = Prober([SPEC], error_estimate=1)
    engine: Any = probing.engine
    try:
        track = probing.add(SPEC, patient=True, address="192.0.2.9")
        assert engine.heard() == []
        probing._path_changed(track.index, way(2))
        assert engine.heard() == ["add", "begin"]
        engine.tell({"event": "refused", "flow": track.index, "command": "add", "reason": "no interface with index 2"})
        assert track.detail == "no interface with index 2"
        probing._path_changed(track.index, None)
        probing._path_changed(track.index, way(3))
        assert engine.heard() == ["add", "begin"] and track.detail == ""
        probing._path_changed(track.index, way(4))
        assert engine.heard() == ["retarget"]
        # A session that cannot be renewed is no flow that is not there.
        engine.tell({"event": "refused", "flow": track.index, "command": "renew", "reason": "no port left"})
        probing._path_changed(track.index, way(3))
        assert engine.heard() == ["retarget"]
    finally:
        engine.shared.close()
