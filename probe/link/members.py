"""Whether an interface hands what it receives up to another one: a port of a bridge, a member of a bond."""

from __future__ import annotations

import socket
from pathlib import Path

SYSFS = Path("/sys/class/net")


def hands_up(ifindex: int) -> bool:
    """Whether a packet socket on all interfaces sees its packets again, on the bridge or bond above it.

    From sysfs, as Netlink waits for whoever is changing a link. It may show another network namespace than ours: then
    its indices are others, and the answer is no.
    """
    try:
        name = socket.if_indextoname(ifindex)
        above = (SYSFS / name / "master").resolve(strict=True)
        same = int((SYSFS / name / "ifindex").read_text()) == ifindex
        same &= int((above / "ifindex").read_text()) == socket.if_nametoindex(above.name)
    except (OSError, ValueError):
        return False
    # Not of a VRF, the other kind of master: what comes in on its members is not shown again.
    return same and any((SYSFS / name / mark).exists() for mark in ("brport", "bonding_slave"))
