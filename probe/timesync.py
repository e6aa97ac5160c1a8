"""How well the kernel says its clock is kept: the bound behind every UTC time that is reported."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

STA_UNSYNC = 0x0040  # linux/timex.h: nobody disciplines the clock
STA_NANO = 0x2000
_TIME_ERROR = 5  # return value: clock not synchronised


UNKNOWN_ERROR_NS = 16_000_000_000  # include/linux/timex.h: 16 s


class _Timex(ctypes.Structure):
    """struct timex up to the fields that are read; 208 octets on x86-64 and aarch64."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 160),
    )


@dataclass(frozen=True, slots=True)
class KernelClock:
    """What adjtimex(2) says. `max_error_ns` is a bound on the offset from UTC, or None when nobody keeps the clock.

    The kernel lets the bound grow by 500 us per second between two updates of the daemon, so it is an upper bound
    and not an estimate; chrony's own tracking is much tighter.
    """

    synchronised: bool
    max_error_ns: int | None
    source: str = "adjtimex"

    def to_document(self) -> dict[str, Any]:
        """The contract's `run.clock`. An unsynchronised clock is given the kernel's own limit, NTP_PHASE_LIMIT."""
        error = UNKNOWN_ERROR_NS if self.max_error_ns is None else self.max_error_ns
        return {"synchronised": self.synchronised, "max_error_ns": error, "source": self.source}


def kernel_clock() -> KernelClock:
    """Ask the kernel; unsynchronised when it cannot be asked."""
    timex = _Timex()  # modes 0: read only, needs no privilege
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.byref(timex))
    if state < 0 or state == _TIME_ERROR or timex.status & STA_UNSYNC:
        return KernelClock(synchronised=False, max_error_ns=None)
    return KernelClock(synchronised=True, max_error_ns=timex.maxerror * 1000)
