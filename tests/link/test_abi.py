from __future__ import annotations

import socket

import numpy as np
import pytest

from probe.link import abi


def test_layouts_have_the_kernels_sizes():
    assert abi.TPACKET_REQ.size == 16
    assert abi.SOCK_FILTER.size == 8
    assert abi.SOCK_FPROG.size == 16
    assert abi.SOCKADDR_LL.size == 20
    assert abi.IFREQ_FLAGS.size == abi.IFREQ_POINTER.size == abi.IFREQ_INDEX.size == 40
    assert abi.MMSGHDR.itemsize == 64
    assert abi.IOVEC.itemsize == 16
    assert abi.SOCKADDR_IN.itemsize == 16
    assert abi.SOCKADDR_IN6.itemsize == 28


def test_drop_all_silences_a_socket():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        silent.bind(("127.0.0.1", 0))
        silent.setblocking(False)
        sender.sendto(b"heard", silent.getsockname())
        assert silent.recv(16) == b"heard"  # loopback delivers before sendto returns
        abi.attach_filter(silent, abi.DROP_ALL)
        sender.sendto(b"unheard", silent.getsockname())
        with pytest.raises(BlockingIOError):
            silent.recv(16)


def test_unsound_filter_is_refused():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, pytest.raises(OSError, match="Invalid"):
        abi.attach_filter(sock, (abi.Instruction(0x20, 0, 0, 0),))  # no return at the end


def test_sendmmsg_sends_in_order_and_names_the_error():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        sender.connect(receiver.getsockname())
        payload = np.frombuffer(bytearray(b"onetwosix"), np.uint8)
        pieces = np.zeros(3, abi.IOVEC)
        pieces["base"] = payload.ctypes.data + np.array([0, 3, 6])
        pieces["len"] = 3
        messages = np.zeros(3, abi.MMSGHDR)
        messages["iov"] = pieces.ctypes.data + np.arange(3) * 16
        messages["iovlen"] = 1
        assert abi.sendmmsg(sender.fileno(), messages.ctypes.data, 3) == 3
        assert [receiver.recv(16) for _ in range(3)] == [b"one", b"two", b"six"]
        pieces["len"] = 70000
        with pytest.raises(OSError, match="Message too long"):
            abi.sendmmsg(sender.fileno(), messages.ctypes.data, 3)


@pytest.mark.netns
def test_link_is_up_follows_the_carrier_at_once(wire):
    a, b = wire
    with a.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert abi.link_is_up(sock, "veth0")
        b.set_link("down")
        assert not abi.link_is_up(sock, "veth0")
        b.set_link("up")
        a.set_link("down")
        assert not abi.link_is_up(sock, "veth0")
        assert not abi.link_is_up(sock, "no-such-if")
        assert abi.link_is_up(sock, "lo")


def test_fence_can_be_passed_again_and_again(monkeypatch):
    monkeypatch.setattr(abi, "_STRONGLY_ORDERED", False)  # the path of aarch64
    for _ in range(3):
        abi.fence()


def test_the_name_of_an_interface():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert abi.name_of(sock, socket.if_nametoindex("lo")) == "lo"
        assert abi.name_of(sock, 4711) == ""
