from __future__ import annotations

import subprocess
import sys

import pytest

from probe.link import require_raw

from .netns import need_namespaces


def test_with_the_capability():
    need_namespaces()
    require_raw()


def test_without_it_the_error_says_how_to_grant_it():
    need_namespaces()
    script = """
import sys
from probe.errors import PrivilegeError
from probe.link import require_raw
try:
    require_raw()
except PrivilegeError as error:
    print(error)
    sys.exit(error.exit_status)
"""
    drop = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]
    answer = subprocess.run([*drop, sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert answer.returncode == 3
    assert answer.stdout.startswith(
        "missing capability CAP_NET_RAW: run as root, or `sudo setcap cap_net_raw,cap_net_admin+ep /"
    )
    assert "AmbientCapabilities=" in answer.stdout


def test_packet_sockets_forbidden(monkeypatch):
    """A sandbox (RestrictAddressFamilies=) refuses them differently."""
    import socket

    from probe.errors import PrivilegeError

    def refuse(*_: object) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(PrivilegeError, match="forbidden or unknown here"):
        require_raw()
