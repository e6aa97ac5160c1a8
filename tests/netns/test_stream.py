"""Streams against the truth: what the kernel sent again, as seen at the workload, and OpenSSH beside them."""

from __future__ import annotations

import getpass
import itertools
import shutil
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from probe.lab import namespace
from probe.report.document import laws

from .triple import IPV4, IPV6, MS, NETNS, SECOND, Run, Triple, inside, wait_for

pytestmark = pytest.mark.netns
ECHO_PORT, SSH_PORT = 7007, 2222
_SO_TIMESTAMPNS, _OUTGOING = 35, 4


@dataclass(frozen=True)
class Seg:
    """A TCP segment with data, as the workload's interface saw it."""

    at_ns: int
    outgoing: bool
    port: int  # the client's
    first: int
    end: int


@dataclass
class Tap:
    """What tcpdump would show on the sender's interface, by the kernel's stamps."""

    triple: Triple
    server_port: int
    segments: list[Seg] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._socket = namespace.inside(NETNS / self.triple.sender, self._open)

    @staticmethod
    def _open() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        sock.bind(("a0", 3))
        sock.setblocking(False)
        return sock

    def read(self) -> list[Seg]:
        """Everything so far."""
        while True:
            try:
                frame, ancillary, _, address = self._socket.recvmsg(2048, 64)
            except BlockingIOError:
                return self.segments
            seconds, ns = next(struct.unpack("qq", data) for _, kind, data in ancillary if kind == _SO_TIMESTAMPNS)
            l4 = {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], 0)
            if not l4 or frame[23 if l4 == 34 else 20] != 6:
                continue
            sport, dport, seq = struct.unpack_from("!HHI", frame, l4)
            total = struct.unpack_from("!H", frame, 16)[0] - 20 if l4 == 34 else struct.unpack_from("!H", frame, 18)[0]
            octets = total - (frame[l4 + 12] >> 4) * 4
            outgoing = address[2] == _OUTGOING
            if octets and self.server_port in (sport, dport):
                port = sport if outgoing else dport
                self.segments.append(Seg(seconds * SECOND + ns, outgoing, port, seq, seq + octets))

    def retransmissions(self) -> list[int]:
        """When the workload sent octets that it had sent before."""
        sent: dict[int, int] = {}
        again = []
        for segment in (s for s in self.read() if s.outgoing):
            if segment.end <= sent.get(segment.port, 0):
                again.append(segment.at_ns)
            sent[segment.port] = max(segment.end, sent.get(segment.port, 0))
        return again

    def close(self) -> None:
        self._socket.close()


def stream_of(document: dict[str, Any]) -> dict[str, Any]:
    return next(f for f in document["flows"] if f.get("stack") == "kernel")


@pytest.fixture
def echo(triple: Triple) -> Run:
    return triple.reflect(triple.far, "--udp", "862", "--echo", str(ECHO_PORT))


def until_typed(tap: Tap, keystrokes: int) -> None:
    wait_for(lambda: sum(s.outgoing for s in tap.read()) >= keystrokes, 30, f"for {keystrokes} keystrokes")


def until_echoed(tap: Tap, keystrokes: int, since_ns: int, port: int = 0) -> None:
    """So many segments have come back since then, to another client port than `port`."""

    def back() -> bool:
        return sum(not s.outgoing and s.at_ns > since_ns and s.port != port for s in tap.read()) >= keystrokes

    wait_for(back, 60, f"for {keystrokes} echoes")


def ended(run: Run) -> dict[str, Any]:
    """Ctrl-C, and the document of what was measured until then."""
    run.interrupt()
    return run.document()


