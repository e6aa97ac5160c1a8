"""The only code that holds a probe socket: rings, raw sockets, quiet ports, next hops.

`base` says what the rest of the program may ask of a link. The engine process holds the rings; `path` runs in the
control process, which hands its answers over.
"""

from __future__ import annotations

import errno
import socket
import sys
from pathlib import Path

from probe.errors import PrivilegeError


def grant_hint() -> str:
    """How a user lets this program probe without running it as root."""
    python = Path(sys.executable).resolve()
    return (
        f"run as root, or `sudo setcap cap_net_raw,cap_net_admin+ep {python}`, "
        "or systemd AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN"
    )


def require_raw() -> None:
    """Check that packet sockets may be opened here.

    Raises:
        PrivilegeError: If CAP_NET_RAW is missing, or packet sockets are forbidden altogether.
    """
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError as error:
        raise PrivilegeError(f"missing capability CAP_NET_RAW: {grant_hint()}") from error
    except OSError as error:
        if error.errno not in {errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}:
            raise
        raise PrivilegeError(f"packet sockets (AF_PACKET) are forbidden or unknown here: {error.strerror}") from error
