"""Which interfaces may be given datagrams in one piece (tx_gso.py). Runs in the control process.

Those for which the kernel cuts up the pieces itself. Where a driver says that it can, the kernel leaves it to the
driver, and one of software (a veth, a bridge) passes on the whole: many probes would be one packet on the way.
"""

from __future__ import annotations

from contextlib import closing

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool
from pyroute2.netlink.exceptions import NetlinkError

FEATURE = "tx-udp-segmentation"  # the kernel's name (net/ethtool/common.c)
# Disciplines that hand on what they take, and refuse what they have no room for as it is given to them. Others drop
# later, and nobody would know.
_HONEST = {"noqueue", "mq", "pfifo_fast", "pfifo", "bfifo"}
_ARPHRD_ETHER = 1


def cut_by_kernel() -> list[int]:
    """Indexes of such interfaces in the calling thread's network namespace; none where it cannot be told."""
    try:
        with IPRoute() as ipr:
            links, disciplines = list(ipr.get_links()), list(ipr.get_qdiscs())
    except (NetlinkError, OSError):
        return []
    silent = {d["index"] for d in disciplines if d.get("kind") not in _HONEST}
    ethernet = [link for link in links if link["ifi_type"] == _ARPHRD_ETHER and link["index"] not in silent]
    return [link["index"] for link in ethernet if _left_to_kernel(link.get("ifname"))]


def cut_options() -> list[str]:
    """The same for an engine's command line."""
    return [word for index in cut_by_kernel() for word in ("--cut", str(index))]


def _left_to_kernel(name: str) -> bool:
    try:
        with closing(IoctlEthtool(name)) as tool:
            told = tool.get_features()
            return FEATURE in told and not told.is_active(FEATURE)
    except (EthtoolError, OSError):
        return False
