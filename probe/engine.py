"""The probing process: `python -m probe.engine ROLE ...`, started by the control process and by nobody else.

It is the only holder of raw sockets. It opens rings, runs one loop (session/), and talks to the control process through
shared counters and messages (border.py); when that process goes, it ends. Nothing slow is imported here.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import mmap
import os
import select
import signal
import socket
import sys
from collections.abc import Container
from typing import Any

import numpy as np

from probe.border import Channel, SharedState
from probe.clock import SystemClock
from probe.errors import HaprobeError, PeerError, PrivilegeError, UsageError
from probe.link import bpf, require_raw
from probe.link.abi import ARPHRD_ETHER, ARPHRD_LOOPBACK, DROP_ALL, ETHERNET_OCTETS, Program, hardware_type
from probe.link.base import FrameReceiver, FrameSender
from probe.link.interface_drops import InterfaceDrops
from probe.link.kernel_tcp import KernelStack
from probe.link.local_addresses import is_local
from probe.link.members import hands_up
from probe.link.quiet import QuietPorts
from probe.link.raw_ip import RawIpSender
from probe.link.rx_blocks import RxBlocks
from probe.link.rx_ring import RxRing
from probe.link.tx_gso import TxGso
from probe.link.tx_ring import TxRing
from probe.priority import come_first, stay_awake
from probe.session import echo, loop
from probe.session import reflector as reflecting
from probe.session.recording import Recording
from probe.session.rehearsal import rehearse
from probe.session.sender import Sender

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG, PR_SET_TIMERSLACK = 1, 29
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
SMALL, LARGE = 214, 1600  # longest frame of a ring's slots
SMALL_SLOT = 190  # the same for receiving, where the kernel keeps more beside it
HIGH_RATE_PPS = (
    50_000  # from here on frames skip the queueing discipline: cheaper, but hidden from tcpdump on this host
)
MOST_RANGES = 60
REALTIME_PRIORITY = 10  # above everything that is not realtime, below the kernel's own threads


class SenderLinks:
    """Rings for a Session-Sender, opened as flows need them.

    Args:
        rate_pps: Total rate to expect; sets the depth of the rings, which is what absorbs a busy scheduler.
        cut: Interfaces on which many datagrams go in one piece (`offload.cut_by_kernel`).
    """

    def __init__(self, rate_pps: float, cut: Container[int] = ()):
        self._rate, self._cut = rate_pps, cut
        self._transmitters: dict[tuple[str, int], FrameSender] = {}
        self._receivers: dict[int, RxBlocks] = {}
        self._headers: dict[int, int] = {}  # of each of these, octets of its link header
        self._interfaces = InterfaceDrops()

    def transmitter(self, key: tuple[str, int]) -> FrameSender:
        """The link of `key`: (`ethernet` or `local`, with `-large` for frames that need large slots, `-control`;
        ifindex).

        Raises:
            PeerError: If there is no such interface.
        """
        if key not in self._transmitters:
            kind, ifindex = key
            octets = LARGE if "-large" in kind else SMALL
            if kind.startswith("local"):
                self._transmitters[key] = RawIpSender(routed_by(ifindex), slots=4096, slot_octets=octets)
            else:
                # A ring that stays in the processor's cache: frames are written only shortly before they leave.
                sender = TxGso if ifindex in self._cut and not kind.endswith("-control") else TxRing
                bypass = self._rate > HIGH_RATE_PPS
                self._transmitters[key] = sender(ifindex, slots=4096, slot_octets=octets, qdisc_bypass=bypass)
        return self._transmitters[key]

    def receivers(self) -> list[FrameReceiver]:
        return list(self._receivers.values())

    def listen(self, key: tuple[str, int], owned: dict[str, list[int]]) -> None:
        """Receive on the interface of `key`, and let the replies to all `owned` ids through, on every ring."""
        ifindex = key[1]
        if ifindex not in self._receivers:
            octets = max(1 << 17 if self._rate > HIGH_RATE_PPS else 1 << 14, mmap.PAGESIZE)
            try:
                self._receivers[ifindex] = RxBlocks(ifindex, DROP_ALL, blocks=512, block_octets=octets)
                self._headers[ifindex] = link_header(ifindex)
            except PeerError as error:  # gone since it was looked up: nothing leaves by it either, and sending tells
                log.warning("not listening: %s", error)
        for header in set(self._headers.values()):
            program = bpf.probe_filter(
                udp_ports=ranges(owned["udp"]),
                tcp_ports=ranges(owned["tcp"]),
                icmp_ids=ranges(owned["icmp"]),
                snaplen=190,
                link_octets=header,
            )
            for one, ring in self._receivers.items():
                if self._headers[one] == header:
                    ring.set_filter(program)

    def interface_drops(self) -> int:
        return self._interfaces.take(self._receivers)

    def close(self) -> None:
        self._interfaces.close()
        for sender in self._transmitters.values():
            sender.close()
        for ring in self._receivers.values():
            ring.close()


class ReflectorLinks:
    """Rings for a Session-Reflector: one receive ring on one or all interfaces, and a way back out of each."""

    def __init__(self, ifindex: int, udp: int, tcp: int, cut: Container[int] = ()):
        # Small frames have slots of their own: many, and close together in memory.
        self._receivers = [
            RxRing(ifindex, self._filter(udp, tcp, longest=SMALL_SLOT), slots=65536, slot_octets=SMALL_SLOT),
            RxRing(ifindex, self._filter(udp, tcp, shortest=SMALL_SLOT + 1), slots=4096, slot_octets=LARGE),
        ]
        self._transmitters: dict[tuple[int, int, bool], FrameSender] = {}
        self._fast, self._cut = False, cut
        self._interfaces, self._listened = InterfaceDrops(), (ifindex,) if ifindex else None

    @staticmethod
    def _filter(udp: int, tcp: int, *, shortest: int = 0, longest: int | None = None) -> Program:
        return bpf.probe_filter(
            udp_reflect=udp or None, tcp_reflect=tcp or None, snaplen=LARGE, shortest=shortest, longest=longest
        )

    def receivers(self) -> list[FrameReceiver]:
        return list(self._receivers)

    def expect(self, rate_pps: float) -> None:
        """Above HIGH_RATE_PPS replies skip the queueing discipline."""
        self._fast = rate_pps > HIGH_RATE_PPS

    def transmitter_on(self, ifindex: int, octets: int) -> FrameSender:
        """The way back out of an interface for frames of up to `octets`. On loopback and in tunnels, where there is no
        next hop to name, replies are routed.

        Raises:
            PeerError: If there is no such interface any more.
        """
        size = SMALL if octets <= SMALL else LARGE
        key = (ifindex, size, self._fast)
        if key not in self._transmitters:
            if hardware_type(ifindex) != ARPHRD_ETHER:
                self._transmitters[key] = RawIpSender(routed_by(ifindex), slots=4096, slot_octets=size)
            else:
                sender = TxGso if self._fast and ifindex in self._cut else TxRing
                self._transmitters[key] = sender(ifindex, slots=4096, slot_octets=size, qdisc_bypass=self._fast)
        return self._transmitters[key]

    def is_local(self, address: bytes, ifindex: int) -> bool:
        return is_local(address, ifindex) and not (self._listened is None and hands_up(ifindex))

    def interface_drops(self) -> int:
        return self._interfaces.take(self._listened)

    def close(self) -> None:
        self._interfaces.close()
        for receiver in self._receivers:
            receiver.close()
        for sender in self._transmitters.values():
            sender.close()


def link_header(ifindex: int) -> int:
    """Octets before the IP packet in a frame of an interface: none in tunnels and the like."""
    return ETHERNET_OCTETS if hardware_type(ifindex) in (ARPHRD_ETHER, ARPHRD_LOOPBACK) else 0


def routed_by(ifindex: int) -> str | None:
    """The interface that packets are to leave by where the host's routing sends them; None for what stays on this host,
    which routing knows best.

    Raises:
        PeerError: If there is no such interface.
    """
    if hardware_type(ifindex) == ARPHRD_LOOPBACK:
        return None
    try:
        return socket.if_indextoname(ifindex)
    except OSError as error:
        raise PeerError(f"no interface with index {ifindex}") from error


def ranges(ids: list[int]) -> list[tuple[int, int]]:
    """Ascending numbers as inclusive runs; one run around all when there are too many for a filter."""
    runs: list[tuple[int, int]] = []
    for number in ids:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs if len(runs) <= MOST_RANGES else [(runs[0][0], runs[-1][1])]


def run_sender(channel: Channel, shared: SharedState, options: argparse.Namespace, stop: Any) -> None:
    """Be a Session-Sender until stopped."""
    require_raw()  # rings are opened flow by flow; a missing privilege should show before
    links, ports = SenderLinks(options.rate, options.cut), QuietPorts()
    with contextlib.closing(links), contextlib.closing(ports):
        recording = Recording(options.record) if options.record >= 0 else None
        sender = Sender(
            links,
            ports,
            SystemClock(),
            shared,
            channel.send,
            recording=recording,
            stack=KernelStack(),
            # On the only processor nothing else would run, and the kernel stops who never sleeps in realtime.
            spin=(os.cpu_count() or 1) > 1 and not options.realtime,
        )
        channel.send({"event": "ready"})
        loop.run(sender, channel, stop, rehearse)


def run_reflector(channel: Channel, shared: SharedState, options: argparse.Namespace, stop: Any) -> None:
    """Be a Session-Reflector until stopped."""
    key = _receive_key(channel) if options.authenticated else b""
    ports = QuietPorts()
    with contextlib.closing(ports):
        if options.udp:
            ports.reserve_one("udp", options.udp)
        if options.tcp:
            ports.reserve_one("tcp", options.tcp)
        links = ReflectorLinks(options.ifindex, options.udp, options.tcp, options.cut)
        with contextlib.closing(links):
            reflector = reflecting.Reflector(
                links,
                SystemClock(),
                shared,
                udp=options.udp,
                tcp=options.tcp,
                allow=options.allow,
                error_estimate=options.error_estimate,
                key=key,
                sync_source=options.sync_source,
            )
            channel.send({"event": "ready"})
            reflecting.run(reflector, channel, links.receivers(), stop)


def run_echo(channel: Channel, shared: SharedState, options: argparse.Namespace, stop: Any) -> None:
    """Be an echo service until stopped."""
    interface = socket.if_indextoname(options.ifindex) if options.ifindex else ""
    service = echo.EchoService(echo.listen(options.tcp, interface), options.allow)
    with contextlib.closing(service):
        channel.send({"event": "ready"})
        echo.run(service, shared, channel, stop)


def _receive_key(channel: Channel) -> bytes:
    """The STAMP key, which comes as the first message: an argument would be there for all to see."""
    while not channel.closed:
        select.select([channel], [], [], 1.0)
        for message in channel.receive():
            return bytes.fromhex(message["key"])
    raise HaprobeError("the control process went away before it gave the key")


def keep_memory(libc: ctypes.CDLL, octets: int) -> None:
    """Have so much memory at hand, and give none back: arrays that come and go would else be fresh pages each time, and
    the first touch of a page can cost a virtual machine microseconds.
    """
    if not hasattr(libc, "mallopt"):  # not glibc
        return
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)  # the most it takes
    libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
    np.empty(octets, np.uint8).fill(0)


def place(cpu: int | None, *, realtime: bool) -> None:
    """Choose where this process runs, and before whom.

    Raises:
        UsageError: If there is no such CPU, or this process may not use it.
        PrivilegeError: If it may not have the priority that was asked for.
    """
    if cpu is not None:
        allowed = sorted(os.sched_getaffinity(0))
        if cpu not in allowed:
            raise UsageError(f"no CPU {cpu} to run on; allowed: {', '.join(map(str, allowed))}")
        os.sched_setaffinity(0, {cpu})
    if realtime:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
        except PermissionError as error:
            raise PrivilegeError(
                "missing capability CAP_SYS_NICE for realtime scheduling: run as root, grant it (AmbientCapabilities), "
                "or leave realtime out"
            ) from error
        stay_awake()
        return
    come_first(-20)


ROLES = {"sender": run_sender, "reflector": run_reflector, "echo": run_echo}


def main(argv: list[str] | None = None) -> int:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="haprobe-engine")
    parser.add_argument("role", choices=sorted(ROLES))
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--capacity", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--record", type=int, default=-1)
    parser.add_argument("--udp", type=int, default=0)
    parser.add_argument("--tcp", type=int, default=0)
    parser.add_argument("--ifindex", type=int, default=0)
    parser.add_argument("--allow", action="append", default=[])
    parser.add_argument("--authenticated", action="store_true")
    parser.add_argument("--error-estimate", type=int, default=1)
    parser.add_argument("--sync-source", type=int, default=0)
    parser.add_argument("--cut", type=int, action="append", default=[])
    parser.add_argument("--cpu", type=int)
    parser.add_argument("--realtime", action="store_true")
    options = parser.parse_args(argv)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    keep_memory(libc, 30 << 20 if options.rate > HIGH_RATE_PPS else 8 << 20)
    stopping: list[int] = []
    # Ctrl-C on a terminal reaches the whole process group; only the control process decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    channel = Channel(socket.socket(fileno=options.channel))
    shared = SharedState(options.memory, options.capacity)
    try:
        place(options.cpu, realtime=options.realtime)
        ROLES[options.role](channel, shared, options, lambda: bool(stopping))
    except HaprobeError as error:
        channel.send({"event": "error", "kind": type(error).__name__, "message": str(error)})
        return error.exit_status
    channel.send({"event": "bye"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
