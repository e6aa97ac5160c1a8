from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.core.sequence import unwrap_below, unwrap_near


@pytest.mark.parametrize(
    ("wire", "following", "expected"),
    [
        (0, 1, 0),
        (0xFFFF, 0x10000, 0xFFFF),
        (0, 0x10001, 0x10000),
        (0xFFFF, 0x10001, 0xFFFF),  # the one before the wrap is newer than any future one
        (5, 5, 5 - 0x10000),  # has not been sent: negative
        (7, 0, 7 - 0x10000),
    ],
)
def test_the_newest_that_can_have_been_sent(wire, following, expected):
    assert unwrap_below(np.array([wire]), np.array([following]), 16).tolist() == [expected]


@pytest.mark.parametrize("bits", [16, 32])
@given(following=st.integers(1, 1 << 48), back=st.integers(1, 1 << 15))
def test_any_of_the_last_probes_is_told_by_its_low_bits(bits, following, back):
    sequence = max(0, following - back)
    wire = np.array([sequence & ((1 << bits) - 1)])
    assert unwrap_below(wire, np.array([following]), bits).tolist() == [sequence]


@given(near=st.integers(0, 1 << 48), distance=st.integers(-(1 << 31), (1 << 31) - 1))
def test_serial_arithmetic(near, distance):
    # RFC 1982, section 3.2: less than half the number space apart, the order is defined.
    assert unwrap_near((near + distance) & 0xFFFFFFFF, near) == near + distance


def test_near_works_for_other_widths():
    assert unwrap_near(0x0002, 0x2FFFF, bits=16) == 0x30002
    assert unwrap_near(0xFFFE, 0x30001, bits=16) == 0x2FFFE
