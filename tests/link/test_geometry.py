from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.link.geometry import FRAME_SIZE_MAX, RingGeometry, ring_geometry


@pytest.mark.parametrize(
    ("slots", "octets", "header", "page", "expected"),
    [
        # a minimal probe to send: 96 + 32 octets fill a frame of 128
        (64, 96, 32, 4096, RingGeometry(128, 64, 4096, 2)),
        (64, 97, 32, 4096, RingGeometry(256, 64, 4096, 4)),
        # received: 66 octets come first
        (8192, 190, 66, 4096, RingGeometry(256, 8192, 4096, 512)),
        # a full Ethernet frame; a jumbo frame needs blocks larger than a page
        (4, 1514, 32, 4096, RingGeometry(2048, 4, 4096, 2)),
        (3, 9015, 32, 4096, RingGeometry(16384, 3, 16384, 3)),
        # pages of 64 KiB (some aarch64 kernels): the count is rounded up to fill one
        (100, 190, 66, 65536, RingGeometry(256, 256, 65536, 1, 65536)),
    ],
)
def test_rings(slots, octets, header, page, expected):
    geometry = ring_geometry(slots, octets, header_octets=header, page_size=page)
    assert (geometry.frame_size, geometry.frame_nr, geometry.block_size, geometry.block_nr) == (
        expected.frame_size,
        expected.frame_nr,
        expected.block_size,
        expected.block_nr,
    )


@given(
    slots=st.integers(1, 20000),
    octets=st.integers(1, FRAME_SIZE_MAX - 66),
    page=st.sampled_from([4096, 16384, 65536]),
)
def test_every_ring_obeys_the_kernel(slots, octets, page):
    ring = ring_geometry(slots, octets, header_octets=66, page_size=page)
    assert ring.frame_nr >= slots
    assert ring.frame_size >= octets + 66
    assert ring.block_size % page == 0
    assert ring.frame_nr == ring.block_size // ring.frame_size * ring.block_nr
    # the kernel's formula for where a frame sits agrees with ours: no holes
    last = ring.frame_nr - 1
    per_block = ring.block_size // ring.frame_size
    assert ring.offset(last) == last // per_block * ring.block_size + last % per_block * ring.frame_size
    assert ring.offset(last) + ring.frame_size == ring.octets


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ((96, 1, 4096, 1), "frame size 96"),
        ((384, 10, 4096, 1), "frame size 384"),
        ((32768, 1, 32768, 1), "frame size 32768"),
        ((256, 8, 2048, 1), "page size"),
        ((16384, 1, 4096, 4), "multiple of the frame size"),
        ((256, 17, 4096, 1), "do not fill"),
        ((256, 0, 4096, 0), "0 frames"),
    ],
)
def test_unsound_numbers(numbers, complaint):
    with pytest.raises(ValueError, match=complaint):
        RingGeometry(*numbers, page_size=4096)


def test_too_long_a_frame():
    with pytest.raises(ValueError, match="at most 16318"):
        ring_geometry(10, 16384 - 65, header_octets=66)
