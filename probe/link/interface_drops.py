"""Frames that interfaces dropped on receiving, before any packet socket saw them: no loss of the network's.

A network card whose ring is full, a driver without memory, a queue of the kernel without room
(`net.core.netdev_max_backlog`): such a frame never comes to a receive ring, whose own count (receiver.py) knows nothing
of it. The interface counts it.

What it drops on sending is not looked at. The call that sends a frame tells when the kernel refuses it; counted here
as well, it would excuse a loss of the network's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# In sysfs one sees the namespace that it was mounted in, and not always one's own. Netlink answers under the rtnl lock:
# whoever asks would stand still for as long as somebody else's change of a link takes. This takes none.
COUNTERS = "/proc/thread-self/net/dev"
DROP, FIFO = 3, 4  # columns of what was received
AT_ONCE = 1 << 16  # octets to ask for; the kernel gives about a page


class InterfaceDrops:
    """Counts what was dropped since it was last asked. Made and asked by one thread, in whose network namespace it is.

    `drop` is rx_dropped + rx_missed_errors, `fifo` is rx_fifo_errors (net/core/net-procfs.c). Some drivers count one
    frame in both, so the one that rose more is what was dropped.

    On a host where nobody listens, rx_dropped also counts frames of protocols that nobody wants. Our packet socket
    takes every frame that its interface gives, so there are none (__netif_receive_skb_core in net/core/dev.c) unless
    something stands between the two, which takes the frame before the kernel looks who wants it: a VLAN tag; a bridge,
    macvlan or other rx_handler that passes it on; an ingress hook of tc or nftables.

    Of a VLAN only its own counters are seen, not those of the interface below it.
    """

    def __init__(self) -> None:
        self._file = os.open(COUNTERS, os.O_RDONLY | os.O_CLOEXEC)
        self._known: dict[str, _Interface] = {}

    def take(self, ifindexes: Iterable[int] | None = None) -> int:
        """Frames dropped since the last call on these interfaces, None: on all; loopback's never count.

        An interface that was not there the last time, or under another name, has dropped nothing yet. Costs some
        fifteen microseconds, and one to four for each interface of the namespace.
        """
        rows = dict(_rows(self._read()))
        names = rows if ifindexes is None else [name for name in map(_name, ifindexes) if name in rows]
        self._known = {name: self._risen(name, rows[name].split()) for name in names}
        return sum(interface.dropped for interface in self._known.values())

    def close(self) -> None:
        """Harmless when repeated."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read(self) -> str:
        text = b""
        while part := os.pread(self._file, AT_ONCE, len(text)):  # from 0 on, it is written anew
            text += part
        return os.fsdecode(text)

    def _risen(self, name: str, figures: list[str]) -> _Interface:
        drop, fifo = int(figures[DROP]), int(figures[FIFO])
        known = self._known.get(name)
        if known is None:
            return _Interface(_index(name), _Counter(drop, drop), _Counter(fifo, fifo), 0)
        dropped = max(known.drop.rise(drop), known.fifo.rise(fifo))
        if dropped and _index(name) != known.ifindex:  # the name has gone over to another one
            return _Interface(_index(name), _Counter(drop, drop), _Counter(fifo, fifo), 0)
        return _Interface(known.ifindex, known.drop.after(drop), known.fifo.after(fifo), dropped)


class _Counter(NamedTuple):
    last: int
    highest: int

    def rise(self, now: int) -> int:
        """By how much it is higher. Some drivers show zeros while their interface is down, and then the old figure: up
        to that, a jump back is no rise.
        """
        return max(0, now - (self.last if now < self.highest else self.highest))

    def after(self, now: int) -> _Counter:
        return _Counter(now, max(now, self.highest))


class _Interface(NamedTuple):
    ifindex: int
    drop: _Counter
    fifo: _Counter
    dropped: int


def _rows(text: str) -> Iterator[tuple[str, str]]:
    """(name, figures) of each interface but loopback; the two lines of heading have no colon."""
    for line in text.splitlines():
        name, colon, figures = line.partition(":")
        if colon and name.strip() != "lo":
            yield name.strip(), figures


def _name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:  # it is gone
        return ""


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0
