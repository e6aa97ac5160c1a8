from __future__ import annotations

import numpy as np

from probe.core import fate
from probe.core.events import Counts

NAMES = {
    fate.EMPTY: "empty",
    fate.PENDING: "pending",
    fate.RECEIVED: "received",
    fate.LATE: "late",
    fate.LOST: "lost",
    fate.LOST_FORWARD: "forward",
    fate.LOST_REVERSE: "reverse",
    fate.DROPPED: "dropped",
}


def says(direction: str) -> tuple[set[str], set[str]]:
    table = fate.MEANING[direction]
    passed = {name for number, name in NAMES.items() if table[number] == fate.OK}
    gone = {name for number, name in NAMES.items() if table[number] == fate.GONE}
    return passed, gone


def test_what_a_fate_says_of_each_direction():
    assert says("round_trip") == ({"received", "late"}, {"lost"})
    # A reply that died on the way back was an arrival first; a probe that never arrived tells nothing of the way back.
    assert says("forward") == ({"received", "late", "reverse"}, {"forward"})
    assert says("reverse") == ({"received", "late"}, {"reverse"})


def test_a_lost_probe_is_gone_in_one_direction_only():
    for number in fate.LOST_FATES:
        gone = [d for d in fate.MEANING if fate.MEANING[d][number] == fate.GONE]
        assert gone == [d for d, f in fate.DIRECTION_FATE.items() if f == number]


def test_every_fate_that_settles_has_a_count():
    assert set(fate.FATE_COLUMN) == set(NAMES) - {fate.EMPTY, fate.PENDING}
    assert all(hasattr(Counts(), name) for name in fate.FATE_COLUMN.values())
    assert np.flatnonzero(fate.IS_LOST).tolist() == sorted(fate.LOST_FATES)


def test_what_we_dropped_is_in_no_outage():
    assert all(table[fate.DROPPED] == fate.MUTE for table in fate.MEANING.values())
