"""Processes of the lab: when one of them is over."""

from __future__ import annotations

import socket
import subprocess
import sys

from probe.lab import processes

# Its first thread ends at once, the others when their input does: until then a port is theirs.
_HALF_DEAD = """
import ctypes, os, socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_is_alive_until_its_last_thread_has_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", _HALF_DEAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    with child, child.stdin, child.stdout:
        port = int(child.stdout.readline())
        one = processes.identify("half dead", child.pid)
        while processes._stat(child.pid)[0] != "Z":
            pass
        assert one.alive, "its port is still taken"
        assert processes.kill([one]) == []
        assert not one.alive
        socket.create_server(("127.0.0.1", port)).close()
