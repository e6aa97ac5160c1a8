"""A reflector between two links in memory: frames in, frames out, on a clock that a test moves."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np

from probe.border import HEADER
from probe.clock import ManualClock
from probe.link.memory import MemoryLink
from probe.session.peers import Session
from probe.session.reflector import Reflector

WALL = 1_763_800_000_123_456_789
ESTIMATE = 0x8BD2
SLOT = 1600


class Bench:
    """A reflector on UDP port 862 and TCP port 8620, and what it sends.

    Args:
        **more: For the reflector.
    """

    def __init__(self, **more):
        self.clock = ManualClock(wall=WALL)
        self.inward = MemoryLink(self.clock, slot_octets=SLOT)
        self.outward = MemoryLink(self.clock, slot_octets=SLOT)
        self.elsewhere = set()  # addresses that are not the reflector's
        options = {"udp": 862, "tcp": 8620, "allow": [], "error_estimate": ESTIMATE, "rng": random.Random(1), **more}
        shared = SimpleNamespace(header=np.zeros(1, HEADER))  # a memory file each would be too many
        self.reflector = Reflector(self, self.clock, shared, **options)

    def receivers(self):
        return [self.inward.receiver]

    def transmitter_on(self, ifindex, octets):
        return self.outward.sender

    def expect(self, rate_pps):
        pass

    def is_local(self, address, ifindex):
        return address not in self.elsewhere

    def interface_drops(self):
        return 0

    def answers(self, *frames: bytes) -> list[bytes]:
        """What comes back for a batch of frames; every one of them takes a microsecond in here."""
        for frame in frames:
            self.inward.carry(frame)
        self.clock.advance(1000)
        self.reflector.turn()
        return [frame for _, frame in self.outward.arrived()]


def remembered(session: Session) -> dict[str, object]:
    """All that a reflector knows of a session; `table` says the records once more."""
    return {name: getattr(session, name) for name in session.__slots__ if name != "table"}
