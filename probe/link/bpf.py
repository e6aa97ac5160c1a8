"""Classic BPF: a small assembler, and the filter that lets a receive ring see probe traffic only.

Pure: a program is a tuple of numbers. Offsets count from the start of the frame, ancillary data (interface type,
packet type, VLAN tag) is reached through the kernel's SKF_AD_OFF loads. A load beyond the end of the frame drops
it, so a truncated frame never needs a check of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from probe.link.abi import (
    ARPHRD_ETHER,
    ARPHRD_LOOPBACK,
    ETH_P_IP,
    ETH_P_IPV6,
    ETHERNET_OCTETS,
    PACKET_HOST,
    Instruction,
    Program,
)

# linux/bpf_common.h
LD_W, LD_H, LD_B, LD_LEN = 0x20, 0x28, 0x30, 0x80
AND, JA, JEQ, JGT, JGE, JSET, RET = 0x54, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
# linux/filter.h
MAX_INSTRUCTIONS = 4096
MAX_JUMP = 255
MAX_FRAME = 0xFFFFFFFF
SKF_AD_OFF = 0xFFFFF000  # -0x1000
AD_PROTOCOL = SKF_AD_OFF + 0
AD_PKTTYPE = SKF_AD_OFF + 4
AD_HATYPE = SKF_AD_OFF + 28
AD_VLAN_TAG = SKF_AD_OFF + 44
AD_VLAN_TAG_PRESENT = SKF_AD_OFF + 48
VLAN_ID = 0xFFF  # of a tag; the rest is its priority

UDP, TCP = 17, 6

Ranges = range | Iterable[tuple[int, int]] | None


class _IcmpNumbers(NamedTuple):
    protocol: int
    echo_reply: int
    errors: tuple[int, ...]  # destination unreachable, time exceeded; in IPv6 what was too big as well


_ICMP = _IcmpNumbers(1, 0, (3, 11))
_ICMPV6 = _IcmpNumbers(58, 129, (1, 2, 3))


class Assembler:
    """Instructions with names to jump to; a name is placed after the jumps to it, as BPF only jumps forward."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str | None, str | None]] = []
        self._labels: dict[str, int] = {}

    def load(self, size: int, offset: int) -> None:
        """Load a word (LD_W), half word (LD_H) or octet (LD_B) at `offset` into the accumulator, or the frame's length
        (LD_LEN).
        """
        self._code.append((size, offset, None, None))

    def mask(self, bits: int) -> None:
        """Keep these bits of the accumulator."""
        self._code.append((AND, bits, None, None))

    def jump(self, test: int, value: int, yes: str | None = None, no: str | None = None) -> None:
        """Compare the accumulator (JEQ, JGT, JGE, JSET); None goes on with the next instruction."""
        self._code.append((test, value, yes, no))

    def branch(self, value: int, label: str) -> None:
        """Go to `label`, however far away, if the accumulator equals `value`."""
        past = f"past {len(self._code)}"
        self.jump(JEQ, value, no=past)
        self.go(label)
        self.label(past)

    def go(self, label: str) -> None:
        """Go to `label`, however far away."""
        self._code.append((JA, 0, label, None))

    def finish(self, accept_octets: int) -> None:
        """End a part of the program: label `drop` of this part, then `accept`, each used by jumps since the last."""
        self.label("drop")
        self._code.append((RET, 0, None, None))
        self.label("accept")
        self._code.append((RET, accept_octets, None, None))
        self._resolve({"drop", "accept"})

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._code)

    def _resolve(self, names: set[str]) -> None:
        """Turn jumps to `names` into jumps to where they are now, so that the names can be used again."""
        places = {name: f"{name}@{self._labels.pop(name)}" for name in names}
        for place in places.values():
            self._labels[place] = int(place.rpartition("@")[2])
        self._code = [(c, k, places.get(y or "", y), places.get(n or "", n)) for c, k, y, n in self._code]

    def assemble(self) -> Program:
        """The finished program.

        Raises:
            ValueError: If it is longer than the kernel allows, or jumps too far or backwards.
        """
        if len(self._code) > MAX_INSTRUCTIONS:
            raise ValueError(f"filter of {len(self._code)} instructions; at most {MAX_INSTRUCTIONS}")
        return tuple(
            Instruction(JA, 0, 0, self._distance(at, yes, MAX_INSTRUCTIONS))
            if code == JA
            else Instruction(code, self._distance(at, yes), self._distance(at, no), k)
            for at, (code, k, yes, no) in enumerate(self._code)
        )

    def _distance(self, at: int, label: str | None, farthest: int = MAX_JUMP) -> int:
        if label is None:
            return 0
        distance = self._labels[label] - at - 1
        if not 0 <= distance <= farthest:
            raise ValueError(f"jump of {distance} instructions to {label}; from 0 to {farthest}: too many port ranges")
        return distance


