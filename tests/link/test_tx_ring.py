from __future__ import annotations

import itertools
import time
from contextlib import closing

import numpy as np
import pytest

from probe.errors import PeerError
from probe.link.rx_ring import RxRing
from probe.link.tx_ring import BLIND_NS, CLOSING_NS, TxRing

from .frames import (
    FILTER,
    FRAME,
    OCTETS,
    nothing_stale_leaves,
    receive,
    send,
    send_all,
    sequences,
    taken,
    template,
    write,
)
from .netns import End, inside, wait_for

pytestmark = pytest.mark.netns


@pytest.fixture
def ends(wire):
    """A sender at one end of a wire, a receiver at the other, and the frame to send."""
    a, b = wire
    with a.inside():
        tx = TxRing(a.ifindex, slots=256, slot_octets=86)
    with b.inside():
        rx = RxRing(b.ifindex, FILTER)
    with closing(tx), closing(rx):
        yield tx, rx, template(a, b)


def test_ten_thousand_frames_arrive_in_order(ends):
    tx, rx, frame = ends
    got: list[int] = []
    for start in range(0, 10_000, 500):
        send_all(tx, frame, range(start, start + 500))
        got += sequences(rx)
    got += receive(rx, 10_000 - len(got)) if len(got) < 10_000 else []
    assert got == list(range(10_000))
    assert rx.drops() == 0


def test_octets_arrive_as_written(ends):
    tx, rx, frame = ends
    send(tx, frame, range(77, 78))
    frames = taken(rx, 1)
    assert frames.kept.tolist() == [OCTETS]
    assert frames.octets[0, :OCTETS].tobytes() == frame[:-8] + (77).to_bytes(8, "big")


def test_batches_of_one_go_round_the_ring(ends):
    tx, rx, frame = ends
    for sequence in range(3 * tx.slots):
        send(tx, frame, range(sequence, sequence + 1))
    assert receive(rx, 3 * tx.slots) == list(range(3 * tx.slots))


def test_one_by_one_without_a_batch(ends):
    tx, rx, frame = ends
    for sequence in range(tx.slots + 5):
        wait_for(lambda: tx.free(1)[1])
        write(tx, frame, range(sequence, sequence + 1))
        assert tx.send_one(len(frame))[2] == ""
    assert receive(rx, tx.slots + 5) == list(range(tx.slots + 5))


def test_a_batch_in_several_calls_each_with_its_times(ends):
    tx, rx, frame = ends
    count = write(tx, frame, range(100))
    result = tx.send(count, np.full(count, len(frame), np.int32), together=16)
    assert (result.sent, result.error) == (100, "")
    assert [call[0] for call in result.calls] == [16] * 6 + [4]
    times = [at for call in result.calls for at in call[1:3]]
    assert times == sorted(times)
    assert receive(rx, 100) == list(range(100))


def test_a_refusal_in_a_later_call_ends_the_batch(ends, wire):
    tx, rx, frame = ends
    wire[0].run("nft", "add table netdev t; add chain netdev t c { type filter hook egress device veth0 priority 0; }")
    wire[0].run("nft", "add rule netdev t c @th,96,32 21 drop")  # low half of the sequence
    count = write(tx, frame, range(40))
    result = tx.send(count, np.full(count, len(frame), np.int32), together=16)
    assert (result.sent, result.error, [call[0] for call in result.calls]) == (21, "send_error", [16, 5])
    wire[0].run("nft", "delete table netdev t")
    send(tx, frame, range(50, 52))
    assert receive(rx, 23) == [*range(21), 50, 51]


def test_one_that_is_refused_never_leaves(ends, wire):
    tx, rx, frame = ends
    wire[0].ip("link", "set", "veth0", "mtu", "68")
    write(tx, frame + bytes(36), range(1))
    assert tx.send_one(86)[2] == "send_error"
    write(tx, frame, range(7, 8))
    before_ns = time.monotonic_ns()
    at_ns, after_ns, error = tx.send_one(len(frame))
    assert error == "" and before_ns <= at_ns <= after_ns <= time.monotonic_ns()
    assert receive(rx, 1) == [7]


def test_a_run_of_free_slots_ends_at_the_end_of_the_ring(ends):
    tx, rx, frame = ends
    send_all(tx, frame, range(tx.slots - 10))
    receive(rx, tx.slots - 10)
    assert tx.free(64) == (tx.slots - 10, 10)
    send(tx, frame, range(10))
    assert tx.free(64)[0] == 0


