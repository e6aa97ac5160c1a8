"""The ICMP identifiers and source ports of flows: one for a kept flow, a cycle of them for a fresh one."""

from __future__ import annotations

import random
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from probe.errors import UsageError
from probe.session.flows import PORT_SPACE
from probe.wire import layout

Ints = npt.NDArray[np.int64]

IDS_MAX = {"icmp": 16384, "udp": 2048, "tcp": 4096}
# How long a firewall may remember an idle session that never had a second packet: a fresh flow's id must rest longer.
IDS_REST_S = {"icmp": 60.0, "udp": 60.0, "tcp": 15.0}


class Ports(Protocol):
    """Where ports come from (link/quiet.py)."""

    def reserve(self, proto: Any, address: str, count: int) -> list[int]: ...

    def release(self, proto: Any, ports: Any) -> None: ...


class Ids:
    """Gives each flow ids that no other flow of this host has.

    Args:
        ports: Reserves ports.
        icmp_owner: Flow of each ICMP identifier, shape (65536,); -1: of none. Kept by the flow table.
        rng: A restarted probe should not meet its former sessions in a firewall's table, hence at random.
    """

    def __init__(self, ports: Ports, icmp_owner: Ints, rng: random.Random):
        self._ports, self._icmp_owner = ports, icmp_owner
        self._first = rng.randrange(1, 65536)

    def one(self, proto: str, target: str) -> list[int]:
        """For a kept flow to `target`.

        Raises:
            UsageError: If there is none.
        """
        return self._reserve(proto, target, 1)

    def fresh(self, kind: int, target: str, interval_ns: int) -> tuple[list[int], int]:
        """For a fresh flow, and how many probes each id serves: as many as it wants, or else as there are.

        Raises:
            UsageError: If there are not even two.
        """
        proto = PORT_SPACE[kind]
        most = IDS_MAX[proto]
        if proto == "icmp":  # others will want some as well
            most = max(2, min(most, int((self._icmp_owner < 0).sum()) // 3))
        while True:
            count, per_id = fresh_ids(kind, interval_ns, most)
            try:
                return self._reserve(proto, target, count), per_id
            except UsageError:
                if count <= 2:
                    raise
                most = count // 2

    def release(self, proto: str, ids: list[int]) -> None:
        """They are nobody's again."""
        if proto != "icmp":
            self._ports.release(proto, ids)

    def _reserve(self, proto: str, target: str, count: int) -> list[int]:
        if proto != "icmp":
            return self._ports.reserve(proto, target, count)
        free = np.r_[0, np.cumsum(self._icmp_owner[1:] < 0)]
        starts = 1 + np.flatnonzero(free[count:] - free[:-count] == count)
        if not len(starts):
            raise UsageError(f"{count} ICMP identifiers wanted, not so many free; probe with fewer fresh ICMP flows")
        # In one piece, as a filter for many pieces would not fit into the kernel; and from one place on and then round,
        # as pieces at random would leave gaps in which no other fits.
        start = int(starts[np.searchsorted(starts, self._first) % len(starts)])
        return list(range(start, start + count))


def fresh_ids(kind: int, interval_ns: int, most: int) -> tuple[int, int]:
    """How many ids a fresh flow cycles through, and how many probes each serves before the next.

    A new id per probe is only new if the last session under it is forgotten, so an id must rest for IDS_REST_S. Where
    the rate would need more ids than the flow may hold, several probes in a row share one. Each TCP SYN has its own.

    Args:
        kind: One of `layout`'s kinds.
        interval_ns: Between two probes.
        most: Ids that it may hold.
    """
    wanted = int(IDS_REST_S[PORT_SPACE[kind]] * 1e9 / interval_ns) + 1
    if kind == layout.SYN:
        return max(2, min(wanted, most)), 1
    per_id = -(-wanted // most)
    return max(2, min(most, -(-wanted // per_id))), per_id
