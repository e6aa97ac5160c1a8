"""What became of a probe, one octet each, and what a fate means for each direction.

PENDING ──► RECEIVED | LATE | LOST | DROPPED       at the loss threshold, or when the reply comes
LOST    ──► LATE                                   a reply after the threshold corrects the record
LOST    ──► LOST_FORWARD | LOST_REVERSE            once the reflector has told which probes it received
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from probe.core.events import COUNT_NAMES, Direction, ProbeFate

EMPTY: Final = 0
PENDING: Final = 1
RECEIVED: Final = 2
LATE: Final = 3
LOST: Final = 4  # direction unknown
LOST_FORWARD: Final = 5
LOST_REVERSE: Final = 6
DROPPED: Final = 7  # our own receive ring or interface had no room for the reply

OK, GONE, MUTE = 0, 1, 2  # what a probe says about one direction: passed, lost there, nothing

_MEANING: dict[Direction, dict[int, int]] = {
    "round_trip": {RECEIVED: OK, LATE: OK, LOST: GONE},
    # A probe whose reply died on the way back did get through on the way out.
    "forward": {RECEIVED: OK, LATE: OK, LOST_REVERSE: OK, LOST_FORWARD: GONE},
    # A probe that never arrived says nothing about the way back.
    "reverse": {RECEIVED: OK, LATE: OK, LOST_REVERSE: GONE},
}


def _table(meaning: dict[int, int]) -> npt.NDArray[np.uint8]:
    table = np.full(8, MUTE, np.uint8)
    for fate, said in meaning.items():
        table[fate] = said
    return table


MEANING: dict[Direction, npt.NDArray[np.uint8]] = {d: _table(m) for d, m in _MEANING.items()}
DIRECTION_FATE: dict[Direction, int] = {"round_trip": LOST, "forward": LOST_FORWARD, "reverse": LOST_REVERSE}

COLUMN: dict[str, int] = {name: index for index, name in enumerate(COUNT_NAMES)}
COLUMNS = len(COUNT_NAMES)

# Which count a settled fate belongs to; every LOST_* counts in `lost` as well.
FATE_COLUMN: dict[int, str] = {
    RECEIVED: "received",
    LATE: "late",
    LOST: "lost_unattributed",
    LOST_FORWARD: "lost_forward",
    LOST_REVERSE: "lost_reverse",
    DROPPED: "dropped_locally",
}
LOST_FATES = (LOST, LOST_FORWARD, LOST_REVERSE)
# As records of single probes call them (core/events.py, `ProbeRecord`).
FATE_WORD: dict[int, ProbeFate] = {
    PENDING: "pending",
    RECEIVED: "received",
    LATE: "late",
    LOST: "lost",
    LOST_FORWARD: "lost_forward",
    LOST_REVERSE: "lost_reverse",
    DROPPED: "dropped_locally",
}
IS_LOST = np.isin(np.arange(8), LOST_FATES)
