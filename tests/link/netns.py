"""Namespaces and wires for the tests of the link: real interfaces that nobody else sees."""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def need_namespaces() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need iproute2")


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets opened here, and threads started here, belong to the namespace for good."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        assert _libc.setns(there, CLONE_NEWNET) == 0
        yield
    finally:
        assert _libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)
        os.close(there)


@contextmanager
def namespace() -> Iterator[str]:
    name = f"hpl-{os.getpid()}-{next(_numbers)}"
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "del", name)


@dataclass(frozen=True)
class End:
    """One end of a wire: `interface` in `namespace`, with an address of each version."""

    namespace: str
    interface: str
    ifindex: int
    mac: bytes
    ipv4: str
    ipv6: str

    def ip(self, *arguments: str) -> str:
        return ip("-n", self.namespace, *arguments)

    def ip_later(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it, and go on meanwhile."""
        return subprocess.Popen(["ip", "-n", self.namespace, *arguments])

    def run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["ip", "netns", "exec", self.namespace, *command], check=True, capture_output=True)

    def set_link(self, state: str) -> None:
        self.ip("link", "set", self.interface, state)

    def inside(self):
        return inside(self.namespace)


@contextmanager
def wire() -> Iterator[tuple[End, End]]:
    """a: veth0 10.66.0.1/24, fd66::1/64  ======  veth0 10.66.0.2/24, fd66::2/64 :b"""
    with namespace() as a, namespace() as b:
        ip("link", "add", "veth0", "netns", a, "type", "veth", "peer", "name", "veth0", "netns", b)
        ends = tuple(_end(name, number) for number, name in enumerate((a, b), start=1))
        for end in ends:
            end.set_link("up")
        wait_for(lambda: all("LOWER_UP" in end.ip("link", "show", "veth0") for end in ends))
        yield ends


def _end(name: str, number: int) -> End:
    ipv4, ipv6 = f"10.66.0.{number}", f"fd66::{number}"
    ip("-n", name, "addr", "add", f"{ipv4}/24", "dev", "veth0")
    ip("-n", name, "-6", "addr", "add", f"{ipv6}/64", "dev", "veth0", "nodad")
    with inside(name):
        return End(name, "veth0", socket.if_nametoindex("veth0"), mac_of("veth0"), ipv4, ipv6)


@contextmanager
def tun(name: str) -> Iterator[int]:
    """A tunnel interface (IFF_TUN | IFF_NO_PI); its other side is the file descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0001 | 0x1000))  # TUNSETIFF
        yield descriptor
    finally:
        os.close(descriptor)


def mac_of(interface: str) -> bytes:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((interface, 0))
        return sock.getsockname()[4]


def wait_for(condition: Callable[[], object], within_s: float = 5.0) -> None:
    """Poll until the condition holds; fails when it does not within the time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s} s in vain"
        time.sleep(0.002)