def probe_filter(
    *,
    udp_ports: Ranges = None,
    tcp_ports: Ranges = None,
    icmp_ids: Ranges = None,
    udp_reflect: int | None = None,
    tcp_reflect: int | None = None,
    snaplen: int,
    shortest: int = 0,
    longest: int | None = None,
    link_octets: int | None = None,
) -> Program:
    """The filter of a receive ring (SOCK_RAW, ETH_P_ALL).

    Lets through, from IPv4 without options or fragmentation and IPv6 without extension headers, of no VLAN and
    addressed to this host: UDP and TCP to the given destination ports, ICMP echo replies with the given
    identifiers and, when any of these ranges is given, ICMP destination-unreachable and time-exceeded. Checksums
    and payloads are left to the reader.

    Args:
        udp_ports: Ports our Session-Senders use: a range, or (lowest, highest) pairs, both inclusive.
        tcp_ports: Likewise for TCP.
        icmp_ids: Likewise, ICMP identifiers.
        udp_reflect: Port our Session-Reflector listens on.
        tcp_reflect: Likewise for TCP.
        snaplen: Octets to keep of a frame.
        shortest: Frames of fewer octets are not let through; counted with an Ethernet header even where there is none.
        longest: Nor are those of more.
        link_octets: 14 for interfaces with Ethernet headers (and loopback), 0 for those without any, such as tunnels;
            frames of the other kind are dropped. None for a ring on all interfaces, which sees both.

    Raises:
        ValueError: If a number is out of range, or there are more ranges than a program can hold.
    """
    udp, tcp, icmp = _pairs(udp_ports), _pairs(tcp_ports), _pairs(icmp_ids)
    wanted = _Wanted(
        udp=_pairs([*udp, *_port(udp_reflect)]),
        tcp=_pairs([*tcp, *_port(tcp_reflect)]),
        icmp=icmp,
        errors=bool(udp or tcp or icmp),
        snaplen=snaplen,
    )
    asm = Assembler()
    asm.load(LD_W, AD_HATYPE)
    asm.jump(JEQ, ARPHRD_ETHER, yes="Ethernet")
    asm.jump(JEQ, ARPHRD_LOOPBACK, yes="Ethernet")
    asm.go("no header")
    for label, octets in (("Ethernet", ETHERNET_OCTETS), ("no header", 0)):
        asm.label(label)
        if link_octets in (None, octets):
            absent = ETHERNET_OCTETS - octets
            _admission(asm, octets, max(shortest - absent, 0), None if longest is None else longest - absent)
            _ipv4(asm, octets)
            _transport(asm, octets + 20, wanted, _ICMP)
            _ipv6(asm, octets)
            _transport(asm, octets + 40, wanted, _ICMPV6)
        else:
            asm.finish(0)
    return asm.assemble()


def _admission(asm: Assembler, link_octets: int, shortest: int, longest: int | None) -> None:
    """Drop what has not the right length, belongs to a VLAN or is not addressed to this host; go on by IP version."""
    if shortest or longest is not None:
        asm.load(LD_LEN, 0)
        asm.jump(JGE, shortest, no="drop")
        asm.jump(JGT, MAX_FRAME if longest is None else longest, yes="drop")
    untagged = f"untagged behind {link_octets}"
    asm.load(LD_W, AD_VLAN_TAG_PRESENT)
    asm.jump(JEQ, 0, yes=untagged)
    asm.load(LD_W, AD_VLAN_TAG)
    asm.mask(VLAN_ID)
    asm.jump(JEQ, 0, no="drop")  # of no VLAN: a priority alone (IEEE 802.1Q), which the kernel looks past as well
    asm.label(untagged)
    asm.load(LD_W, AD_PKTTYPE)  # a sniffer's promiscuous mode shows us other hosts' frames
    asm.jump(JEQ, PACKET_HOST, no="drop")
    _by_version(asm, link_octets)


