"""The Internet checksum (RFC 1071) as arithmetic modulo 65535.

A one's complement sum of 16-bit words is the sum modulo 0xFFFF, and 2^16 is 1 in that ring. So a field of any
width that starts at an even offset adds just its value modulo 65535: no field is ever split into words. That
makes a *compensator* cheap: a 16-bit word of payload chosen so that the checksum of a packet stays the same
whatever its sequence and time are, which keeps ICMP flows on one path through per-flow balancers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MODULUS = 0xFFFF


def word_sum(data: bytes | bytearray) -> int:
    """Sum of the big-endian 16-bit words of `data`, modulo 65535; an odd last octet is padded with zero."""
    return (int.from_bytes(data, "big") << len(data) % 2 * 8) % MODULUS


def complement(total: int) -> int:
    """The word that brings `total` to a multiple of 65535; 1..65535, so never UDP's "no checksum"."""
    return MODULUS - total % MODULUS


def complements(total: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
    """`complement` of each element."""
    return (np.uint64(MODULUS) - total % np.uint64(MODULUS)).astype(np.uint16)


def pseudo_header_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """Word sum of the IPv4 or IPv6 pseudo-header (RFC 768, RFC 8200 section 8.1)."""
    return (word_sum(source) + word_sum(destination) + protocol + length) % MODULUS


def row_sums(frames: npt.NDArray[np.uint8], first: int, last: int) -> npt.NDArray[np.uint64]:
    """Word sums of octets [first, last) of each row, modulo 65535.

    Args:
        frames: One frame a row; uint8, shape (n, at least last). Rows need not be adjacent in memory.
        first: Even or odd; counted from the row's start.
        last: One past the last octet; less than a GiB behind `first`.

    Returns:
        uint64, shape (n,).
    """
    whole = (last - first) // 4
    middle = first + 4 * whole
    # 32-bit words, as 2^16 is 1 here; summed by a product with ones, the fastest sum of short rows that numpy has.
    # Doubles hold such sums exactly.
    words = frames[:, first:middle].view(np.uint32).astype(np.float64)
    total: npt.NDArray[np.uint64] = (words @ np.ones(whole)).astype(np.uint64)
    if last - middle >= 2:
        total += frames[:, middle : middle + 2].view(np.uint16)[:, 0]
    if (last - first) % 2:
        odd = frames[:, last - 1].astype(np.uint64)
        total += odd if np.little_endian else odd << np.uint64(8)
    total %= np.uint64(MODULUS)
    # The sum commutes with swapping octets (RFC 1071, section 2): add words as they lie and swap once.
    if np.little_endian:
        total = ((total & np.uint64(0xFF)) << np.uint64(8)) | (total >> np.uint64(8))
    return total
