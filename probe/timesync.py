"""How well this host's clock is kept: the bound behind every UTC time that is reported, and STAMP's Error Estimate.

Three are asked, the one with the best-founded answer first: ClockBound, which keeps a bound in shared memory and warns
when the machine was moved under the clock; chrony, by its own client; the kernel, whose bound grows by 500 us per
second between two updates of whatever daemon there is.
"""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probe.wire import stamp
from probe.wire.tlv import SYNC_FREE_RUNNING, SYNC_GNSS, SYNC_NTP, SYNC_PTP, SYNC_UNKNOWN

STA_UNSYNC = 0x0040  # linux/timex.h: nobody disciplines the clock
_TIME_ERROR = 5  # return value: clock not synchronised
UNKNOWN_ERROR_NS = 16_000_000_000  # include/linux/timex.h, NTP_PHASE_LIMIT: 16 s

CLOCKBOUND = (Path("/var/run/clockbound/shm0"), Path("/var/run/clockbound/shm"))
_CLOCKBOUND_MAGIC = (0x414D5A4E, 0x43420200)
_CLOCKBOUND_HEADER = struct.Struct("=IIIHH")  # magic, size, version, generation
_CLOCKBOUND_TIMES = struct.Struct("=qqqqq")  # as of, void after (each s and ns, CLOCK_MONOTONIC_COARSE); bound in ns
_CLOCKBOUND_REST = {1: (56, struct.Struct("=I4xi")), 2: (64, struct.Struct("=Ii"))}  # by version: drift in ppb, status
_CLOCKBOUND_OCTETS = 80
_CLOCK_MONOTONIC_COARSE = 6  # linux/time.h; the time module has no name for it
_SYNCHRONISED, _FREE_RUNNING, _DISRUPTED = 1, 2, 3  # its status; 0: not known yet

CHRONYC_TIMEOUT_S = 2.0
_CHRONY_LOCAL = "7F7F0101"  # reference id of a server that refers to its own clock
_REFCLOCKS = {"PHC": SYNC_PTP, "GPS": SYNC_GNSS, "NMEA": SYNC_GNSS, "PPS": SYNC_GNSS}  # first letters, by custom
PCI_DEVICES = Path("/sys/bus/pci/devices")


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
class HostClock:
    """What is known of this host's CLOCK_REALTIME.

    Attributes:
        synchronised: Whether something outside this host keeps it in step with UTC.
        max_error_ns: Bound on its offset from UTC; None: not known.
        source: Who said so: `clockbound`, `chrony` or `adjtimex`.
        reference: What it is kept in step with, a number of STAMP's Timestamp Information (wire/tlv.py).
    """

    synchronised: bool
    max_error_ns: int | None
    source: str = "adjtimex"
    reference: int = SYNC_UNKNOWN

    @property
    def error_ns(self) -> int:
        """The bound; where there is none, the kernel's own limit."""
        return UNKNOWN_ERROR_NS if self.max_error_ns is None else self.max_error_ns

    def stepped(self, step_ns: int) -> HostClock:
        """The same, for times that are still on the clock as it was before it was set by so much."""
        return replace(self, max_error_ns=self.error_ns + abs(step_ns)) if step_ns else self

    def to_document(self) -> dict[str, Any]:
        """The contract's `run.clock`."""
        return {"synchronised": self.synchronised, "max_error_ns": self.error_ns, "source": self.source}

    def error_estimate(self) -> int:
        """STAMP's Error Estimate."""
        return stamp.error_estimate(self.error_ns, synchronised=self.synchronised)


def host_clock() -> HostClock:
    """Ask whoever knows best; takes as long as starting `chronyc` where that is installed."""
    chrony = ask_chrony()
    for segment in CLOCKBOUND:
        found = ask_clockbound(segment)
        if found is not None:  # it does not say what the clock follows
            return replace(found, reference=chrony.reference) if chrony and found.synchronised else found
    return chrony or kernel_clock()


def kernel_clock() -> HostClock:
    """Ask the kernel; unsynchronised when it cannot be asked."""
    timex = _Timex()  # modes 0: read only, needs no privilege
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.byref(timex))
    if state < 0 or state == _TIME_ERROR or timex.status & STA_UNSYNC:
        return HostClock(synchronised=False, max_error_ns=None, reference=SYNC_FREE_RUNNING)
    return HostClock(synchronised=True, max_error_ns=timex.maxerror * 1000)