@pytest.mark.parametrize("who", ["own", "peer"])
def test_link_down_nothing_stale_leaves_later(ends, wire, who):
    tx, rx, frame = ends
    assert tx.blind_ns == CLOSING_NS
    nothing_stale_leaves(tx, rx, frame, wire, who)
    send(tx, frame, range(310, 311))
    assert receive(rx, 1) == [310]


def test_a_link_that_was_down_unnoticed_costs_nothing(ends, wire):
    """Between two batches the link went down and came back: the kernel tells the socket so, late."""
    tx, rx, frame = ends
    send(tx, frame, range(5))
    wire[0].set_link("down")
    wire[0].set_link("up")
    wait_for(lambda: "LOWER_UP" in wire[0].ip("link", "show", "veth0"))
    result = send(tx, frame, range(5, 10))
    assert (result.sent, result.error) == (5, "")
    assert receive(rx, 10) == list(range(10))


def test_link_going_down_under_load_sent_is_exact(ends, wire):
    """Whatever instant the link goes down at, `sent` is a prefix and nothing else ever arrives."""
    tx, rx, frame = ends
    left: list[int] = []
    errors: list[str] = []
    numbers = itertools.count(step=64)

    def burst() -> str:
        wait_for(lambda: tx.free(1)[1])
        start = next(numbers)
        count = write(tx, frame, range(start, start + 64))
        result = tx.send(count, np.full(count, len(frame), np.int32))
        left.extend(range(start, start + result.sent))
        errors.append(result.error)
        return result.error

    for _ in range(3):
        assert [burst() for _ in range(5)] == [""] * 5
        down = wire[0].ip_later("link", "set", "veth0", "down")
        wait_for(lambda: burst() == "link_down")
        assert down.wait() == 0
        wire[0].set_link("up")
        wait_for(lambda: "LOWER_UP" in wire[0].ip("link", "show", "veth0"))
    assert [burst() for _ in range(3)] == [""] * 3
    assert set(errors) == {"", "link_down"}
    assert receive(rx, len(left)) == left
    assert sequences(rx) == []


def test_a_refusal_in_mid_batch(ends, wire):
    """An oversized frame stops the batch before it; it and the rest do not leave, now or later."""
    tx, rx, frame = ends
    wire[0].ip("link", "set", "veth0", "mtu", "68")
    count = write(tx, frame, range(10))
    lengths = np.full(count, len(frame), np.int32)
    lengths[6] = 86
    result = tx.send(count, lengths)
    assert (result.sent, result.error) == (6, "send_error")
    send(tx, frame, range(20, 24))
    assert receive(rx, 10) == [*range(6), *range(20, 24)]


@pytest.mark.parametrize("bad_length", [3, 87])
def test_frames_the_kernel_cannot_parse(ends, bad_length):
    tx, rx, frame = ends
    count = write(tx, frame, range(2))
    result = tx.send(count, np.array([len(frame), bad_length], np.int32))
    assert (result.sent, result.error) == (1, "send_error")
    send(tx, frame, range(5, 6))
    assert receive(rx, 2) == [0, 5]


def test_egress_drop_is_a_send_error(ends, wire):
    """A full driver queue and an egress rule look alike: ENOBUFS, the frame is not gone but refused."""
    tx, rx, frame = ends
    wire[0].run("nft", "add table netdev t; add chain netdev t c { type filter hook egress device veth0 priority 0; }")
    wire[0].run("nft", "add rule netdev t c @th,96,32 10 drop")  # low half of the sequence
    result = send(tx, frame, range(5, 15))
    assert (result.sent, result.error) == (5, "send_error")
    wire[0].run("nft", "delete table netdev t")
    send(tx, frame, range(30, 32))
    assert receive(rx, 7) == [5, 6, 7, 8, 9, 30, 31]


def test_full_ring_has_no_free_slot(ends):
    tx, _, frame = ends
    tx._status[:] = 2  # SENDING: the driver still holds every frame
    assert tx.free(8)[1] == 0
    tx._status[:3] = 0
    assert tx.free(8) == (0, 3)
    assert write(tx, frame, range(8)) == 3


def test_sending_more_than_there_is(ends):
    tx, _, _ = ends
    with pytest.raises(ValueError, match="257 frames from slot 0 of 256"):
        tx.send(257, np.full(257, OCTETS, np.int32))


def test_layout_must_fit(ends):
    tx, _, _ = ends
    with pytest.raises(ValueError, match="87 octets in slots of 86"):
        tx.view("V87")


