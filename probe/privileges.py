"""Giving capabilities up: only engine processes keep theirs, the process that faces the network has none."""

from __future__ import annotations

import ctypes
import os

_VERSION_3 = 0x20080522  # linux/capability.h: two 32-bit words per set
PR_SET_NO_NEW_PRIVS = 38


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def drop_privileges() -> None:
    """Empty every capability set of the calling thread, for good. Threads started from it later have none either.

    Raises:
        OSError: If the kernel refuses, which it does to nobody.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = _Header(_VERSION_3, 0)
    if libc.capset(ctypes.byref(header), ctypes.byref((_Data * 2)())) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "capset")
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def effective_capabilities() -> int:
    """The calling thread's effective set, as a bit mask."""
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    ctypes.CDLL(None, use_errno=True).capget(ctypes.byref(header), ctypes.byref(data))
    return int(data[0].effective | data[1].effective << 32)
