"""The spool of a recording: what an engine writes of every probe, and the control process reads when it has ended.

A file of blocks, each a header and then its columns one after the other, in the byte order of this host. Like
border.py it is data between two processes of one run; what is kept for people is a Parquet file (store/record.py).
Without the END block at its end the spool lacks something.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from probe.core.evidence import REPLIES, SENT

MAGIC: Final = 0x6861707370  # "hapsp"
SENT_BLOCK, REPLY_BLOCK, FATE_BLOCK, END_BLOCK = range(4)
HEADER = np.dtype([("magic", np.int64), ("kind", np.int32), ("rows", np.int32)])
# A row of fates: the probes of a flow from `first` to `last` whose fate was `was` now have another.
FATES = {"flow": np.int32, "first": np.int64, "last": np.int64, "was": np.uint8, "fate": np.uint8}
KINDS: Final = {SENT_BLOCK: SENT, REPLY_BLOCK: REPLIES, FATE_BLOCK: FATES, END_BLOCK: {}}

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Block:
    """A block where it lies in a spool; `columns` share its memory."""

    kind: int
    rows: int
    columns: Columns


def pack(kind: int, columns: Columns) -> list[bytes]:
    """The parts of a block of these columns, all of one length: to be written one after the other."""
    kinds = KINDS[kind]
    rows = len(next(iter(columns.values()))) if kinds else 0
    header = np.array([(MAGIC, kind, rows)], HEADER)
    return [header.tobytes(), *(columns[name].astype(kinds[name], copy=False).tobytes() for name in kinds)]


def blocks(memory: mmap.mmap | bytes) -> Iterator[Block]:
    """The blocks of a spool, in the order of writing. A torn one ends them: its writer was stopped half-way."""
    at = 0
    while at + HEADER.itemsize <= len(memory):
        header = np.frombuffer(memory, HEADER, 1, at)[0]
        kind, rows = int(header["kind"]), int(header["rows"])
        if header["magic"] != MAGIC or kind not in KINDS:
            return
        at += HEADER.itemsize
        columns: Columns = {}
        for name, dtype in KINDS[kind].items():
            octets = rows * np.dtype(dtype).itemsize
            if at + octets > len(memory):
                return
            columns[name] = np.frombuffer(memory, dtype, rows, at)
            at += octets
        yield Block(kind, rows, columns)
