from __future__ import annotations

import numpy as np
import pytest

from probe.clock import ManualClock
from probe.link.base import FrameReceiver, FrameSender
from probe.link.memory import MemoryLink, Script

from .frames import numbers

FRAME = np.dtype([("eth", "V14"), ("seq", ">u4")])


def send(sender: FrameSender, sequences: list[int]):
    first, count = sender.free(len(sequences))
    assert count == len(sequences)
    sender.view(FRAME)["seq"][first : first + count] = sequences
    return sender.send(count, np.full(count, FRAME.itemsize, np.int32))


def receive(receiver: FrameReceiver) -> list[tuple[int, int]]:
    """(sequence, stamp) of all that is there."""
    got = []
    while len((frames := receiver.take()).stamps_ns):
        assert (frames.kept == FRAME.itemsize).all()
        got += list(zip(numbers(frames, FRAME), frames.stamps_ns.tolist(), strict=True))
    return got


def test_frames_arrive_when_their_time_has_come():
    clock = ManualClock()
    link = MemoryLink(clock, Script(latency_ns=1_000))
    sent_wall = clock.wall_ns()
    assert send(link.sender, [1, 2]).error == ""
    assert receive(link.receiver) == []
    clock.advance(5_000)
    assert receive(link.receiver) == [(1, sent_wall + 1_000), (2, sent_wall + 1_000)]


def test_script_drops_delays_and_duplicates():
    clock = ManualClock()
    link = MemoryLink(clock, Script(drop={1}, delay_ns={0: 100}, duplicate={3}))
    send(link.sender, [10, 11, 12, 13])
    assert [seq for seq, _ in receive(link.receiver)] == [12, 13, 13]
    clock.advance(100)
    assert [seq for seq, _ in receive(link.receiver)] == [10]


def test_indices_count_frames_sent_since_the_start():
    link = MemoryLink(ManualClock(), Script(drop={2}))
    send(link.sender, [0, 1])
    send(link.sender, [2, 3])
    assert [seq for seq, _ in receive(link.receiver)] == [0, 1, 3]


def test_a_batch_fails_half_way():
    link = MemoryLink(ManualClock())
    link.sender.fail_next(2, "link_down")
    result = send(link.sender, [1, 2, 3])
    assert (result.sent, result.error) == (2, "link_down")
    assert send(link.sender, [4]).error == ""
    assert [seq for seq, _ in receive(link.receiver)] == [1, 2, 4]


def test_overflow_is_counted_once():
    link = MemoryLink(ManualClock(), slots=4)
    for sequence in range(6):
        send(link.sender, [sequence])
        waiting = link.receiver.take(0)
        assert not len(waiting.stamps_ns)
    assert link.receiver.drops() == 2
    assert link.receiver.drops() == 0
    assert [seq for seq, _ in receive(link.receiver)] == [0, 1, 2, 3]


def test_runs_of_slots_do_not_wrap():
    link = MemoryLink(ManualClock(), slots=4)
    send(link.sender, [1, 2, 3])
    assert len(receive(link.receiver)) == 3
    assert link.sender.free(4) == (3, 1)
    send(link.sender, [4])
    assert link.sender.free(9) == (0, 4)
    send(link.sender, [5])
    assert numbers(link.receiver.take(1), FRAME) == [4]
    assert [seq for seq, _ in receive(link.receiver)] == [5]


def test_layout_must_fit():
    link = MemoryLink(ManualClock(), slot_octets=64)
    with pytest.raises(ValueError, match="65 octets in slots of 64"):
        link.sender.view("V65")
