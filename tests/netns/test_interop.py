"""Ours with senders and reflectors that know nothing of us: plain sockets, and the RFCs (tests/wire/rfc.py)."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from probe.lab import namespace
from probe.report.document import laws
from tests.wire import rfc

from .triple import IPV4, IPV6, NETNS, TARGETS, TCP_PORT, UDP_PORT, Run, Triple, wait_for

pytestmark = pytest.mark.netns

KEY = b"an interoperable key"
WITHIN_S = 20.0


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@contextmanager
def udp_socket(name: str, address: str, port: int = 0) -> Iterator[socket.socket]:
    """A kernel's own UDP socket in a namespace."""

    def make() -> socket.socket:
        sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
        sock.bind((address, port))
        return sock

    with namespace.inside(NETNS / name, make) as sock:
        sock.settimeout(WITHIN_S)
        yield sock


def ask(sock: socket.socket, address: str, request: bytes) -> bytes:
    """Its reply. The wire loses nothing, but the first packet may find the neighbour unresolved."""
    sock.sendto(request, (address, UDP_PORT))
    return sock.recv(4096)


def check_times(reply: rfc.Reply, before_ns: int) -> None:
    """Received after the request was sent, sent after that, and before now."""
    received, sent = rfc.unix_ns(reply.received, reply.error), rfc.unix_ns(reply.sent, reply.error)
    assert before_ns - 1 <= received <= sent <= time.time_ns()


# --- our reflector ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "ttl"), [(IPV4, 63), (IPV6, 63), ("127.0.0.1", 64), ("::1", 64)])
def test_twamp_and_stamp_senders_are_answered_byte_for_byte(triple: Triple, address: str, ttl: int):
    """Through a router, and on one host."""
    local = address in ("127.0.0.1", "::1")
    triple.reflect(triple.sender if local else triple.far, "--udp", str(UDP_PORT))
    own = address if local else {IPV4: "10.211.1.2", IPV6: "fd11:1::2"}[address]
    with udp_socket(triple.sender, own) as sock:
        for number, padding in enumerate((0, 1, 27, 41, 400)):
            before = time.time_ns()
            request = rfc.twamp_request(number, rfc.ntp(before), 0x8587, bytes(padding))
            reply = ask(sock, address, request)
            got = rfc.Reply.parse(reply)
            stamps = {name: struct.pack("!II", *getattr(got, name)) for name in ("received", "sent")}
            expected = rfc.reply(request, number, error=got.error, ttl=ttl, **stamps)
            assert reply[:44] == expected[:44] and len(reply) == max(44, len(request))
            assert not got.error & rfc.Z_BIT and got.error & 0xFF
            check_times(got, before)
        for number, (write, error) in enumerate([(rfc.ntp, 0x8587), (rfc.ptp, 0xC587)]):
            before = time.time_ns()
            tlvs = rfc.tlv(1, b"abc") + rfc.tlv(4, b"\xb8\0\0\0") + rfc.tlv(99, b"?") + rfc.tlv(1, b"", length=9)
            request = rfc.request(number, write(before), error, 0xBEEF, tlvs)
            got = rfc.Reply.parse(ask(sock, address, request))
            assert (got.sequence, got.sender_sequence, got.ssid) == (number, number, 0xBEEF)
            assert (got.sender_sent, got.sender_error, got.sender_ttl) == (write(before), error, ttl)
            flags = [(flags, kind) for flags, kind, _ in rfc.parse_tlvs(got.rest)]
            assert flags == [(0, 1), (0, 4), (rfc.U, 99), (rfc.U | rfc.M, 1)]
            check_times(got, before)


@pytest.mark.parametrize("address", [IPV4, IPV6])
def test_the_class_of_service_that_a_sender_wants_is_that_of_the_reply(triple: Triple, reflector: Run, address: str):
    v4 = address == IPV4
    with udp_socket(triple.sender, "0.0.0.0" if v4 else "::") as sock:
        level, sent_by, wanted = (
            (socket.IPPROTO_IP, socket.IP_TOS, socket.IP_RECVTOS)
            if v4
            else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS, socket.IPV6_RECVTCLASS)
        )
        sock.setsockopt(level, sent_by, 10 << 2)
        sock.setsockopt(level, wanted, 1)
        sock.sendto(rfc.request(0, (0, 0), tlvs=rfc.tlv(4, struct.pack("!I", 46 << 26))), (address, UDP_PORT))
        reply, ancillary, _, _ = sock.recvmsg(4096, 256)
        assert [data[0] for at, _, data in ancillary if at == level] == [46 << 2]
        assert reply[44:] == rfc.tlv(4, struct.pack("!I", 46 << 26 | 10 << 20), flags=0)


