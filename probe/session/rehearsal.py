"""A dress rehearsal before the first probe: flows like those that are to come, against a reflector in memory.

What Python and numpy do for the first time takes milliseconds (imports, dispatch tables, buffers of the linear algebra
library), which would be the first unsent slots of every run.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from probe.border import SharedState
from probe.clock import ManualClock
from probe.core.fate import COLUMN
from probe.link.base import FrameReceiver, FrameSender
from probe.link.memory import MemoryLink, Script
from probe.session.reflector import Reflector
from probe.session.sender import Sender
from probe.wire import layout

TURNS = 40
TURN_NS = 2_000_000
INTERVAL_NS = 50_000  # so that a turn has many probes
PAUSE_NS = 1_100_000_000  # what is done once a second is done, too
OCTETS = 1600


def rehearse(commands: Iterable[dict[str, Any]]) -> dict[int, int]:
    """Run flows for an instant that does not count.

    Args:
        commands: `add` commands; the first of each kind is taken.

    Returns:
        Kind to how many replies came.
    """
    cast: dict[int, dict[str, Any]] = {}
    for command in (c for c in commands if c.get("stack") != "kernel"):
        cast.setdefault(int(command["kind"]), command)
    parts = {"index": 0, "interval_ns": INTERVAL_NS, "limit": None, "lead_ns": 0}
    return {kind: _perform({**command, **parts}) for kind, command in cast.items()}


def _perform(command: dict[str, Any]) -> int:
    clock = ManualClock()
    stage = _Stage(clock)
    shared = SharedState.create(1), SharedState.create(1)
    port = int.from_bytes(bytes.fromhex(command["frame"])[_port_at(int(command["family"])) :][:2], "big")
    sender = Sender(stage, stage, clock, shared[0], lambda _event: None, random.Random(1))
    reflector = Reflector(
        _Opposite(stage),
        clock,
        shared[1],
        udp=port,
        tcp=port,
        allow=[],
        error_estimate=1,
        key=bytes.fromhex(command.get("key", "")),
        rng=random.Random(1),
    )
    sender.add(command)
    sender.begin()
    for turn in range(TURNS):
        sender.turn()
        stage.echo()
        reflector.turn()
        clock.advance(PAUSE_NS if turn == TURNS // 2 else TURN_NS)
    sender.close()
    return int(shared[0].live[0, COLUMN["received"]])


def _port_at(family: int) -> int:
    return layout.l4_offset(family) + 2


class _Stage:
    """Links and ports of the sender; frames to the other end and back take no time."""

    def __init__(self, clock: ManualClock):
        self.out, self.back = (MemoryLink(clock, Script(), slot_octets=OCTETS) for _ in range(2))

    def transmitter(self, key: tuple[str, int]) -> FrameSender:
        return self.out.sender

    def receivers(self) -> list[FrameReceiver]:
        return [self.back.receiver]

    def listen(self, key: tuple[str, int], owned: dict[str, list[int]]) -> None:
        """Everything is heard."""

    def interface_drops(self) -> int:
        return 0

    def reserve(self, proto: Any, address: str, count: int) -> list[int]:
        return list(range(50_000, 50_000 + count))

    def release(self, proto: Any, ports: Any) -> None:
        """There is always another."""

    def echo(self) -> None:
        """Nobody here answers a ping: let the sender have its own, which is looked at nearly as an answer would be."""
        for _, frame in self.out.arrived():
            (self.back if _is_icmp(frame) else self.out).carry(frame)


class _Opposite:
    """Links of the reflector."""

    def __init__(self, stage: _Stage):
        self._stage = stage

    def receivers(self) -> list[FrameReceiver]:
        return [self._stage.out.receiver]

    def transmitter_on(self, ifindex: int, octets: int) -> FrameSender:
        return self._stage.back.sender

    def expect(self, rate_pps: float) -> None:
        """Any rate will do."""

    def is_local(self, address: bytes, ifindex: int) -> bool:
        return True

    def interface_drops(self) -> int:
        return 0


def _is_icmp(frame: bytes) -> bool:
    if frame[12:14] == layout.ETH_IP.to_bytes(2, "big"):
        return frame[23] == layout.IPPROTO_ICMP
    return frame[20] == layout.IPPROTO_ICMPV6
