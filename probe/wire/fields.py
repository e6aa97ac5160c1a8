"""Fields of one frame through `struct`, where `layout.py` says they stand.

For code that takes frames one at a time: an array of one row costs some fifty times as much.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from probe.wire import layout

_NUMBERS = {1: "B", 2: "H", 4: "I", 8: "Q"}


@dataclass(frozen=True, slots=True)
class Run:
    """Fields that stand side by side.

    Attributes:
        packed: All of them.
        at: Where the first one begins, from the first octet of the frame.
    """

    packed: struct.Struct
    at: int

    def write(self, frame: bytearray, *values: int | bytes) -> None:
        """Fill them in, in their order."""
        self.packed.pack_into(frame, self.at, *values)


def run(name: str, family: int, *fields: str) -> Run:
    """Neighbouring fields of a layout, to be written.

    Raises:
        ValueError: If something stands between two of them, or they stand in another order.
    """
    dtype = layout.frame_dtype(name, family)
    at = offset(name, family, fields[0])
    codes = _codes(dtype, fields, at)
    if "x" in codes:
        raise ValueError(f"{fields} of {name!r} are not side by side")
    return Run(struct.Struct(">" + codes), at)


def reader(name: str, family: int, *fields: str) -> struct.Struct:
    """Unpacks fields of a layout, given in their order, from a whole frame.

    Raises:
        ValueError: If they stand in another order.
    """
    return struct.Struct(">" + _codes(layout.frame_dtype(name, family), fields, 0))


def offset(name: str, family: int, field: str) -> int:
    """Where a field begins, from the first octet of the frame."""
    return int(_place(layout.frame_dtype(name, family), field)[1])


def _codes(dtype: np.dtype[Any], fields: tuple[str, ...], at: int) -> str:
    codes = ""
    for field in fields:
        kind, start = _place(dtype, field)
        if start < at:
            raise ValueError(f"{field!r} stands before octet {at}")
        codes += f"{start - at}x" if start > at else ""
        codes += f"{kind.itemsize}s" if kind.kind == "V" else _NUMBERS[kind.itemsize]
        at = start + kind.itemsize
    return codes


def _place(dtype: np.dtype[Any], field: str) -> tuple[np.dtype[Any], int]:
    assert dtype.fields is not None
    kind, start = dtype.fields[field][:2]
    return kind, start
