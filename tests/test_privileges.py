from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from probe.privileges import effective_capabilities

ROOT = Path(__file__).parent.parent
CAP_NET_RAW = 13


def run(code: str) -> str:
    """In a process of its own: what is dropped does not come back."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_effective_set_is_what_the_kernel_says():
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("CapEff"))
    assert effective_capabilities() == int(line.split()[1], 16)


def test_nothing_is_left_after_dropping():
    told = run(
        "from probe.privileges import *; drop_privileges(); print(effective_capabilities());"
        "print(*[l.split()[1] for l in open('/proc/self/status') if l.startswith(('CapPrm', 'CapInh', 'NoNewPrivs'))])"
    )
    assert told.split() == ["0", "0" * 16, "0" * 16, "1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to lose")
def test_a_raw_socket_is_refused_afterwards_and_in_threads_too():
    assert effective_capabilities() >> CAP_NET_RAW & 1, "this test needs CAP_NET_RAW to begin with"
    told = run(
        "import socket, threading\n"
        "from probe.privileges import drop_privileges\n"
        "def attempt():\n"
        "    try:\n"
        "        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close(); print('open')\n"
        "    except PermissionError:\n"
        "        print('refused')\n"
        "attempt(); drop_privileges(); attempt()\n"
        "t = threading.Thread(target=attempt); t.start(); t.join()\n"
    )
    assert told.split() == ["open", "refused", "refused"]


def test_dropping_twice_does_no_harm():
    assert run("from probe.privileges import *; drop_privileges(); drop_privileges(); print('ok')") == "ok"
