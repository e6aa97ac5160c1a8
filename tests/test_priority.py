"""Which process the kernel serves first."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from probe.priority import AUTOGROUP
from probe.supervise import Engine


def test_a_process_comes_first_or_last_with_a_session_of_its_own() -> None:
    program = f"""
import os
from probe.priority import come_first
come_first(7)
print(os.getpriority(os.PRIO_PROCESS, 0), os.getsid(0) == os.getpid() != {os.getsid(0)})
come_first(9)
print(os.getpriority(os.PRIO_PROCESS, 0), os.getsid(0) == os.getpid())
print(open("{AUTOGROUP}").read() if os.path.exists("{AUTOGROUP}") else "nice 9")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    first, second, group = done.stdout.splitlines()[:3]
    assert (first, second) == ("7 True", "9 True")
    assert group.endswith("nice 9"), "beside other sessions as well"


def test_an_engine_comes_before_all_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    engine = Engine("echo", ["--tcp", str(port)], lambda event: None)
    try:
        pid = engine.process.pid
        assert os.getsid(pid) == pid
        if os.geteuid() == 0:
            assert os.getpriority(os.PRIO_PROCESS, pid) == -20
            group = Path(f"/proc/{pid}/autogroup")
            assert not group.exists() or group.read_text().strip().endswith("nice -20")
    finally:
        engine.stop()