def _by_version(asm: Assembler, link_octets: int) -> None:
    asm.load(LD_W, AD_PROTOCOL)
    asm.branch(ETH_P_IP, f"IPv4 at {link_octets}")
    asm.branch(ETH_P_IPV6, f"IPv6 at {link_octets}")
    asm.finish(0)


def flag_filter(flags: int, source_ports: Ranges, snaplen: int) -> Program:
    """The filter of a packet socket without link header (SOCK_DGRAM, ETH_P_ALL): TCP with any of these flags.

    Of the packets `probe_filter` knows, from these ports, addressed to this host.

    Raises:
        ValueError: As of `probe_filter`.
    """
    pairs = _pairs(source_ports)
    asm = Assembler()
    asm.load(LD_W, AD_PKTTYPE)
    asm.jump(JEQ, PACKET_HOST, no="drop")
    _by_version(asm, 0)
    for ip, at in ((_ipv4, 20), (_ipv6, 40)):
        ip(asm, 0)
        asm.jump(JEQ, TCP, no="drop")
        asm.load(LD_B, at + 13)
        asm.jump(JSET, flags, no="drop")
        asm.load(LD_H, at)
        _in_ranges(asm, pairs)
        asm.finish(snaplen)
    return asm.assemble()


@dataclass(frozen=True)
class _Wanted:
    """What to let through: inclusive ranges, ascending and apart."""

    udp: list[tuple[int, int]]
    tcp: list[tuple[int, int]]
    icmp: list[tuple[int, int]]
    errors: bool
    snaplen: int


def _ipv4(asm: Assembler, at: int) -> None:
    """Drop what is no plain IPv4; leaves the protocol number in the accumulator."""
    asm.label(f"IPv4 at {at}")
    asm.load(LD_B, at)
    asm.jump(JEQ, 0x45, no="drop")
    asm.load(LD_H, at + 6)
    asm.jump(JSET, 0x3FFF, yes="drop")  # more fragments, or not the first one
    asm.load(LD_B, at + 9)


def _ipv6(asm: Assembler, at: int) -> None:
    """Likewise for IPv6."""
    asm.label(f"IPv6 at {at}")
    asm.load(LD_B, at)
    asm.mask(0xF0)
    asm.jump(JEQ, 0x60, no="drop")
    asm.load(LD_B, at + 6)


def _transport(asm: Assembler, at: int, wanted: _Wanted, icmp: _IcmpNumbers) -> None:
    """The part behind the IP header; the accumulator holds the protocol number, `at` is where the payload starts."""
    ports = {UDP: wanted.udp, TCP: wanted.tcp}
    for number in ports:
        asm.branch(number, f"{number} at {at}")
    asm.branch(icmp.protocol, f"ICMP at {at}")
    asm.finish(wanted.snaplen)
    for number, pairs in ports.items():
        asm.label(f"{number} at {at}")
        asm.load(LD_H, at + 2)
        _in_ranges(asm, pairs)
        asm.finish(wanted.snaplen)
    asm.label(f"ICMP at {at}")
    asm.load(LD_B, at)
    for error in icmp.errors if wanted.errors else ():
        asm.jump(JEQ, error, yes="accept")
    asm.jump(JEQ, icmp.echo_reply, no="drop")
    asm.load(LD_H, at + 4)
    _in_ranges(asm, wanted.icmp)
    asm.finish(wanted.snaplen)


def _in_ranges(asm: Assembler, pairs: list[tuple[int, int]]) -> None:
    """Accept if the accumulator lies in one of these ranges, ascending and apart; else fall through."""
    for low, high in pairs:
        asm.jump(JGE, low, no="drop")  # ascending: below this one, so in none of the later ones
        asm.jump(JGT, high, no="accept")


def _port(port: int | None) -> list[tuple[int, int]]:
    return [] if port is None else [(port, port)]


def _pairs(ranges: Ranges) -> list[tuple[int, int]]:
    """Inclusive pairs, ascending, those that touch joined."""
    if ranges is None:
        return []
    if isinstance(ranges, range):
        ranges = [(ranges[0], ranges[-1])] if ranges.step == 1 and ranges else [(n, n) for n in ranges]
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if not 0 <= low <= high <= 0xFFFF:
            raise ValueError(f"range {low}-{high}: from 0 to 65535, ascending")
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return joined
