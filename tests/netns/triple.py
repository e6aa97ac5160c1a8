"""Sender, router, reflector: three namespaces in a row, and what the tests do in them.

s  a0 10.211.1.2/24, fd11:1::2/64  ──  a1 .1, ::1  r  b0 10.211.2.1/24, fd11:2::1/64  ──  b1 .2, ::2  d
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import itertools
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from probe.lab import namespace, processes

PREFIX = "hpn-"
IPV4, IPV6 = "10.211.2.2", "fd11:2::2"
UDP_PORT, TCP_PORT = 862, 8620
MS, SECOND = 1_000_000, 1_000_000_000
NETNS = Path("/run/netns")
TARGETS = {
    "icmp": f"icmp://{IPV4}",
    "udp": f"udp://{IPV4}",
    "tcp": f"tcp://{IPV4}:{TCP_PORT}",
    "icmp6": f"icmp://[{IPV6}]",
    "udp6": f"udp://[{IPV6}]",
    "tcp6": f"tcp://[{IPV6}]:{TCP_PORT}",
}
# Where the low word of a probe's sequence stands, in bits from the transport header: STAMP's Sequence Number
# (RFC 8762, section 4.2.1), the reflector's copy of it (section 4.3.1), and our cookie in ICMP and TCP.
SEQUENCE = {"udp": 64, "udp_reply": 256, "tcp": 320, "icmp": 224}
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33
# LISTEN_FDS as systemd passes it; the shell replaces itself, so its pid becomes the agent's.
_ACTIVATE = 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0 0</dev/null'


def wait_for(condition: Callable[[], Any], within_s: float = 60.0, what: str = "") -> Any:
    """Poll until the condition is true, and return what it returned; fails when it is not within the time."""
    deadline = time.monotonic() + within_s
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f"waited {within_s:g} s in vain {what}"
        time.sleep(0.02)


def inside(name: str, argv: list[str]) -> list[str]:
    """A command line that runs `argv` in a namespace and dies with this process, however that ends."""
    return ["setpriv", "--pdeathsig", "KILL", *namespace.command_inside(NETNS / name, argv)]


def sockets(listed: str) -> list[str]:
    """Lines of `ss`, but for what our own requests to an agent have left for a minute."""
    return [line for line in listed.splitlines() if not ("TIME-WAIT" in line and "127.0.0.1:" in line)]


def haprobe(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "probe.cli", *arguments]


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in task.read_text().split()]
    return found


def engines(pid: int) -> dict[str, int]:
    """Engine processes of a control process: role to pid."""
    found = {}
    for child in children(pid):
        with suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            if "probe.engine" in words:
                found[words[words.index("probe.engine") + 1]] = child
    return found


def effective_capabilities(pid: int) -> set[int]:
    """CapEff of every thread of a process."""
    texts = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/status")]
    return {int(re.search(r"^CapEff:\s*(\w+)$", text, re.MULTILINE)[1], 16) for text in texts}


@dataclass
class Run:
    """A haprobe process. Its output goes to files, so that it never waits for a reader."""

    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def engine(self, role: str = "sender") -> int:
        return wait_for(lambda: engines(self.pid).get(role), what="for the engine")

    def said(self) -> str:
        return self.stderr.read_text()

    def end(self, timeout_s: float = 30.0) -> int:
        """Wait for it; its exit status."""
        return self.process.wait(timeout_s)

    def document(self, status: int = 0) -> dict[str, Any]:
        """Wait for it, and read the document it printed."""
        assert self.end() == status, self.said()
        return json.loads(self.stdout.read_text())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@dataclass(frozen=True)
class Packet:
    """A probe or reply as it passed the router, at a kernel stamp."""

    at_ns: int
    family: int
    proto: str
    reply: bool
    port: int  # the sender's port or ICMP identifier
    sequence: int


class Capture:
    """What passes an interface, kept by the kernel until it is asked for: it costs the measurement next to nothing."""

    def __init__(self, name: str, interface: str):
        self._socket = namespace.inside(NETNS / name, self._open, interface)
        self._packets: list[Packet] = []
        self._control = 0

    @staticmethod
    def _open(interface: str) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        sock.bind((interface, 3))  # ETH_P_ALL
        sock.setblocking(False)
        return sock

    def packets(self) -> list[Packet]:
        """Everything so far, in the order of passing."""
        while self._socket.fileno() >= 0:
            try:
                frame, ancillary, _, _ = self._socket.recvmsg(256, 64)
            except BlockingIOError:
                return self._packets
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # it was; packets come again when it is up
                    raise
                continue
            stamp = next(data for _, kind, data in ancillary if kind == _SO_TIMESTAMPNS)
            seconds, ns = struct.unpack("qq", stamp)
            packet = _dissect(frame, seconds * SECOND + ns)
            if packet is not None:
                self._packets.append(packet)
            elif frame[12:14] == b"\x08\x00" and frame[23] == 6:
                self._control += 1
        return self._packets

    def handshakes(self) -> int:
        """IPv4 TCP segments without a probe in them, so far."""
        self.packets()
        return self._control

    def probes(self, proto: str, family: int = 4) -> dict[int, Packet]:
        """Probes of one kind on their way out, by sequence."""
        mine = [p for p in self.packets() if (p.proto, p.family, p.reply) == (proto, family, False)]
        return {p.sequence: p for p in mine}

    def wait_for(self, proto: str, sequence: int, family: int = 4) -> None:
        """Until a probe with this sequence, or a later one, has passed."""
        wait_for(lambda: max(self.probes(proto, family), default=-1) >= sequence, what=f"for {proto} {sequence}")

    def close(self) -> None:
        """Stop recording; what was recorded stays readable."""
        self.packets()
        self._socket.close()


Treat = Callable[[Packet, bytes], list[tuple[float, bytes]]]


def as_it_is(_packet: Packet, frame: bytes) -> list[tuple[float, bytes]]:
    return [(0.0, frame)]


class Relay:
    """Forwards from one of the router's interfaces to the other in place of its kernel, mistreating packets as told.

    Which packets meet with what is up to the test, so that every count is known beforehand. It stands in for the
    kernel's netem, which not every kernel has, and which draws lots.

    Args:
        triple: Where.
        inward: Interface to take packets from.
        outward: Interface to send them on.
        treat: Called with each probe or reply: (delay in seconds, frame) of each copy to send.
    """

    def __init__(self, triple: Triple, inward: str, outward: str, treat: Treat):
        self._treat = treat
        self._in = namespace.inside(NETNS / triple.router, self._open, inward)
        self._out = namespace.inside(NETNS / triple.router, self._open, outward)
        far = {"b0": (triple.far, "b1"), "a1": (triple.sender, "a0")}[outward]
        peer = namespace.inside(NETNS / far[0], self._open, far[1])
        with peer:
            self._header = peer.getsockname()[4] + self._out.getsockname()[4]
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"relay {inward}-{outward}")
        self._thread.start()

    @staticmethod
    def _open(interface: str) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        sock.bind((interface, 3))  # ETH_P_ALL
        sock.setblocking(False)
        return sock

    def _run(self) -> None:
        due: list[tuple[float, int, bytes]] = []
        number = itertools.count()
        while not self._closing:
            pause = min(0.1, max(0.0, due[0][0] - time.monotonic())) if due else 0.1
            select.select([self._in], [], [], pause)
            for frame in self._frames():
                packet = _dissect(frame, 0)
                for delay, copy in [(0.0, frame)] if packet is None else self._treat(packet, frame):
                    heapq.heappush(due, (time.monotonic() + delay, next(number), copy))
            while due and due[0][0] <= time.monotonic():
                try:
                    self._out.send(self._header + heapq.heappop(due)[2][12:])
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # as veth says when the other end drops it
                        raise

    def _frames(self) -> Iterator[bytes]:
        for _ in range(64):
            try:
                frame, address = self._in.recvfrom(2048)
            except BlockingIOError:
                return
            outgoing = address[2] == 4
            routed = _destination(frame) in ("10.211.1.2", IPV4, "fd11:1::2", IPV6)
            if routed and not outgoing:
                yield frame

    def close(self) -> None:
        self._closing = True
        self._thread.join(5)
        self._in.close()
        self._out.close()


class Tunnel:
    """A wire of IP packets without Ethernet between the sender's and the far end, `t0` at both, as of a VPN.

    s  t0 10.211.8.1/24, fd11:8::1/64  ──  t0 10.211.8.2/24, fd11:8::2/64  d

    Attributes:
        dark: Whether it loses everything.
    """

    IPV4, IPV6 = "10.211.8.2", "fd11:8::2"

    def __init__(self, triple: Triple):
        self.dark, self._closing = False, False
        self._ends: list[int] = []
        for number, name in enumerate((triple.sender, triple.far), start=1):
            self._ends.append(namespace.inside(NETNS / name, self._open))
            triple.ip(name, f"addr add 10.211.8.{number}/24 dev t0", f"-6 addr add fd11:8::{number}/64 dev t0 nodad")
            triple.ip(name, "link set t0 txqueuelen 5000 up")
        self._thread = threading.Thread(target=self._run, name="tunnel")
        self._thread.start()

    @staticmethod
    def _open() -> int:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        tun_set_iff, tun_no_pi = 0x400454CA, 0x0001 | 0x1000  # linux/if_tun.h: TUNSETIFF, IFF_TUN | IFF_NO_PI
        fcntl.ioctl(descriptor, tun_set_iff, struct.pack("16sH22x", b"t0", tun_no_pi))
        return descriptor

    def _run(self) -> None:
        a, b = self._ends
        while not self._closing:
            for end in select.select(self._ends, [], [], 0.1)[0]:
                packet = os.read(end, 1 << 16)
                if not self.dark:
                    os.write(b if end == a else a, packet)

    def close(self) -> None:
        self._closing = True
        self._thread.join(5)
        for end in self._ends:
            os.close(end)


def _destination(frame: bytes) -> str:
    ether = struct.unpack_from("!H", frame, 12)[0]
    if ether == 0x0800:
        return socket.inet_ntop(socket.AF_INET, frame[30:34])
    return socket.inet_ntop(socket.AF_INET6, frame[38:54]) if ether == 0x86DD else ""


def _dissect(frame: bytes, at_ns: int) -> Packet | None:
    """Read independently of the product's own layouts."""
    ether = struct.unpack_from("!H", frame, 12)[0]
    if ether == 0x0800:
        family, number, l4 = 4, frame[23], 14 + (frame[14] & 15) * 4
    elif ether == 0x86DD:
        family, number, l4 = 6, frame[20], 54
    else:
        return None
    body = frame[l4:]
    if number in (1, 58) and body[0] in (0, 8, 128, 129) and len(body) >= 40:
        port, sequence = struct.unpack_from("!H", body, 4)[0], struct.unpack_from("!Q", body, 24)[0]
        return Packet(at_ns, family, "icmp", body[0] in (0, 129), port, sequence)
    if number not in (6, 17):
        return None
    sport, dport = struct.unpack_from("!HH", body)
    if number == 17 and UDP_PORT in (sport, dport) and len(body) >= 52:
        reply = sport == UDP_PORT
        sequence = struct.unpack_from("!I", body, 32 if reply else 8)[0]
        return Packet(at_ns, family, "udp", reply, dport if reply else sport, sequence)
    if number == 6 and TCP_PORT in (sport, dport):
        reply = sport == TCP_PORT
        data = body[(body[12] >> 4) * 4 :]
        if len(data) >= 24:
            sequence = struct.unpack_from("!Q", data, 16)[0]
            return Packet(at_ns, family, "tcp", reply, dport if reply else sport, sequence)
    return None


