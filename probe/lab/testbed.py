"""Sender, router and reflector in a row: three network namespaces for sizing and for benchmarks.

    sender  a0 10.213.1.2/24  ──  a1 .1  router  b0 10.213.2.1/24  ──  b1 .2 and more  far

Smaller than the lab: nothing but forwarding happens here. The names carry the pid and start time of the process that
made them, so that what a killed run left can be told from what a living one uses.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import IoctlEthtool

from probe.errors import HaprobeError, PrivilegeError
from probe.lab import namespace, processes
from probe.link import offload

PREFIX = "haprobe-bench-"
TARGET = "10.213.2.2"
MORE_TARGETS = 100  # further addresses of the far end, for peers that are limited per target
_TOOLS = {"nsenter": "util-linux", "setpriv": "util-linux"}
_NETNS = Path("/run/netns")
_TX_QUEUE = 1000


@dataclass(frozen=True, slots=True)
class Testbed:
    """The three namespaces, by name."""

    sender: str
    router: str
    far: str

    target: str = TARGET

    @property
    def names(self) -> tuple[str, str, str]:
        return self.sender, self.router, self.far

    def targets(self, count: int) -> list[str]:
        """Addresses of the far end, `count` of them."""
        return [self.target, *(f"10.213.2.{10 + i}" for i in range(MORE_TARGETS))][:count]

    def command(self, place: str, argv: Sequence[str]) -> list[str]:
        """A command line that runs `argv` in one of the namespaces, keeps its pid, and dies with the calling thread."""
        name = {"sender": self.sender, "router": self.router, "far": self.far}[place]
        return ["setpriv", "--pdeathsig", "KILL", *namespace.command_inside(_NETNS / name, argv)]

    def path(self, place: str) -> Path:
        """The namespace's file."""
        return _NETNS / {"sender": self.sender, "router": self.router, "far": self.far}[place]


@contextmanager
def opened() -> Iterator[Testbed]:
    """Make the namespaces; remove them, with every process in them, however the block ends.

    Left-overs of earlier runs that were killed go first.

    Raises:
        PrivilegeError: Unless root.
        HaprobeError: If a tool of the system is missing.
    """
    if os.geteuid() != 0:
        raise PrivilegeError(
            "this makes network namespaces (CAP_SYS_ADMIN, CAP_NET_ADMIN): run it as root, for instance by sudo"
        )
    missing = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool) is None})
    if missing:
        raise HaprobeError(f"more packages are needed: apt-get install {' '.join(missing)}")
    remove_leftovers()
    owner = processes.identify("", os.getpid())
    testbed = Testbed(*(f"{PREFIX}{owner.pid}-{owner.started}-{letter}" for letter in "srd"))
    try:
        _make(testbed)
        yield testbed
    finally:
        _remove(testbed.names)


def remove_leftovers() -> list[str]:
    """Remove the namespaces of runs that were killed; those of living ones are left alone.

    Returns:
        Their names.
    """
    dead = [name for name in namespace.existing(PREFIX) if not _owner_lives(name)]
    if dead:
        _remove(dead)
    return dead


def _owner_lives(name: str) -> bool:
    words = name.removeprefix(PREFIX).split("-")
    if len(words) != 3 or not (words[0].isdecimal() and words[1].isdecimal()):
        return True  # not named by us: not ours to remove
    return processes.Process("", int(words[0]), int(words[1])).alive


def _remove(names: Sequence[str]) -> None:
    there = [name for name in names if (_NETNS / name).exists()]
    processes.kill(processes.inside(there))
    for name in there:
        namespace.remove(name)


def _make(testbed: Testbed) -> None:
    for name in testbed.names:
        namespace.create(name)
    namespace.inside(testbed.path("router"), _links, testbed)
    far = [(f"{address}/24") for address in testbed.targets(1 + MORE_TARGETS)]
    namespace.inside(testbed.path("router"), _configure, {"a1": ["10.213.1.1/24"], "b0": ["10.213.2.1/24"]}, "")
    namespace.inside(testbed.path("sender"), _configure, {"a0": ["10.213.1.2/24"]}, "10.213.1.1")
    namespace.inside(testbed.path("far"), _configure, {"b1": far}, "10.213.2.1")


def _links(testbed: Testbed) -> None:
    (Path("/proc/sys/net/ipv4") / "ip_forward").write_text("1")
    with IPRoute() as ipr:
        for here, there, name in (("a1", "a0", testbed.sender), ("b0", "b1", testbed.far)):
            peer = {"ifname": there, "net_ns_fd": name, "txqlen": _TX_QUEUE}
            ipr.link("add", kind="veth", ifname=here, txqlen=_TX_QUEUE, peer=peer)


def _configure(addresses: dict[str, list[str]], gateway: str) -> None:
    """Addresses by interface, and the default route; in the namespace of the calling thread."""
    with IPRoute() as ipr:
        ipr.link("set", index=1, state="up")
        for interface, wanted in addresses.items():
            (index,) = ipr.link_lookup(ifname=interface)
            for address in wanted:
                host, length = address.split("/")
                ipr.addr("add", index=index, address=host, prefixlen=int(length))
            ipr.link("set", index=index, state="up")
            _cut_up(interface)
        if gateway:
            ipr.route("add", dst="0.0.0.0/0", gateway=gateway)


def _cut_up(interface: str) -> None:
    """Let the kernel cut up what a program gives it in one piece, as for a card: a veth would pass it on whole."""
    with closing(IoctlEthtool(interface)) as tool:
        features = tool.get_features()
        features[offload.FEATURE] = False
        tool.set_features(features)
