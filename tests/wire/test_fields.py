from __future__ import annotations

import numpy as np
import pytest

from probe.wire import layout
from probe.wire.fields import offset, reader, run

UDP_REPLY = ("checksum", "stamp_seq", "stamp_time", "error_estimate")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", ["udp", "udp_sender", "tcp"])
def test_what_is_read_is_what_an_array_holds(name, family):
    frame = np.random.default_rng(1).integers(0, 256, 200, np.uint8)
    record = layout.records(frame[np.newaxis], name, family)[0]
    wanted = ("ttl", "src", "sport", "dport", "checksum", "session", "sequence", "comp", "boot", "seen_ttl")
    places = sorted(wanted, key=lambda field: offset(name, family, field))
    read = reader(name, family, *places).unpack_from(frame.tobytes())
    expected = [record[field].tobytes() if field == "src" else int(record[field]) for field in places]
    assert list(read) == expected


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_written_stands_where_an_array_looks_for_it(family):
    frame = bytearray(b"\xee" * 200)
    run("udp", family, *UDP_REPLY).write(frame, 1, 2, 3, 4)
    record = layout.records(np.frombuffer(frame, np.uint8)[np.newaxis], "udp", family)[0]
    assert [int(record[field]) for field in UDP_REPLY] == [1, 2, 3, 4]
    assert frame.count(b"\xee") == 200 - 16  # nothing beside it


@pytest.mark.parametrize("fields", [("stamp_seq", "error_estimate"), ("stamp_time", "stamp_seq")])
def test_only_neighbours_can_be_written(fields):
    """`struct` would write zeros between them."""
    with pytest.raises(ValueError, match=r"side by side|stands before"):
        run("udp", 4, *fields)
