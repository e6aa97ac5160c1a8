"""Who gets the processor first: a process's nice value, and that of the session it runs in."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import time
from pathlib import Path

LATENCY_REQUEST = Path("/dev/cpu_dma_latency")
AUTOGROUP = Path("/proc/self/autogroup")
_PAUSE_S = 0.11  # the kernel takes one change in a tenth of a second from all who are not root


def come_first(nice: int) -> None:
    """Run before what has a higher nice value, whichever session that belongs to.

    Where autogroups are on, a kernel's default, processor time is divided among sessions first, and the nice value of
    a process counts among those of its own session only (sched(7)). So this process gets a session of its own, with
    that value as well. Without CAP_SYS_NICE or RLIMIT_NICE nothing changes but that: a busy host shows as unsent slots.

    Args:
        nice: -20, before all others, to 19.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(PermissionError):  # we lead a session already
        os.setsid()
    for _ in range(3):
        try:
            AUTOGROUP.write_text(str(nice))
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        except OSError:  # no autogroups in this kernel, or not for us
            return
        else:
            return


def stay_awake() -> None:
    """Keep all processors from sleeping until this process ends, where it may: waking one up takes tens of
    microseconds, in a virtual machine above all. They run warm meanwhile, and look busy to whoever rents them out.

    Source: Documentation/power/pm_qos_interface.rst.
    """
    with contextlib.suppress(OSError):  # not there, or not for us
        _held.append(LATENCY_REQUEST.open("wb", buffering=0))
        _held[0].write(struct.pack("i", 0))  # microseconds; in force while the file is open


_held: list[io.FileIO] = []
