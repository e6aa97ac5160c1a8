"""Whose addresses are whose."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address

import pytest

from probe.link.local_addresses import is_local


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("192.0.2.1", False), ("2001:db8::1", False)],
)
def test_whose_it_is(address: str, local: bool) -> None:
    assert is_local(ip_address(address).packed) is local


def test_a_link_local_address_is_that_of_its_interface() -> None:
    assert not is_local(ip_address("fe80::1").packed, socket.if_nametoindex("lo"))


def test_where_the_kernel_cannot_tell_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", none_left)
    assert is_local(ip_address("192.0.2.1").packed)