@dataclass
class Agent:
    """A `haprobe run` in a namespace, asked from the root namespace through a socket that it inherited."""

    name: str
    directory: Path
    address: str = ""
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.directory / "agent.yml"

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def configure(self, document: dict[str, Any]) -> None:
        self.config.write_text(yaml.safe_dump(document, sort_keys=False))

    def start(self) -> Agent:
        self.journal.mkdir(exist_ok=True)
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener, self.log.open("ab") as log:
            self.address = f"127.0.0.1:{listener.getsockname()[1]}"
            command = haprobe("run", "--config.file", str(self.config), "--journal.dir", str(self.journal))
            command += ["--web.listen-address", self.address]
            self.process = subprocess.Popen(
                inside(self.name, ["sh", "-c", _ACTIVATE, "sh", *command]),
                stdin=listener,
                stdout=log,
                stderr=log,
                env=processes.environment(),
            )
        return self

    @property
    def log(self) -> Path:
        return self.directory / "agent.log"

    def said(self) -> str:
        return self.log.read_text()

    def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        """(HTTP status, body)."""
        request = urllib.request.Request(f"http://{self.address}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def get(self, path: str) -> Any:
        status, body = self.ask(path)
        assert status == 200, body
        return json.loads(body)

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        try:
            return self.ask("/-/ready")[0] == 200
        except OSError:
            return False

    def wait_ready(self, within_s: float = 20.0) -> Agent:
        wait_for(self.is_ready, within_s, f"for the agent:\n{self.said()}")
        return self

    def flow(self, name: str) -> dict[str, Any]:
        return next(f for f in self.get("/api/v1/status")["flows"] if f["name"] == name)

    def outages(self) -> list[dict[str, Any]]:
        answer = self.get("/api/v1/outages")
        return answer["outages"] if isinstance(answer, dict) else answer

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(15)

    def kill(self) -> None:
        """SIGKILL, and wait until its engines have gone as well."""
        assert self.process is not None
        if self.process.poll() is not None:
            return
        dying = [processes.identify(role, pid) for role, pid in engines(self.pid).items()]
        self.process.kill()
        self.process.wait(10)
        wait_for(lambda: not any(one.alive for one in dying), 5, "for the engines to follow")


@dataclass
class Triple:
    """The three namespaces. `open` makes them, `close` ends every process in them and removes them."""

    prefix: str
    directory: Path
    _running: list[Run | Agent] = field(default_factory=list)
    _captures: list[Capture] = field(default_factory=list)
    _relays: list[Relay | Tunnel] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [f"{self.prefix}{letter}" for letter in "srd"]

    @property
    def sender(self) -> str:
        return self.names[0]

    @property
    def router(self) -> str:
        return self.names[1]

    @property
    def far(self) -> str:
        return self.names[2]

    @classmethod
    def open(cls, directory: Path, letters: str = "") -> Self:
        owner = processes.identify("", os.getpid())
        triple = cls(f"{PREFIX}{owner.pid}-{owner.started}-{letters}", directory)
        try:
            triple._make()
        except BaseException:
            triple.close()
            raise
        return triple

    def _make(self) -> None:
        s, r, d = self.names
        for name in self.names:
            namespace.create(name)
        self.ip(r, "link add a1 type veth peer name a0 netns " + s, "link add b0 type veth peer name b1 netns " + d)
        self.ip(s, "link set lo up")
        self.ip(d, "link set lo up", "addr add 10.211.2.2/24 dev b1", "-6 addr add fd11:2::2/64 dev b1 nodad")
        self.ip(r, "link set lo up", "addr add 10.211.1.1/24 dev a1", "-6 addr add fd11:1::1/64 dev a1 nodad")
        self.ip(r, "addr add 10.211.2.1/24 dev b0", "-6 addr add fd11:2::1/64 dev b0 nodad")
        self.ip(r, "link set a1 up", "link set b0 up")
        self.link_up()
        self.ip(d, "link set b1 up", "route add default via 10.211.2.1", "-6 route add default via fd11:2::1")
        self.run(r, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def link_down(self) -> None:
        """Take the sender's interface down; the kernel forgets its routes and IPv6 address with it."""
        self.ip(self.sender, "link set a0 down")

    def link_up(self) -> None:
        """Take it up and, as a network service would, configure it."""
        self.ip(self.sender, "addr replace 10.211.1.2/24 dev a0", "-6 addr replace fd11:1::2/64 dev a0 nodad")
        self.ip(self.sender, "link set a0 up", "route replace default via 10.211.1.1")
        self.ip(self.sender, "-6 addr replace fd11:1::2/64 dev a0 nodad", "-6 route replace default via fd11:1::1")

    def unplug(self) -> None:
        """Take the sender's carrier, from the router's side. Its interface stays up, and its kernel is slow to notice.

        It was so busy with another link a moment ago that it takes up to a second.
        """
        self.ip(self.sender, "link add busy type veth peer name busy2", "link set busy2 up", "link set busy up")
        self.ip(self.sender, "link del busy")
        self.ip(self.router, "link set a1 down")

    def plug_in(self) -> None:
        """Give it back, and the router its address."""
        self.ip(self.router, "link set a1 up", "-6 addr replace fd11:1::1/64 dev a1 nodad")

    def close(self) -> None:
        self.reset()
        remove(self.names)

    def reset(self) -> None:
        """As new: nothing running, no rules, no delays."""
        for one in self._running:
            if isinstance(one, Run) or one.process is not None:
                one.kill()
        for one in (*self._captures, *self._relays):
            one.close()
        self._running, self._captures, self._relays = [], [], []
        if (NETNS / self.router).exists():
            self.nft("flush ruleset")

    def run(self, name: str, *argv: str, text: str | None = None) -> str:
        """Run a tool in a namespace; what it printed."""
        return namespace.run(inside(name, list(argv)), text)

    def ip(self, name: str, *commands: str) -> None:
        for command in commands:
            self.run(name, "ip", *command.split())

    def nft(self, *lines: str) -> None:
        """Rules at the router."""
        self.run(self.router, "nft", "-f", "-", text="\n".join(lines))

    def drop(self, *rules: str) -> None:
        """Drop at the router what matches one of the rules, and nothing else."""
        body = "\n".join(f"{rule} counter drop" for rule in rules)
        self.nft(
            "flush ruleset",
            "table inet faults {",
            "chain forward {",
            "type filter hook forward priority 0; policy accept;",
            body,
            "}",
            "}",
        )

    def impair(self, out: Treat | None = None, back: Treat | None = None) -> None:
        """Let a relay of ours forward instead of the router's kernel, and treat packets as told."""
        self.nft(
            "flush ruleset",
            "table inet faults {",
            "chain forward {",
            "type filter hook forward priority 0; policy accept;",
            f"ip daddr {{ 10.211.1.2, {IPV4} }} drop",
            f"ip6 daddr {{ fd11:1::2, {IPV6} }} drop",
            "}",
            "}",
        )
        self._relays += [Relay(self, "a1", "b0", out or as_it_is), Relay(self, "b0", "a1", back or as_it_is)]

    def tunnel(self) -> Tunnel:
        """Join the sender and the far end by a tunnel as well."""
        tunnel = Tunnel(self)
        self._relays.append(tunnel)
        return tunnel

    def capture(self, interface: str = "a1", name: str = "") -> Capture:
        """Record what passes the router's interface: `a1` before its rules, `b0` behind them (on the way out)."""
        self._captures.append(Capture(name or self.router, interface))
        return self._captures[-1]

    def start(self, name: str, *arguments: str, wrap: list[str] | None = None) -> Run:
        """Start haprobe in a namespace."""
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        out, err = directory / "stdout", directory / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                inside(name, [*(wrap or []), *haprobe(*arguments)]),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        self._running.append(Run(process, out, err))
        return self._running[-1]

    def reflect(self, name: str = "", *arguments: str) -> Run:
        """Start `haprobe reflect`, by default at the far end, and wait until it answers."""
        words = arguments or ("--udp", str(UDP_PORT), "--tcp", str(TCP_PORT))
        run = self.start(name or self.far, "reflect", *words)
        wait_for(lambda: "reflecting on" in run.said() or run.process.poll() is not None, what="for the reflector")
        assert run.process.poll() is None, run.said()
        return run

    def start_measure(self, *targets: str, **options: Any) -> Run:
        """Start `haprobe measure --json -` in the sender's namespace (or that of `name`)."""
        name = options.pop("name", self.sender)
        words = [text for key, value in options.items() for text in (f"--{key.replace('_', '-')}", str(value))]
        return self.start(name, "measure", *targets, "--json", "-", *words)

    def agent(self, directory: Path, name: str = "") -> Agent:
        agent = Agent(name or self.sender, directory)
        self._running.append(agent)
        return agent


def remove(names: list[str]) -> None:
    """End what runs in these namespaces, and remove them."""
    there = [name for name in names if (NETNS / name).exists()]
    processes.kill(processes.inside(there))
    for name in there:
        namespace.remove(name)


def remove_leftovers() -> None:
    """Remove the namespaces of test runs that were killed. Those of runs that live are left alone."""
    for name in namespace.existing(PREFIX):
        pid, started = (int(word) for word in name.removeprefix(PREFIX).split("-")[:2])
        if not processes.Process("", pid, started).alive:
            remove([name])


def ping_through(triple: Triple) -> None:
    """Wait until both families pass: neighbours resolved, addresses usable."""
    for address in (IPV4, IPV6):
        wait_for(lambda a=address: _pings(triple.sender, a), what=f"for a ping of {address}")


def _pings(name: str, address: str) -> bool:
    """One echo by a plain ICMP socket; no `ping` needed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    proto = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    echo = 128 if family == socket.AF_INET6 else 8

    def once() -> bool:
        with socket.socket(family, socket.SOCK_RAW, proto) as sock:
            sock.connect((address, 0))
            message = struct.pack("!BBHHH", echo, 0, 0, 77, 1)
            if family == socket.AF_INET:
                message = struct.pack("!BBHHH", echo, 0, 0xFFFF - (echo << 8) - 78, 77, 1)
            try:
                sock.send(message)
            except OSError:
                return False
            return bool(select.select([sock], [], [], 0.3)[0])

    return namespace.inside(NETNS / name, once)


@contextmanager
def opened(directory: Path) -> Iterator[Triple]:
    triple = Triple.open(directory)
    try:
        ping_through(triple)
        yield triple
    finally:
        triple.close()
