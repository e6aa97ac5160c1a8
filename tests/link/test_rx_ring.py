from __future__ import annotations

from contextlib import closing

import pytest

from probe.errors import HaprobeError
from probe.link import abi
from probe.link.rx_ring import FEW, RxRing
from probe.link.tx_ring import TxRing

from .frames import FILTER, numbers, receive, send, send_all, template
from .netns import wait_for

pytestmark = pytest.mark.netns


def open_rings(wire, *, slots: int):
    a, b = wire
    with a.inside():
        tx = TxRing(a.ifindex, slots=512)
    with b.inside():
        rx = RxRing(b.ifindex, FILTER, slots=slots)
    return tx, rx


def test_overflow_is_counted_exactly_and_the_rest_is_kept(wire):
    tx, rx = open_rings(wire, slots=64)
    with closing(tx), closing(rx):
        assert rx.slots == 64
        send_all(tx, template(*wire), range(200))
        drops = 0

        def all_accounted() -> bool:
            nonlocal drops
            drops += rx.drops()
            return drops == 136

        wait_for(all_accounted)
        assert receive(rx, 64) == list(range(64))
        send_all(tx, template(*wire), range(200, 210))
        assert receive(rx, 10) == list(range(200, 210))
        assert rx.drops() == 0


def test_a_batch_is_bounded_and_ends_with_the_ring(wire):
    tx, rx = open_rings(wire, slots=64)
    with closing(tx), closing(rx):
        send_all(tx, template(*wire), range(60))
        assert receive(rx, 60) == list(range(60))
        send_all(tx, template(*wire), range(60, 80))
        wait_for(lambda: rx._status[15] & 1)
        assert numbers(rx.take(3)) == [60, 61, 62]
        assert numbers(rx.take()) == [63]
        assert numbers(rx.take()) == list(range(64, 80))
        assert numbers(rx.take()) == []


@pytest.mark.parametrize("count", [1, 2, FEW - 1, FEW, FEW + 1, 40])
def test_few_and_many_that_wait_are_all_taken(wire, count):
    tx, rx = open_rings(wire, slots=64)
    with closing(tx), closing(rx):
        for start in range(0, 4 * count, count):  # beyond the ring's end
            send_all(tx, template(*wire), range(start, start + count))
            last = (rx._head + count - 1) % rx.slots
            wait_for(lambda last=last: rx._status[last] & 1)
            first = min(count, rx.slots - rx._head)
            assert numbers(rx.take()) == list(range(start, start + first))
            assert numbers(rx.take()) == list(range(start + first, start + count))


def test_unexpected_layout_is_refused(wire, monkeypatch):
    tx, rx = open_rings(wire, slots=64)
    monkeypatch.setattr(abi, "V2_NET_AT", 84)
    with closing(tx), closing(rx):
        send(tx, template(*wire), range(1))
        with pytest.raises(HaprobeError, match="network header at 80 of a slot, expected 84"):
            wait_for(lambda: len(rx.take().stamps_ns))
