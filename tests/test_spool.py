from __future__ import annotations

import numpy as np

from probe.spool import END_BLOCK, FATE_BLOCK, FATES, HEADER, blocks, pack


def fates(rows: int) -> bytes:
    columns = {name: (np.arange(rows) + i).astype(kind) for i, (name, kind) in enumerate(FATES.items())}
    return b"".join(pack(FATE_BLOCK, columns))


def test_what_is_packed_is_read() -> None:
    found = list(blocks(fates(5) + fates(0) + b"".join(pack(END_BLOCK, {}))))
    assert [(block.kind, block.rows) for block in found] == [(FATE_BLOCK, 5), (FATE_BLOCK, 0), (END_BLOCK, 0)]
    expected = {name: list(range(i, i + 5)) for i, name in enumerate(FATES)}
    assert {name: column.tolist() for name, column in found[0].columns.items()} == expected


def test_a_torn_or_foreign_end_ends_it() -> None:
    whole = fates(5)
    for cut in range(len(whole)):
        assert [b.rows for b in blocks(whole + whole[:cut])] == [5]
    assert [b.rows for b in blocks(whole + bytes(HEADER.itemsize) + whole)] == [5]
    assert list(blocks(b"")) == []