@pytest.mark.parametrize("address", [IPV4, f"[{IPV6}]"], ids=["4", "6"])
def test_a_stall_is_what_the_workloads_interface_saw(triple: Triple, echo: Run, address: str) -> None:
    """Its start, its end, and each retransmission in it, to a millisecond."""
    tap = Tap(triple, ECHO_PORT)
    run = triple.start_measure(f"tcp+stream://{address}:{ECHO_PORT}", f"udp://{address}", rate=20, duration=180)
    until_typed(tap, 15)
    triple.drop(f"tcp dport {ECHO_PORT}", "udp dport 862")
    wait_for(lambda: len(tap.retransmissions()) >= 3, 30, "for retransmissions")
    triple.drop()
    until_echoed(tap, 60, time.time_ns())  # until the loss threshold has passed for all that was lost
    document = ended(run)
    assert laws(document, settled=True) == []
    flow, again, segments = stream_of(document), tap.retransmissions(), tap.read()
    tap.close()
    assert flow["verdict"] == "survived"
    assert flow["counts"]["lost"] == 0
    assert document["matrix"]["default"] == {"stream": "survived", "udp": "survived"}
    longest = max(flow["stream"]["stalls"], key=lambda s: s["duration_ns"])
    seen = [at for at in again if longest["start_ns"] <= at <= longest["end_ns"]]
    assert len(longest["retransmitted_ns"]) == len(seen) >= 3
    assert all(abs(a - b) < MS for a, b in zip(longest["retransmitted_ns"], seen, strict=True))
    # It ends with the first echo after the last of them, as it came in at the interface.
    end = next(s.at_ns for s in segments if not s.outgoing and s.at_ns > longest["start_ns"])
    assert abs(longest["end_ns"] - end) < MS
    # It starts when the first keystroke that was dropped was handed to the kernel, which sends it at once; a busy
    # machine may come between our reading of the clock and that.
    typed = next(s.at_ns for s in segments if s.outgoing and s.at_ns >= longest["start_ns"])
    assert typed - longest["start_ns"] < 50 * MS
    assert longest["rto_max_ns"] >= 2 * 200 * MS
    assert longest["backoff_max"] >= 1
    # TCP waits in ever longer steps: frozen for longer than the path was dark.
    dark = next(f for f in document["flows"] if f["protocol"] == "udp")["outages"][0]["duration_ns"]
    assert longest["duration_ns"] > dark["lower"] - 2 * flow["interval_ns"]


@pytest.mark.parametrize("by", ["peer", "firewall"])
@pytest.mark.parametrize("address", [IPV4, IPV6], ids=["4", "6"])
def test_a_session_that_is_reset_is_over_and_the_next_one_shows_when_new_ones_work(
    triple: Triple, echo: Run, address: str, by: str
) -> None:
    """By its peer, or in the peer's name by the router: the TTL tells."""
    tap = Tap(triple, ECHO_PORT)
    target = f"[{address}]" if ":" in address else address
    run = triple.start_measure(f"tcp+stream://{target}:{ECHO_PORT}", rate=20, duration=180)
    until_typed(tap, 10)
    (old,) = {segment.port for segment in tap.read()}
    if by == "peer":
        echo.kill()
        triple.reflect(triple.far, "--echo", str(ECHO_PORT))
    else:
        rule = f"tcp sport {old} tcp dport {ECHO_PORT} reject with tcp reset"
        triple.nft("table inet forger {", "chain forward {", "type filter hook forward priority 0;", rule, "}", "}")
    until_echoed(tap, 5, 0, old)
    document = ended(run)
    tap.close()
    assert laws(document, settled=True) == []
    flow = stream_of(document)
    end = flow["session_end"]
    assert end["cause"] in ("rst", "fin") if by == "peer" else end["cause"] == "rst"
    assert (end["from"], end["by"]) == (address, by)
    assert (end["ttl"], end["peer_ttl"]) == (63 if by == "peer" else 64, 63)
    assert flow["verdict"] == "reset"
    (again, *_) = flow["stream"]["reconnected"]
    assert again["at_ns"] > end["at_ns"]
    assert flow["counts"]["received"] >= 10


def test_without_an_echo_service_it_says_what_is_needed(triple: Triple) -> None:
    run = triple.start_measure(f"tcp+stream://{IPV4}:{ECHO_PORT}", duration=1)
    assert run.end() == 5
    assert f"haprobe reflect --echo {ECHO_PORT}" in run.said()


# --- OpenSSH -------------------------------------------------------------------------------------------------------


