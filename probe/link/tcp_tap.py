"""How the far end's packets begin and end a connection of the kernel's: SYN/ACK, FIN and RST as they arrive.

The kernel tells that a connection was reset, not by whom. A packet socket beside it sees the packet itself, and with it
the TTL; it is given packets before the kernel's TCP is, so that what ended a connection is there when its end shows.
One socket serves all connections, as every packet that this host receives passes each filter.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import NamedTuple

from probe.link import abi, bpf

FIN, SYN, RST = 0x01, 0x02, 0x04
SO_TIMESTAMPNS = 35  # include/uapi/asm-generic/socket.h
_TIMESPEC = struct.Struct("=qq")
_PORTS = struct.Struct("!HH")
_HEADERS = 64  # IPv6 and TCP without options, and some
_ANCILLARY = 64
_MOST_PORTS = 60  # ranges in a filter
_BURST = 256  # packets read at once: probes of other flows wait meanwhile


class Key(NamedTuple):
    """A connection as its packets come in."""

    address: bytes  # the far end's, 4 or 16 octets
    port: int  # likewise
    local_port: int


@dataclass(frozen=True, slots=True)
class LastWord:
    """The packet that ended a connection.

    Attributes:
        at_ns: When it arrived, Unix ns by the kernel.
        ttl: Its TTL or hop limit on arrival.
        peer_ttl: That of the far end's SYN/ACK; 0: not seen.
    """

    at_ns: int
    ttl: int
    peer_ttl: int


@dataclass(slots=True)
class _Heard:
    peer_ttl: int = 0
    fin: tuple[int, int] | None = None  # (Unix ns, TTL) of the last one
    rst: tuple[int, int] | None = None


class TcpTap:
    """Sees the SYN/ACKs, FINs and RSTs of the connections that it is told of.

    Raises:
        OSError: Without CAP_NET_RAW.
    """

    def __init__(self) -> None:
        self._heard: dict[Key, _Heard] = {}
        self._ports: frozenset[int] = frozenset()
        self._socket = sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        try:
            sock.setblocking(False)
            sock.setsockopt(abi.SOL_PACKET, abi.PACKET_IGNORE_OUTGOING, 1)
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            abi.attach_filter(sock, abi.DROP_ALL)
            abi.bind_packet(sock, abi.ETH_P_ALL, 0)
        except OSError:
            sock.close()
            raise

    def fileno(self) -> int:
        """Readable while there is something to `read`."""
        return self._socket.fileno()

    def watch(self, key: Key) -> None:
        """From now on see this connection's; to be called before its SYN."""
        self._heard[key] = _Heard()
        self._choose()

    def forget(self, key: Key) -> None:
        """See no more of it."""
        self._heard.pop(key, None)
        self._choose()

    def read(self) -> None:
        """Take in what has come."""
        for _ in range(_BURST):
            try:
                packet, ancillary, _, _ = self._socket.recvmsg(_HEADERS, _ANCILLARY)
            except OSError:  # nothing more, or an interface has gone down
                return
            stamp = next((data for _, kind, data in ancillary if kind == SO_TIMESTAMPNS), None)
            if stamp is None:
                continue
            seconds, ns = _TIMESPEC.unpack_from(stamp)
            self._take(packet, seconds * 1_000_000_000 + ns)

    def last_word(self, key: Key, *, reset: bool) -> LastWord | None:
        """The RST or FIN that ended a connection; None if none was seen."""
        self.read()
        heard = self._heard.get(key)
        word = None if heard is None else heard.rst if reset else heard.fin
        return LastWord(*word, heard.peer_ttl) if heard is not None and word is not None else None

    def close(self) -> None:
        """See nothing any more; harmless when repeated."""
        self._socket.close()

    def _take(self, packet: bytes, at_ns: int) -> None:
        v4 = packet[0] >> 4 == 4
        at, ttl, source = (20, packet[8], packet[12:16]) if v4 else (40, packet[7], packet[8:24])
        port, local_port = _PORTS.unpack_from(packet, at)
        heard = self._heard.get(Key(source, port, local_port))
        if heard is None:
            return
        flags = packet[at + 13]
        if flags & RST:
            heard.rst = (at_ns, ttl)
        elif flags & SYN:
            heard.peer_ttl = ttl
        else:
            heard.fin = (at_ns, ttl)

    def _choose(self) -> None:
        """Let through what comes from the far ends' ports."""
        ports = frozenset(key.port for key in self._heard)
        if ports == self._ports:
            return
        self._ports = ports
        many = [(min(ports), max(ports))] if len(ports) > _MOST_PORTS else [(port, port) for port in ports]
        program = bpf.flag_filter(FIN | SYN | RST, many, _HEADERS) if ports else abi.DROP_ALL
        abi.attach_filter(self._socket, program)
