"""What interfaces dropped, by the kernel's own counters."""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from probe.link import interface_drops
from probe.link.interface_drops import InterfaceDrops
from probe.link.rx_blocks import RxBlocks

from .frames import FILTER, taken, template
from .netns import End, inside, ip, tun, wait_for

NOT_IP = b"\xf0" * 40  # neither version 4 nor 6: a tunnel drops it, and counts it in rx_dropped
HEADING = "Inter-|   Receive                 |  Transmit\n face |bytes    packets errs drop fifo ...\n"


@contextmanager
def tunnels(namespace: str, *names: str) -> Iterator[list[int]]:
    """Tunnel interfaces that are up; the files that are their other sides."""
    with inside(namespace):
        opened = [tun(name) for name in names]
        files = [one.__enter__() for one in opened]
        try:
            for name in names:
                ip("link", "set", name, "up")
            yield files
        finally:
            for one in opened:
                one.__exit__(None, None, None)


def overflow(file: int, frames: int) -> None:
    for _ in range(frames):
        with pytest.raises(OSError, match="Invalid argument"):
            os.write(file, NOT_IP)


@pytest.mark.netns
def test_what_an_interface_drops_counts_once(lone_namespace):
    with tunnels(lone_namespace, "t0", "t1") as (one, other), closing(InterfaceDrops()) as drops:
        index = socket.if_nametoindex("t0")
        overflow(one, 5)
        assert drops.take([index]) == 0, "before it was looked at"
        overflow(one, 3)
        overflow(other, 2)
        assert drops.take([index]) == 3
        assert drops.take([index]) == 0
        assert drops.take([]) == 0


@pytest.mark.netns
def test_on_all_interfaces_but_loopback(lone_namespace):
    with tunnels(lone_namespace, "t0", "t1") as (one, other), closing(InterfaceDrops()) as drops:
        assert drops.take() == 0
        overflow(one, 3)
        overflow(other, 2)
        assert drops.take() == 5


@pytest.mark.netns
def test_interfaces_that_come_go_or_change_names_have_dropped_nothing(lone_namespace):
    with tunnels(lone_namespace, "t0") as (one,), closing(InterfaceDrops()) as drops:
        index = socket.if_nametoindex("t0")
        for watched in ([index, index + 77], None):
            drops.take(watched)
            ip("link", "set", "t0", "down")
            ip("link", "set", "t0", "name", "t9")
            ip("link", "set", "t9", "up")
            overflow(one, 4)
            assert drops.take(watched) == 0, "under that name it is new"
            overflow(one, 2)
            assert drops.take(watched) == 2
            with tunnels(lone_namespace, "t0") as (other,):  # the name is another one's now
                overflow(other, 9)
                assert drops.take(watched) == 0
                overflow(other, 1)
                assert drops.take(watched) == (1 if watched is None else 0)
            assert drops.take(watched) == 0
            ip("link", "set", "t9", "down")
            ip("link", "set", "t9", "name", "t0")
            ip("link", "set", "t0", "up")


@pytest.mark.netns
def test_many_interfaces_are_more_than_one_reading(lone_namespace):
    for n in range(40):
        ip("-n", lone_namespace, "link", "add", f"a{n}", "type", "veth", "peer", "name", f"b{n}")
    with tunnels(lone_namespace, "t0") as (one,), closing(InterfaceDrops()) as drops:
        assert len(Path(interface_drops.COUNTERS).read_bytes()) > 2 * mmap.PAGESIZE
        drops.take()
        overflow(one, 3)
        assert drops.take() == 3


@pytest.mark.netns
def test_a_frame_that_nobody_wants_is_no_drop_where_a_ring_listens(wire: tuple[End, End]):
    """The kernel counts frames of protocols that no handler takes; our packet socket is one that takes all."""
    near, far = wire

    def send(*frames: bytes) -> None:
        with near.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((near.interface, 0))
            for frame in frames:
                sock.send(frame)

    unwanted = far.mac + near.mac + b"\x88\xb5" + bytes(50)  # IEEE 802, for local experiments
    with far.inside(), closing(InterfaceDrops()) as drops:
        found = [drops.take([far.ifindex])]

        def counted() -> bool:
            found.append(drops.take([far.ifindex]))
            return sum(found) == 10

        send(*[unwanted] * 10)
        wait_for(counted)
        with closing(RxBlocks(far.ifindex, FILTER)) as ring:
            send(*[unwanted] * 10, template(near, far))
            assert len(taken(ring, 1).octets) == 1  # they have all been through
            assert drops.take([far.ifindex]) == 0


# --- counters as no kernel here has them ---------------------------------------------------------------------------


class Counters:
    """Stands in for the file; says what the kernel might."""

    def __init__(self, path: Path):
        self._path = path
        self.tell(0, 0)

    def tell(self, drop: int, fifo: int, name: str = "lo") -> None:
        row = f"    lo: 1 1 0 7 7 0 0 0 1 1 0 9 0 0 0 0\n  {name}: 1 1 0 {drop} {fifo} 0 0 0 1 1 0 9 0 0 0 0\n"
        self._path.write_text(HEADING + row)


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counters:
    monkeypatch.setattr(interface_drops, "COUNTERS", str(tmp_path / "dev"))
    return Counters(tmp_path / "dev")


@pytest.mark.parametrize(
    ("readings", "dropped"),
    [
        ([(5, 0), (5, 0), (8, 0)], [0, 3]),
        ([(5, 5), (8, 7), (8, 9)], [3, 2]),  # a frame in both columns is one frame
        ([(9, 0), (2, 0), (4, 0), (5, 0)], [0, 2, 1]),  # counted anew
        ([(9, 0), (0, 0), (9, 0), (11, 0)], [0, 0, 2]),  # its interface was down
        ([(9, 0), (0, 0), (3, 0), (12, 0)], [0, 3, 3]),
    ],
)
def test_what_a_counter_rose_by(counters: Counters, readings: list, dropped: list):
    counters.tell(*readings[0], name="eth77")
    with closing(InterfaceDrops()) as drops:
        assert drops.take() == 0
        found = []
        for reading in readings[1:]:
            counters.tell(*reading, name="eth77")
            found.append(drops.take())
    assert found == dropped


def test_loopback_is_never_looked_at(counters: Counters):
    counters.tell(0, 0)
    with closing(InterfaceDrops()) as drops:
        drops.take()
        counters.tell(50, 50)
        assert drops.take() == drops.take([socket.if_nametoindex("lo")]) == 0