@pytest.mark.parametrize("address", [IPV4, IPV6])
def test_an_authenticated_sender_is_answered(triple: Triple, tmp_path: Path, address: str):
    key_file = tmp_path / "stamp.key"
    key_file.write_bytes(KEY + b"\n")
    triple.reflect(triple.far, "--udp", str(UDP_PORT), "--key-file", str(key_file))
    with udp_socket(triple.sender, "0.0.0.0" if address == IPV4 else "::") as sock:
        for number in range(3):
            before = time.time_ns()
            tlvs = rfc.tlv(4, b"\xb8\0\0\0")
            tlvs += rfc.tlv(8, rfc.signature(KEY, struct.pack("!I", 7 + number) + tlvs))
            wrong = rfc.signed_request(KEY[::-1], number, rfc.ntp(before))
            sock.sendto(wrong, (address, UDP_PORT))
            request = rfc.signed_request(KEY, 7 + number, rfc.ntp(before), 0x8587, 0x1234, tlvs)
            reply = ask(sock, address, request)  # the first that comes: nothing came for the wrong one
            got = rfc.Reply.parse_signed(reply, KEY)
            assert (got.sequence, got.sender_sequence, got.ssid, got.sender_ttl) == (number, 7 + number, 0x1234, 63)
            assert got.mbz == bytes(len(got.mbz)) and len(reply) == len(request)
            check_times(got, before)
            service, signature = rfc.parse_tlvs(got.rest)
            assert service == (0, 4, struct.pack("!I", 46 << 26))
            covered = struct.pack("!I", number) + got.rest[:8]
            assert signature == (0, 8, rfc.signature(KEY, covered))


def test_what_does_not_fit_a_frame_does_no_harm(triple: Triple):
    """The loopback interface carries datagrams far longer than the reflector keeps of them."""
    triple.reflect(triple.sender, "--udp", str(UDP_PORT))
    with udp_socket(triple.sender, "127.0.0.1") as sock:
        for octets in (1493, 1560, 1700, 1900, 3000, 20_000, 60_000):
            sock.sendto(bytes(octets), ("127.0.0.1", UDP_PORT))
        assert len(ask(sock, "127.0.0.1", rfc.request(0, (0, 0)))) == 44
        assert len(ask(sock, "127.0.0.1", bytes(1492))) == 1492


# --- our sender ------------------------------------------------------------------------------------------------------

Answer = Callable[[int, bytes, int], "list[bytes]"]


class StandInReflector:
    """A reflector in a thread, on kernel sockets: what it answers to each request is up to `answer`.

    Args:
        name: Namespace.
        address: Where it listens.
        port: Likewise.
        answer: Called with (how many requests came before, request, arrival in Unix ns): the replies.
    """

    def __init__(self, name: str, address: str, port: int, answer: Answer):
        self.requests: list[tuple[tuple[Any, ...], bytes, int]] = []
        self._answer, self._closing = answer, False
        self._made = udp_socket(name, address, port)
        self._socket = self._made.__enter__()
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self._thread = threading.Thread(target=self._run, name="reflector of a test")

    def __enter__(self) -> StandInReflector:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing = True
        self._thread.join(10)
        self._made.__exit__(None, None, None)

    def _run(self) -> None:
        while not self._closing:
            if not select.select([self._socket], [], [], 0.1)[0]:
                continue
            request, sender = self._socket.recvfrom(4096)
            came = time.time_ns()
            for reply in self._answer(len(self.requests), request, came):
                self._socket.sendto(reply, sender)
            self.requests.append((sender, request, came))


def light(number: int, request: bytes, came: int, write: Any = rfc.ntp, error: int = 0x8BD2) -> bytes:
    received, sent = (struct.pack("!II", *write(at)) for at in (came, time.time_ns()))
    return rfc.reply(request, number, received, sent, error, 255)


@pytest.mark.parametrize("address", [IPV4, IPV6])
@pytest.mark.parametrize(
    ("write", "error", "least"), [(rfc.ntp, 0x8BD2, None), (rfc.ptp, 0xCBD2, None), (rfc.ntp, 1, 41)]
)
def test_what_a_plain_reflector_gets_and_what_its_answers_are_worth(
    triple: Triple, address: str, write: Any, error: int, least: int | None
):
    """STAMP of RFC 8762 with either format, and TWAMP Light without any padding."""

    def answer(number: int, request: bytes, came: int) -> list[bytes]:
        return [light(number, request, came, write, error)[:least]]

    with StandInReflector(triple.far, address, UDP_PORT, answer) as far:
        target = TARGETS["udp" if address == IPV4 else "udp6"]
        document = triple.start_measure(target, rate=200, duration=1, loss_threshold=20).document()
    [flow] = document["flows"]
    assert laws(document, settled=True) == []
    counts = flow["counts"]
    assert counts["received"] == counts["sent"] == len(far.requests) > 0
    assert (counts["corrupt"], counts["duplicate"], counts["late"]) == (0, 0, 0)
    assert 0 < flow["rtt_ns"]["min"] <= flow["rtt_ns"]["p50"]
    senders, packets, arrivals = zip(*far.requests, strict=True)
    assert len(set(senders)) == 1
    ssids = set()
    for number, (packet, came) in enumerate(zip(packets, arrivals, strict=True)):
        sequence, seconds, fraction, estimate, ssid = rfc.SENDER.unpack_from(packet)
        assert sequence == number and packet[16:44] == bytes(28)
        assert estimate & 0xFF and not estimate & rfc.Z_BIT
        assert document["run"]["started_ns"] <= rfc.unix_ns((seconds, fraction)) <= came
        assert [(flags, kind, len(value)) for flags, kind, value in rfc.parse_tlvs(packet[44:])] == [(rfc.U, 240, 76)]
        ssids.add(ssid)
    assert len(ssids) == 1 and 0 not in ssids