def test_views_outlive_the_ring(ends):
    tx, _, frame = ends
    write(tx, frame, range(9, 10))
    view = tx.view(FRAME)
    tx.close()
    tx.close()
    assert view["seq"][0] == 9


def test_no_such_interface(lone_namespace):
    with inside(lone_namespace), pytest.raises(PeerError, match="no interface with index 4711"):
        TxRing(4711)


def test_an_interface_that_goes_while_it_is_opened(lone_namespace, monkeypatch):
    monkeypatch.setattr("socket.if_indextoname", lambda _: "gone0")
    with inside(lone_namespace), pytest.raises(PeerError, match="no interface with index 99"):
        TxRing(99)


def rename(end: End, name: str, stranger_mtu: int = 0) -> None:
    """Give an interface another name; with `stranger_mtu`, one without a carrier takes the old one at once."""
    end.set_link("down")
    end.ip("link", "set", end.interface, "name", name)
    if stranger_mtu:
        end.ip("link", "add", end.interface, "mtu", str(stranger_mtu), "type", "veth", "peer", "name", "peer0")
        end.set_link("up")
    end.ip("link", "set", name, "up")
    wait_for(lambda: "LOWER_UP" in end.ip("link", "show", name))


@pytest.mark.parametrize("stranger_mtu", [0, 68])
@pytest.mark.parametrize("bypass", [False, True])
def test_an_interface_keeps_its_ring_under_another_name(wire, bypass, stranger_mtu):
    a, b = wire
    with a.inside():
        tx = TxRing(a.ifindex, slots=64, slot_octets=214, qdisc_bypass=bypass)
    with b.inside():
        rx = RxRing(b.ifindex, FILTER)
    frame = template(a, b) + bytes(100)
    with closing(tx), closing(rx):
        send_all(tx, frame, range(3))
        rename(a, "wan0", stranger_mtu)
        wait_for(lambda: send(tx, frame, range(10, 11)).error == "")
        write(tx, frame, range(11, 12))
        assert tx.send_one(len(frame))[2] == ""
        assert receive(rx, 5) == [0, 1, 2, 10, 11]
        assert tx.carries() and tx.longest() == 1514
        a.ip("link", "set", "wan0", "mtu", "100")
        wait_for(lambda: tx.longest() == 114)
        a.ip("link", "set", "wan0", "down")
        assert send(tx, frame[:50], range(1)).error == "link_down" and not tx.carries()


def test_through_the_queueing_discipline(wire):
    a, b = wire
    with a.inside():
        tx = TxRing(a.ifindex, slots=64, qdisc_bypass=False)
    with b.inside():
        rx = RxRing(b.ifindex, FILTER)
    with closing(tx), closing(rx):
        assert not tx.qdisc_bypass
        send_all(tx, template(a, b), range(200), batch=32)
        assert receive(rx, 200) == list(range(200))


@pytest.mark.parametrize("who", ["own", "peer"])
@pytest.mark.parametrize("singly", [False, True])
def test_what_the_queueing_discipline_throws_away_has_not_left(wire, who, singly):
    """Without a carrier it takes all, and says nothing."""
    a, b = wire
    with a.inside():
        tx = TxRing(a.ifindex, slots=4096, qdisc_bypass=False)
    with b.inside():
        rx = RxRing(b.ifindex, FILTER)
    frame = template(a, b)

    def try_to_send(start: int) -> str:
        if not singly:
            result = send(tx, frame, range(start, start + 10))
            assert (result.sent, result.error) in ((10, ""), (0, "link_down"))
            return result.error
        write(tx, frame, range(start, start + 1))
        return tx.send_one(len(frame))[2]

    with closing(tx), closing(rx):
        assert try_to_send(0) == ""
        before = receive(rx, 1 if singly else 10)
        wire[0 if who == "own" else 1].set_link("down")
        # The kernel takes its time, up to a second after it did so for any other interface.
        wait_for(lambda: try_to_send(100) == "link_down", within_s=BLIND_NS / 1e9)
        assert [try_to_send(200) for _ in range(50)] == ["link_down"] * 50
        assert tx.blind_ns == BLIND_NS
        wire[0 if who == "own" else 1].set_link("up")
        wait_for(lambda: "LOWER_UP" in wire[0].ip("link", "show", "veth0"))
        wait_for(lambda: try_to_send(300) == "")
        assert set(receive(rx, 1)) == set(range(300, 301 if singly else 310))
        assert before[0] == 0