class Ssh:
    """The real ssh and sshd: lines typed at a steady pace, echoed by `cat` at the far end, and when each came back."""

    def __init__(self, triple: Triple, directory: Path):
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / key)], check=True)
        authorized = directory / "authorized"
        authorized.write_bytes((directory / "user.pub").read_bytes())
        authorized.chmod(0o600)
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd separates privileges; the package's own
        config = directory / "sshd_config"
        config.write_text(
            f"Port {SSH_PORT}\nListenAddress {IPV4}\nHostKey {directory / 'host'}\nAuthorizedKeysFile {authorized}\n"
            "UsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n"
        )
        self._log = (directory / "ssh.log").open("wb")
        self.server = subprocess.Popen(
            inside(triple.far, [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(config)]),
            stdout=self._log,
            stderr=self._log,
        )
        options = [f"UserKnownHostsFile={directory / 'known'}", "StrictHostKeyChecking=accept-new", "BatchMode=yes"]
        words = [w for option in (*options, "ConnectionAttempts=20") for w in ("-o", option)]
        command = ["ssh", "-F", "none", "-i", str(directory / "user"), "-p", str(SSH_PORT), *words]
        self.client = subprocess.Popen(
            inside(triple.sender, [*command, f"{getpass.getuser()}@{IPV4}", "cat"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
        )
        self.echoed: dict[int, tuple[int, int]] = {}  # line to when it was typed and when it came back, Unix ns
        self._typed: dict[int, int] = {}
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._type), threading.Thread(target=self._hear)]
        for thread in self._threads:
            thread.start()

    def _type(self) -> None:
        assert self.client.stdin is not None
        number = 0
        while not self._closing.wait(0.1):
            self._typed[number] = time.time_ns()
            try:
                self.client.stdin.write(f"{number}\n".encode())
            except OSError:
                return
            number += 1

    def _hear(self) -> None:
        assert self.client.stdout is not None
        for line in self.client.stdout:
            self.echoed[int(line)] = (self._typed[int(line)], time.time_ns())

    def freeze(self) -> tuple[int, int]:
        """(start, end) of the longest time in which nothing came back."""
        back = sorted(at for _, at in self.echoed.values())
        gap, start, end = max((b - a, a, b) for a, b in itertools.pairwise(back))
        assert gap
        return start, end

    def close(self) -> None:
        self._closing.set()
        for process in (self.client, self.server):
            process.kill()
            process.wait(10)
        for thread in self._threads:
            thread.join(10)
        for pipe in (self.client.stdin, self.client.stdout, self._log):
            if pipe is not None:
                pipe.close()


def test_openssh_freezes_and_resumes_when_the_stream_says_so(triple: Triple, echo: Run, tmp_path: Path) -> None:
    """Two connections that wait for timeouts of their own, so they cannot resume at the same instant.

    What must hold: both freeze with the first keystroke after the path went dark; neither comes back before the path
    does; and each comes back with its first retransmission after that. As timeouts double, it waits for that no longer
    than it was in the dark already, and one first timeout.
    """
    for tool in ("ssh", "sshd", "ssh-keygen"):
        if shutil.which(tool, path="/usr/sbin:/usr/bin:/bin") is None:
            pytest.skip("needs openssh-server and openssh-client")
    tap, ssh = Tap(triple, ECHO_PORT), Ssh(triple, tmp_path)
    try:
        wait_for(lambda: len(ssh.echoed) > 5, 30, "for ssh")
        run = triple.start_measure(f"tcp+stream://{IPV4}:{ECHO_PORT}", duration=180)
        until_typed(tap, 12)
        before = time.time_ns()
        triple.drop(f"tcp dport {{ {ECHO_PORT}, {SSH_PORT} }}")
        dark = time.time_ns()
        time.sleep(1.5)
        lifting = time.time_ns()
        triple.drop()
        light = time.time_ns()
        until_echoed(tap, 5, light)
        wait_for(lambda: sum(at > light for _, at in list(ssh.echoed.values())) > 5, 60, "for ssh to go on")
        document = ended(run)
        start, end = ssh.freeze()
    finally:
        ssh.close()
        tap.close()
    flow = stream_of(document)
    assert flow["verdict"] == "survived"
    stall = max(flow["stream"]["stalls"], key=lambda s: s["duration_ns"])
    slack = SECOND + (dark - before)  # a few keystrokes on a busy machine, and what nft took
    assert abs(stall["start_ns"] - dark) < slack, "frozen with the first keystroke in the dark"
    assert abs(start - stall["start_ns"]) < slack, "and ssh as well"
    for resumed in (stall["end_ns"], end):
        assert resumed >= lifting, "nobody comes back before the path does"
        assert resumed - light <= (light - before) + 2 * SECOND, "and each with its next timeout"
