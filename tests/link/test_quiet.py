from __future__ import annotations

import random
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack, closing

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from probe.errors import UsageError
from probe.link.bpf import probe_filter
from probe.link.quiet import QuietPorts
from probe.link.rx_ring import RxRing
from probe.link.tx_ring import TxRing

from .frames import taken
from .netns import inside


@pytest.fixture
def quiet():
    with closing(QuietPorts(random.Random(1))) as ports:
        yield ports


@pytest.fixture
def talk(wire):
    """Send a packet from a to b, and give what b's kernel answered until `answers` have come."""
    a, b = wire
    with a.inside():
        tx = TxRing(a.ifindex, slots=64)
        program = probe_filter(udp_ports=[(40000, 40000)], tcp_ports=[(40000, 40000)], snaplen=128)
        rx = RxRing(a.ifindex, program)

    def exchange(packets: list[Packet], answers: int) -> list[Packet]:
        for packet in packets:
            octets = bytes(Ether(src=a.mac.hex(":"), dst=b.mac.hex(":")) / packet)
            first, _ = tx.free(1)
            tx.view(f"V{len(octets)}")[first] = np.void(octets)
            assert tx.send(1, np.array([len(octets)], np.int32)).sent == 1
        frames = taken(rx, answers)
        return [Ether(row[:kept].tobytes()) for row, kept in zip(frames.octets, frames.kept, strict=True)]

    # so that b does not have to ask who a is before it answers
    b.ip("neigh", "replace", a.ipv4, "lladdr", a.mac.hex(":"), "dev", "veth0")
    b.ip("neigh", "replace", a.ipv6, "lladdr", a.mac.hex(":"), "dev", "veth0")
    with closing(tx), closing(rx):
        yield exchange


@pytest.mark.netns
def test_the_kernel_keeps_quiet_on_held_ports(wire, talk, quiet):
    """Quiet ports first, then an open question on a port nobody holds: the only answers are to that one."""
    a, b = wire
    v4, v6 = IP(src=a.ipv4, dst=b.ipv4), IPv6(src=a.ipv6, dst=b.ipv6)
    with b.inside():
        [udp] = quiet.reserve("udp", b.ipv4, 1)
        [tcp] = quiet.reserve("tcp", b.ipv4, 1)
    quiet_packets = [
        version / transport
        for version in (v4, v6)
        for transport in (
            UDP(sport=40000, dport=udp),
            TCP(sport=40000, dport=tcp, flags="S", seq=1),
            TCP(sport=40000, dport=tcp, flags="PA", seq=7, ack=9) / b"probe",
            TCP(sport=40000, dport=tcp, flags="A", seq=7, ack=9),
        )
    ]
    control = [v4 / UDP(sport=40000, dport=9), v6 / UDP(sport=40000, dport=9)]
    control += [v4 / TCP(sport=40000, dport=9, flags="S"), v6 / TCP(sport=40000, dport=9, flags="S")]
    answers = talk([*quiet_packets, *control], 4)
    assert len(answers) == 4
    assert sum(ICMP in answer for answer in answers) == 1
    assert sum(ICMPv6DestUnreach in answer for answer in answers) == 1
    assert [(answer[TCP].sport, str(answer[TCP].flags)) for answer in answers if TCP in answer] == [(9, "RA")] * 2


@pytest.mark.netns
def test_released_ports_answer_again(wire, talk, quiet):
    a, b = wire
    with b.inside():
        [tcp] = quiet.reserve("tcp", b.ipv4, 1)
        quiet.release("udp", [tcp])  # not held: ignored
        quiet.release("tcp", [tcp, 1])
    [answer] = talk([IP(src=a.ipv4, dst=b.ipv4) / TCP(sport=40000, dport=tcp, flags="S")], 1)
    assert str(answer[TCP].flags) == "RA"


