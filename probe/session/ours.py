"""Which requests are for this host: a router that reflects must leave alone what it only passes on.

Nor may a request be answered twice that comes in on a port of a bridge and then on the bridge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.clock import Clock
from probe.core.arrays import all_are

Bools = npt.NDArray[np.bool_]

KEPT_NS = 10_000_000_000  # addresses come and go
MOST = 1024


class Ours:
    """Whether addresses are this host's. Asks once for each, and again after a while.

    Args:
        ask: Whether an address (4 or 16 octets) is this host's, and what comes in on the interface of that index does
            not come again on another.
        clock: For how old an answer is.
    """

    def __init__(self, ask: Callable[[bytes, int], bool], clock: Clock):
        self._ask, self._clock = ask, clock
        self._known: dict[tuple[bytes, int], bool] = {}
        self._until = 0

    def one(self, address: bytes, ifindex: int) -> bool:
        """Whether an address is this host's."""
        now = self._clock.mono_ns()
        if now >= self._until or len(self._known) >= MOST:
            self._known.clear()
            self._until = now + KEPT_NS
        key = (address, ifindex)
        if key not in self._known:
            self._known[key] = self._ask(address, ifindex)
        return self._known[key]

    def among(self, view: npt.NDArray[Any], ifindex: int) -> Bools | bool:
        """Which frames, records with `dst` and over IPv4 `dst32`, are for this host; True or False for all of them."""
        to = view["dst"]
        short = "dst32" in (view.dtype.names or ())
        if all_are(view["dst32"], int(view["dst32"][0])) if short else (to == to[0]).all():
            return self.one(bytes(to[0]), ifindex)
        unique, where = np.unique(to, return_inverse=True)
        verdict: Bools = np.array([self.one(bytes(address), ifindex) for address in unique], bool)[where]
        return verdict
