from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from probe.border import MAX_MESSAGE, Channel, SharedState
from probe.core.fate import COLUMN, COLUMNS
from probe.core.histogram import BINS


@pytest.fixture
def shared() -> Iterator[SharedState]:
    state = SharedState.create(3)
    yield state
    state.close()


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channels = Channel(a), Channel(b)
    yield channels
    for channel in channels:
        channel.close()


def row(**counts: int) -> np.ndarray:
    values = np.zeros(COLUMNS, np.int64)
    for name, count in counts.items():
        values[COLUMN[name]] = count
    return values


# --- counters ------------------------------------------------------------------------------------------------------


def test_both_sides_see_the_same_memory(shared):
    other = SharedState(shared.fd, 3)
    shared.live[1] = row(scheduled=5, sent=5, received=5)
    shared.histogram[2, 7] = 9
    shared.flows["state"][0] = 4
    shared.header["ring_drops"] = 11
    settled = np.zeros((3, COLUMNS), np.int64)
    settled[1] = row(scheduled=4, sent=4, received=4)
    shared.publish(1234, settled)
    seen = other.read()
    assert (seen.settled_to, seen.generation) == (1234, 2)
    assert (seen.settled == settled).all() and (seen.live == shared.live).all()
    assert seen.histogram[2, 7] == 9 and seen.flows["state"][0] == 4 and seen.header["ring_drops"] == 11


def test_sizes(shared):
    assert shared.live.shape == shared.settled.shape == (3, COLUMNS)
    assert shared.histogram.shape == (3, BINS) and shared.flows.shape == (3,)


def test_a_reading_is_a_copy(shared):
    before = shared.read()
    shared.live[:] = 7
    shared.publish(9, np.full((3, COLUMNS), 9))
    assert not before.live.any() and not before.settled.any() and before.settled_to == 0


def test_a_reading_never_mixes_two_instants():
    state = SharedState.create(64)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            state.publish(number, np.full((64, COLUMNS), number))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            seen = state.read()
            assert (seen.settled == seen.settled_to).all() and seen.generation == 2 * seen.settled_to
    finally:
        stop.set()
        writer.join()
        state.close()


def test_a_writer_that_died_half_way_does_not_hold_the_reader_up_for_long(shared):
    shared.header["generation"] += 1  # killed between the two steps of `publish`
    shared.settled[:] = 5
    seen = shared.read()
    shared.settled[:] = 6
    assert not (seen.settled == 6).any(), "still a copy"


def test_live_counts_are_read_again_while_they_break_a_law(shared):
    """The engine adds to one column after the other; a reader may come in between."""
    shared.live[0] = row(scheduled=10, sent=10, received=9)
    shared.live[1] = row(scheduled=12, sent=11)  # one slot is counted as scheduled, and as nothing else yet

    def finish() -> None:
        shared.live[1, COLUMN["sent"]] = 12

    timer = threading.Timer(0.001, finish)
    timer.start()
    seen = shared.read()
    timer.join()
    assert seen.live[1, COLUMN["sent"]] == 12


def test_closing_twice(shared):
    shared.close()
    shared.close()


# --- messages ------------------------------------------------------------------------------------------------------


def test_messages_arrive_in_order(ends):
    a, b = ends
    for n in range(50):
        a.send({"n": n, "text": "ümlaut"})
    assert [m["n"] for m in b.receive()] == list(range(50))
    assert list(b.receive()) == []


def test_sending_never_blocks_and_nothing_is_lost(ends):
    a, b = ends
    sent = 5000
    for n in range(sent):
        a.send({"n": n, "pad": "x" * 500})
    assert not a.flush()
    got = []
    while len(got) < sent:
        got += [m["n"] for m in b.receive()]
        a.flush()
    assert got == list(range(sent)) and a.flush()


def test_the_longest_message_fits_and_a_longer_one_is_refused(ends):
    a, b = ends
    room = MAX_MESSAGE - len(json.dumps({"x": ""}, separators=(",", ":")))
    a.send({"x": "y" * room})
    [message] = b.receive()
    assert len(message["x"]) == room
    with pytest.raises(ValueError, match=f"at most {MAX_MESSAGE}"):
        a.send({"x": "y" * (room + 1)})
    a.send({"still": "open"})
    assert list(b.receive()) == [{"still": "open"}]


def test_the_other_side_s_end_is_noticed(ends):
    a, b = ends
    a.send({"last": "words"})
    a.close()
    assert list(b.receive()) == [{"last": "words"}] and b.closed
    b.send({"to": "nobody"})
    assert b.closed and b.flush()


def test_a_step_of_the_wall_clock_shows_and_the_noise_of_two_readings_does_not() -> None:
    shared = SharedState.create(1)
    try:
        shared.header["wall_anchor"] = 1_700_000_000 * 10**9
        assert shared.clock_step_ns() == 0, "not read again yet"
        for step, told in ((0, 0), (900_000, 0), (-900_000, 0), (-2_000_000, -2_000_000), (8 * 10**9, 8 * 10**9)):
            shared.header["wall_offset"] = 1_700_000_000 * 10**9 + step
            assert shared.clock_step_ns() == told
    finally:
        shared.close()
