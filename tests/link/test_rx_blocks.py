from __future__ import annotations

from contextlib import closing

import pytest

from probe.errors import HaprobeError
from probe.link import abi
from probe.link.rx_blocks import RxBlocks
from probe.link.tx_ring import TxRing

from .frames import FILTER, numbers, receive, send, send_all, sequences, template
from .netns import wait_for

pytestmark = pytest.mark.netns


def open_rings(wire, *, blocks: int = 256):
    a, b = wire
    with a.inside():
        tx = TxRing(a.ifindex, slots=512)
    with b.inside():
        rx = RxBlocks(b.ifindex, FILTER, blocks=blocks)
    return tx, rx


def test_overflow_is_counted_exactly_and_the_rest_is_kept(wire):
    tx, rx = open_rings(wire, blocks=2)
    with closing(tx), closing(rx):
        sent, drops = 0, 0
        while not drops:  # until both blocks are full
            send_all(tx, template(*wire), range(sent, sent + 100))
            sent += 100
            drops += rx.drops()
        got: list[int] = []

        def all_accounted() -> bool:
            nonlocal drops
            got.extend(sequences(rx))
            drops += rx.drops()
            return len(got) + drops == sent

        wait_for(all_accounted)
        assert got == list(range(len(got)))
        send_all(tx, template(*wire), range(1000, 1010))
        assert receive(rx, 10) == list(range(1000, 1010))
        assert rx.drops() == 0


def test_a_batch_is_whole_blocks_and_bounded(wire):
    tx, rx = open_rings(wire, blocks=64)
    with closing(tx), closing(rx):
        send_all(tx, template(*wire), range(1000))
        batches: list[list[int]] = []

        def all_came() -> bool:
            if new := numbers(rx.take(300)):
                batches.append(new)
            return sum(map(len, batches)) == 1000

        wait_for(all_came)
        assert [n for batch in batches for n in batch] == list(range(1000))
        assert max(map(len, batches)) <= 300


def test_it_goes_round(wire):
    tx, rx = open_rings(wire, blocks=4)
    with closing(tx), closing(rx):
        for start in range(0, 2000, 50):
            send_all(tx, template(*wire), range(start, start + 50))
            assert receive(rx, 50) == list(range(start, start + 50))
        assert rx.drops() == 0


def test_unexpected_layout_is_refused(wire, monkeypatch):
    tx, rx = open_rings(wire)
    monkeypatch.setattr(abi, "V3_NET_AT", 84)
    with closing(tx), closing(rx):
        send(tx, template(*wire), range(1))
        with pytest.raises(HaprobeError, match="network header at 96 of a frame, expected 84"):
            wait_for(lambda: len(rx.take().stamps_ns))


@pytest.mark.parametrize(("blocks", "octets"), [(1, 4096), (4, 4000), (4, 12288)])
def test_a_ring_that_cannot_be(blocks, octets):
    with pytest.raises(ValueError, match="a power of two of whole pages"):
        RxBlocks(1, FILTER, blocks=blocks, block_octets=octets)