@pytest.mark.netns
@pytest.mark.parametrize("proto", ["udp", "tcp"])
def test_ports_are_contiguous_outside_the_ephemeral_range_and_taken(lone_namespace, quiet, proto):
    with inside(lone_namespace):
        ports = quiet.reserve(proto, "127.0.0.1", 50)
        assert ports == list(range(ports[0], ports[0] + 50))
        assert ports[0] > 60999  # net.ipv4.ip_local_port_range of a new namespace ends there
        kind = socket.SOCK_DGRAM if proto == "udp" else socket.SOCK_STREAM
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, kind) as other, pytest.raises(OSError, match="in use"):
                other.bind((address, ports[7]))
        more = quiet.reserve(proto, "127.0.0.1", 50)
        assert not set(ports) & set(more)


@pytest.mark.netns
@pytest.mark.parametrize("seed", range(8))
def test_a_run_is_found_wherever_the_search_starts(lone_namespace, seed):
    """Of ten ports two are taken; only 5003-5006 and 5008-5009 are left in one piece."""
    with inside(lone_namespace), ExitStack() as stack:
        for port in (5000, 5002, 5007):
            taken = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            taken.bind(("127.0.0.1", port))
        quiet = stack.enter_context(closing(QuietPorts(random.Random(seed))))
        assert quiet.reserve("udp", "127.0.0.1", 4, lo=5000, hi=5009) == [5003, 5004, 5005, 5006]
        assert quiet.reserve("udp", "127.0.0.1", 3, lo=5000, hi=5009) == [5001, 5008, 5009]  # in pieces
        with pytest.raises(UsageError, match=r"1 udp ports wanted, 0 free in 5000-5009"):
            quiet.reserve("udp", "127.0.0.1", 1, lo=5000, hi=5009)


@pytest.mark.netns
def test_a_failed_reservation_holds_nothing(lone_namespace, quiet):
    with inside(lone_namespace):
        with pytest.raises(UsageError, match="5 tcp ports wanted, 4 free"):
            quiet.reserve("tcp", "127.0.0.1", 5, lo=5000, hi=5003)
        assert quiet.reserve("tcp", "127.0.0.1", 4, lo=5000, hi=5003) == [5000, 5001, 5002, 5003]
        assert quiet.reserve("tcp", "127.0.0.1", 0) == []


@pytest.mark.netns
def test_one_given_port(lone_namespace, quiet):
    with inside(lone_namespace):
        assert quiet.reserve_one("udp", 862) == 862
        assert quiet.reserve_one("tcp", 862) == 862
        with pytest.raises(UsageError, match="udp port 862 is in use"):
            quiet.reserve_one("udp", 862)
        quiet.close()
        assert quiet.reserve_one("udp", 862) == 862


@pytest.mark.parametrize("bad", [(0, 10), (10, 9), (1, 65536)])
def test_bad_port_range(quiet, bad):
    with pytest.raises(UsageError, match="port range"):
        quiet.reserve("udp", "127.0.0.1", 1, lo=bad[0], hi=bad[1])


@pytest.fixture
def few_descriptors():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.netns
def test_the_soft_limit_of_open_files_is_raised(lone_namespace, quiet, few_descriptors):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (160, hard))
    with inside(lone_namespace):
        assert len(quiet.reserve("udp", "127.0.0.1", 200)) == 200


def test_beyond_the_hard_limit_is_refused_with_a_way_out(quiet):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with pytest.raises(UsageError, match=rf"the limit is {hard}: raise it .*LimitNOFILE"):
        quiet.reserve("udp", "127.0.0.1", hard)


@pytest.mark.netns
@pytest.mark.parametrize(
    ("capability", "call", "message"),
    [
        ("net_admin", "reserve('tcp', '127.0.0.1', 1)", "missing capability CAP_NET_ADMIN"),
        ("net_bind_service", "reserve_one('udp', 862)", "missing capability CAP_NET_BIND_SERVICE for udp port 862"),
    ],
)
def test_a_missing_capability_is_named(lone_namespace, capability, call, message):
    """As root of a program that lacks just this one."""
    script = f"""
from probe.errors import PrivilegeError
from probe.link.quiet import QuietPorts
try:
    QuietPorts().{call}
except PrivilegeError as error:
    print(error)
"""
    answer = subprocess.run(
        ["setpriv", "--bounding-set", f"-{capability}", "--inh-caps", f"-{capability}", sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        preexec_fn=None,
    )
    if not answer.stdout and capability == "net_admin":
        pytest.skip("this kernel lets anyone filter a TCP port")
    assert message in answer.stdout