def ask_chrony() -> HostClock | None:
    """What chrony's client prints of its tracking; None without chrony, or when its daemon does not answer."""
    client = shutil.which("chronyc")
    if client is None:
        return None
    command = [client, "-c", "-n", "tracking"]  # -n: no look-up of names, which may hang when the network does
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHRONYC_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return chrony_tracking(done.stdout, phc_error_ns()) if done.returncode == 0 else None


def chrony_tracking(line: str, phc_ns: int = 0) -> HostClock | None:
    """The clock as a line of `chronyc -c tracking` has it; None when it is not one.

    The bound is chrony's own: offset still to be corrected + root dispersion + half the root delay. Of a hardware clock
    chrony takes the time for true, so that one's own error is added.

    Args:
        line: reference id, name, stratum, reference time, offset, last offset, RMS offset, frequency, residual
            frequency, skew, root delay, root dispersion, update interval, leap status; times in seconds.
        phc_ns: Error of this host's hardware clock.
    """
    fields = line.strip().split(",")
    if len(fields) != 14:
        return None
    try:
        offset, delay, dispersion = (float(fields[n]) for n in (4, 10, 11))
        bound = round((abs(offset) + dispersion + delay / 2) * stamp.NS)
    except (ValueError, OverflowError):
        return None
    reference, name, leap = fields[0].upper(), fields[1], fields[13]
    if leap == "Not synchronised" or reference in ("00000000", _CHRONY_LOCAL):
        return HostClock(False, None, "chrony", SYNC_FREE_RUNNING)
    kind = SYNC_NTP
    if "." not in name and ":" not in name:  # a reference clock is named, a server has an address
        kind = next((k for letters, k in _REFCLOCKS.items() if name.startswith(letters)), SYNC_UNKNOWN)
    return HostClock(True, bound + (phc_ns if kind == SYNC_PTP else 0), "chrony", kind)


def phc_error_ns(devices: Path = PCI_DEVICES) -> int:
    """The largest error that a network card states for its hardware clock (Amazon's driver does); 0 if none does."""
    bounds = [0]
    for file in devices.glob("*/phc_error_bound"):
        try:
            bounds.append(int(file.read_text()))
        except (OSError, ValueError):
            continue
    return max(bounds)


def ask_clockbound(segment: Path, now_ns: int | None = None) -> HostClock | None:
    """What ClockBound's daemon keeps in shared memory; None without it, or while it does not know.

    Args:
        segment: The shared memory, layout version 1 or 2.
        now_ns: CLOCK_MONOTONIC_COARSE.
    """
    octets = _clockbound_octets(segment)
    if octets is None:
        return None
    version = _CLOCKBOUND_HEADER.unpack_from(octets)[3]
    as_of_s, as_of_ns, void_s, void_ns, bound = _CLOCKBOUND_TIMES.unpack_from(octets, 16)
    if version not in _CLOCKBOUND_REST:
        return None
    at, rest = _CLOCKBOUND_REST[version]
    drift_ppb, status = rest.unpack_from(octets, at)
    if status == _DISRUPTED:  # the machine was moved: nobody knows yet by how much the clock is off
        return HostClock(False, None, "clockbound", SYNC_FREE_RUNNING)
    now = time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE) if now_ns is None else now_ns
    age = max(now - (as_of_s * stamp.NS + as_of_ns), 0)
    if status not in (_SYNCHRONISED, _FREE_RUNNING) or bound < 0 or now > void_s * stamp.NS + void_ns:
        return None
    grown = bound + -(-age * drift_ppb // stamp.NS)
    if status == _FREE_RUNNING:
        return HostClock(False, grown, "clockbound", SYNC_FREE_RUNNING)
    return HostClock(True, grown, "clockbound")


def _clockbound_octets(segment: Path) -> bytes | None:
    """A consistent copy: the generation is odd or zero while the daemon writes, and another one afterwards."""
    try:
        with segment.open("rb", buffering=0) as file:
            for _ in range(100):
                file.seek(0)
                octets = file.read(_CLOCKBOUND_OCTETS) or b""
                if len(octets) < 72 or _CLOCKBOUND_HEADER.unpack_from(octets)[:2] != _CLOCKBOUND_MAGIC:
                    return None
                file.seek(0)
                again = file.read(_CLOCKBOUND_HEADER.size) or b""
                generation = _CLOCKBOUND_HEADER.unpack_from(octets)[4]
                if generation and generation % 2 == 0 and again == octets[: len(again)]:
                    return octets
    except OSError:
        pass
    return None