def test_the_numbers_of_a_plain_reflector_tell_which_way_was_lost(triple: Triple):
    """RFC 8762, section 4: one with state counts its own replies, so that what it never got can be told apart."""
    counted = iter(range(1 << 30))

    def answer(_number: int, request: bytes, came: int) -> list[bytes]:
        sequence = struct.unpack_from("!I", request)[0]
        if 20 <= sequence < 27:
            return []  # as if it had never come
        reply = light(next(counted), request, came)
        return [] if 60 <= sequence < 65 else [reply]  # sent, as far as it knows

    with StandInReflector(triple.far, IPV4, UDP_PORT, answer):
        document = triple.start_measure(TARGETS["udp"], rate=100, duration=2, loss_threshold=5).document()
    [flow] = document["flows"]
    counts = flow["counts"]
    assert (counts["lost_forward"], counts["lost_reverse"], counts["lost_unattributed"]) == (7, 5, 0)
    assert {o["direction"] for o in flow["outages"]} == {"forward", "reverse"}


def test_our_authenticated_sender_and_a_plain_reflector(triple: Triple, tmp_path: Path):
    key_file = tmp_path / "stamp.key"
    key_file.write_bytes(KEY)
    seen: list[bool] = []

    def answer(number: int, request: bytes, came: int) -> list[bytes]:
        seen.append(request[96:112] == rfc.signature(KEY, request[:96]) and request[28:96] == bytes(68))
        received, sent = (struct.pack("!II", *rfc.ptp(at)) for at in (came, time.time_ns()))
        head = struct.pack("!I12x", number) + sent + b"\xcb\xd2" + request[26:28] + bytes(4) + received + bytes(8)
        head += request[0:4] + bytes(12) + request[16:24] + request[24:26] + bytes(6) + b"\xff" + bytes(15)
        good = head + rfc.signature(KEY, head) + request[112:]
        return [good, head + bytes(16)] if number == 5 else [good]  # one that nobody with the key has sent

    agent = triple.agent(tmp_path)
    flow = {"name": "udp", "protocol": "udp", "path": "p", "target": IPV4, "rate": 100, "key_file": str(key_file)}
    flow["loss_threshold"] = "20s"
    agent.configure({"flows": [flow]})
    with StandInReflector(triple.far, IPV4, UDP_PORT, answer):
        agent.start().wait_ready()
        wait_for(lambda: agent.flow("udp")["counts"]["received"] > 50, 3 * WITHIN_S, "for replies")
        counts = agent.flow("udp")["counts"]
        agent.stop()
    assert seen and all(seen)
    assert (counts["corrupt"], counts["lost"]) == (1, 0)


# --- refusals on the way ---------------------------------------------------------------------------------------------


def test_a_router_s_refusals_are_counted_for_the_flows_that_it_refuses(triple: Triple, reflector: Run, tmp_path: Path):
    """Every protocol, both families, old and new sessions; of TCP, what is refused is a new session's SYN."""
    triple.run(triple.router, "sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
    common = {"path": "p", "rate": 20, "loss_threshold": "1s"}
    flows = []
    for family, target in ((4, IPV4), (6, IPV6)):
        for protocol in ("icmp", "udp"):
            flow = {"name": f"{protocol}{family}", "protocol": protocol, "session": "both"}
            flows.append({**common, **flow, "target": target})
        flow = {"name": f"tcp{family}", "protocol": "tcp", "session": "fresh", "port": TCP_PORT}
        flows.append({**common, **flow, "target": target})
    agent = triple.agent(tmp_path)
    agent.configure({"flows": flows})
    agent.start().wait_ready(3 * WITHIN_S)
    names = [flow["name"] for flow in agent.get("/api/v1/status")["flows"]]
    assert len(names) == 10
    assert not any(agent.flow(name)["counts"]["icmp_error"] for name in names)
    triple.nft(
        "table inet refusals {",
        "chain forward {",
        "type filter hook forward priority 0; policy accept;",
        "iifname a1 ip protocol icmp reject with icmp type host-unreachable",
        "iifname a1 ip protocol udp reject with icmp type admin-prohibited",
        "iifname a1 tcp flags syn meta nfproto ipv4 reject with icmp type net-unreachable",
        "iifname a1 meta nfproto ipv6 meta l4proto icmpv6 reject with icmpv6 type no-route",
        "iifname a1 meta nfproto ipv6 meta l4proto udp reject with icmpv6 type admin-prohibited",
        "iifname a1 tcp flags syn meta nfproto ipv6 reject with icmpv6 type addr-unreachable",
        "}",
        "}",
    )

    def refused() -> bool:
        return all(agent.flow(name)["counts"]["icmp_error"] for name in names)

    wait_for(refused, 3 * WITHIN_S, "for errors about every flow")
    assert agent.stop() == 0, agent.said()
