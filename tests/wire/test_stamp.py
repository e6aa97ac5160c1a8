"""STAMP numbers, against RFC 8762, RFC 8972, RFC 4656 and RFC 5905."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.wire.stamp import error_estimate, load_key, ntp_from_unix_ns, ntp_time, sign, unix_ns_from_ntp

NS = 1_000_000_000
ERA_1 = 2_085_978_496  # 2036-02-07 06:28:16 UTC


def one(unix_ns: int) -> int:
    return int(ntp_from_unix_ns(np.array([unix_ns], np.int64))[0])


def back(stamp: int, near_s: int) -> int:
    return int(unix_ns_from_ntp(np.array([stamp], np.uint64), near_s)[0])


@pytest.mark.parametrize(
    ("unix_ns", "stamp"),
    [
        (0, 0x83AA7E80_00000000),  # RFC 5905, figure 4: 1 January 1970 is 2,208,988,800 s into era 0
        (946_684_800 * NS, 0xBC17C200_00000000),  # 1 January 2000
        (NS // 2, 0x83AA7E80_80000000),
        (1, 0x83AA7E80_00000005),  # 4.29 units of 2^-32 s, rounded up
        (NS - 1, 0x83AA7E80_FFFFFFFC),
        (ERA_1 * NS, 0),  # the first second of era 1
        ((ERA_1 - 1) * NS, 0xFFFFFFFF_00000000),
    ],
)
def test_known_instants(unix_ns, stamp):
    assert one(unix_ns) == ntp_time(unix_ns) == stamp
    assert back(stamp, unix_ns // NS) == unix_ns


@given(st.integers(0, 8_000_000_000 * NS))
def test_one_instant_is_as_many(unix_ns):
    assert ntp_time(unix_ns) == one(unix_ns)


@given(st.integers(0, 4_000_000_000 * NS), st.integers(-60, 60) | st.integers(-(10**9), 10**9))
def test_a_nanosecond_survives_the_way_there_and_back(unix_ns, off_s):
    # Whatever our own clock says meanwhile, as long as it is less than 68 years off: also across the change of era.
    assert back(one(unix_ns), unix_ns // NS + off_s) == unix_ns


@pytest.mark.parametrize(
    ("max_error_ns", "encoded"),
    [
        (1_000, 0x8587),
        (10_000, 0x88A8),
        (100_000, 0x8BD2),
        (1_000_000, 0x8F84),
    ],
)
def test_error_estimates(max_error_ns, encoded):
    # S = 1, Z = 0; Multiplier * 2^(Scale - 32) seconds (RFC 4656, section 4.1.2).
    assert error_estimate(max_error_ns, synchronised=True) == encoded


@given(st.integers(0, 10**15))
def test_an_error_estimate_is_never_too_small_and_hardly_too_large(max_error_ns):
    encoded = error_estimate(max_error_ns, synchronised=True)
    assert encoded & 0x8000 and not encoded & 0x4000
    multiplier, scale = encoded & 0xFF, encoded >> 8 & 0x3F
    assert multiplier, "illegal: RFC 4656, section 4.1.2"
    seconds = multiplier * 2.0 ** (scale - 32)
    assert max_error_ns / NS * (1 - 1e-9) <= seconds <= max_error_ns / NS * (1 + 1 / 64) + 2.0**-32


def test_a_clock_that_is_not_synchronised_says_so():
    # 16 s, the kernel's limit for an error that nobody bounds: 128 * 2^(29 - 32).
    assert error_estimate(16_000_000_000, synchronised=False) == 29 << 8 | 128


def test_the_hmac_is_the_first_half_of_sha_256():
    # RFC 8762, section 4.4: HMAC-SHA-256 truncated to 128 bits.
    signed = bytes(range(96))
    assert sign(b"k" * 16, signed) == hmac.new(b"k" * 16, signed, hashlib.sha256).digest()[:16]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_key_file_may_end_in_a_line_end(end):
    assert load_key(b"0123456789abcdef" + end) == b"0123456789abcdef"


def test_a_short_key_is_refused():
    with pytest.raises(ValueError, match="at least 16"):
        load_key(b"short\n")
