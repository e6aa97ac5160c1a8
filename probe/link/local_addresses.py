"""Whether an address is this host's own, as far as the kernel is concerned."""

from __future__ import annotations

import errno
import socket


def is_local(address: bytes, ifindex: int = 0) -> bool:
    """Ask the kernel by a bind, which knows all of its local routes and, unlike a look into its tables, waits for
    nobody who is changing a link.

    Args:
        address: IPv4 or IPv6, in network order.
        ifindex: The interface that a link-local address belongs to.

    Returns:
        Also True where the kernel cannot tell: it lets anybody have any address (ip_nonlocal_bind), or has no socket.
    """
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    text = socket.inet_ntop(family, address)
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.bind((text, 0) if family == socket.AF_INET else (text, 0, 0, ifindex))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True
