"""From the 16- or 32-bit numbers on the wire to 64-bit sequences (serial arithmetic, RFC 1982)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def unwrap_below(wire: npt.NDArray[np.int64], following: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.int64]:
    """The newest sequence below `following` whose low `bits` bits are `wire`.

    Right as long as fewer than 2^bits probes were sent since. Negative when no probe can have had that number.

    Args:
        wire: Numbers as received; int64 holding `bits`-bit values, shape (n,).
        following: The next sequence each flow will send; int64, shape (n,) or scalar.
        bits: 16 or 32.
    """
    span = 1 << bits
    return following - 1 - ((following - 1 - wire) & (span - 1))


def unwrap_near(wire: int, near: int, bits: int = 32) -> int:
    """The sequence nearest to `near` whose low `bits` bits are `wire`."""
    span = 1 << bits
    distance = (wire - near) & (span - 1)
    return near + (distance - span if distance >= span // 2 else distance)
