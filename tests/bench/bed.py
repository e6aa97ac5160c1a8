"""The namespaces of a benchmark, and programs run in them: bounded in time, with the CPU they used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from probe.bench import reflecting
from probe.lab import namespace, testbed
from probe.lab.testbed import Testbed
from probe.progress import Progress

ROOT = Path(__file__).parents[2]
SINK_PORT = 9  # UDP discard: counted and dropped at the far end, so that nobody answers
KILL_AFTER_S = 5.0


@dataclass(frozen=True)
class Finished:
    """A program that has ended, its output, and the CPU of it and of the children it waited for."""

    status: int
    stdout: str
    stderr: str
    wall_s: float
    cpu_s: float
    timed_out: bool

    @property
    def said(self) -> str:
        return f"{self.stdout}\n{self.stderr}".strip()

    @property
    def complaint(self) -> str:
        lines = self.said.splitlines()
        return f"failed with status {self.status}: {lines[-1] if lines else 'no output'}"


class Program:
    """A program in a namespace. Its output goes to files, so that it never waits for a reader."""

    def __init__(self, command: list[str], **environment: str):
        self._out = tempfile.TemporaryFile("w+b")  # noqa: SIM115 - `end` closes them
        self._err = tempfile.TemporaryFile("w+b")  # noqa: SIM115
        self._began = time.monotonic()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            cwd=ROOT,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def gone(self) -> bool:
        """Whether it has ended. Its usage stays there for `end` to collect, which Popen.poll would throw away."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def said(self) -> str:
        return (_content(self._out) + _content(self._err)).decode(errors="replace")

    def end(self, limit_s: float, stop: signal.Signals = signal.SIGTERM) -> Finished:
        """Wait for it. After the time it gets `stop`, and SIGKILL a few seconds later."""
        deadline, timed_out = self._began + limit_s, False
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                self.process.send_signal(signal.SIGKILL if timed_out else stop)
                timed_out, deadline = True, time.monotonic() + KILL_AFTER_S
            time.sleep(0.005)
        wall = time.monotonic() - self._began
        self.process.returncode = os.waitstatus_to_exitcode(status)
        out, err = (_content(file).decode(errors="replace") for file in (self._out, self._err))
        self._out.close()
        self._err.close()
        return Finished(self.process.returncode, out, err, wall, usage.ru_utime + usage.ru_stime, timed_out)


def _content(file: Any) -> bytes:
    """All of it, without moving the offset that the writer shares with us."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)


class Bed:
    """Where a benchmark runs.

    Args:
        network: The namespaces.
        progress: Where it tells what it does.
    """

    def __init__(self, network: Testbed, progress: Progress):
        self.network, self.progress = network, progress
        self.target = network.target

    def start(self, place: str, argv: Sequence[str], **environment: str) -> Program:
        return Program(self.network.command(place, list(argv)), **environment)

    def run(
        self, argv: Sequence[str], limit_s: float, *, place: str = "sender", stop: signal.Signals = signal.SIGTERM
    ) -> Finished:
        """Run to the end, or for `limit_s`."""
        return self.start(place, argv).end(limit_s, stop)

    @contextmanager
    def serving(self, place: str, argv: Sequence[str]) -> Iterator[Program]:
        """A program that runs as long as the block."""
        program = self.start(place, argv)
        try:
            yield program
        finally:
            program.process.kill()
            program.end(KILL_AFTER_S)

    @contextmanager
    def reflecting(self) -> Iterator[int]:
        """haprobe's reflector at the far end: the pid of its engine."""
        with reflecting(self.network) as pid:
            yield pid

    def nft(self, text: str, place: str = "router") -> str:
        return namespace.run(self.network.command(place, ["nft", "-f", "-"]), text)

    def clear(self, place: str = "router") -> None:
        self.nft("flush ruleset\n", place)

    def sink(self) -> None:
        """From now on count what comes to SINK_PORT at the far end, from zero, and drop it."""
        lines = ["flush ruleset", "table inet sink {", "counter seen { }", "chain in {"]
        lines += [
            "type filter hook prerouting priority raw;",
            f"udp dport {SINK_PORT} counter name seen drop",
            "}",
            "}",
        ]
        self.nft("\n".join(lines) + "\n", "far")

    def sunk(self) -> int:
        """How many packets have come to SINK_PORT."""
        listed = json.loads(namespace.run(self.network.command("far", ["nft", "-j", "list", "counters"])))
        return next(item["counter"]["packets"] for item in listed["nftables"] if "counter" in item)

    def dropped(self) -> int:
        """How many packets all rules of the router have dropped."""
        listed = json.loads(namespace.run(self.network.command("router", ["nft", "-j", "list", "ruleset"])))
        rules = [item["rule"]["expr"] for item in listed["nftables"] if "rule" in item]
        return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)

    def macs(self) -> tuple[str, str]:
        """MAC addresses of the sender's interface and of the router's beside it."""
        return self._mac("sender", "a0"), self._mac("router", "a1")

    def _mac(self, place: str, interface: str) -> str:
        def read() -> str:
            with IPRoute() as ipr:
                return str(ipr.get_links(ifname=interface)[0].get_attr("IFLA_ADDRESS"))

        return namespace.inside(self.network.path(place), read)

    def measure(self, *targets: str, **options: Any) -> Program:
        """Start `haprobe measure` at the sender; it prints its document."""
        words = [text for key, value in options.items() for text in (f"--{key.replace('_', '-')}", str(value))]
        return self.start("sender", haprobe("measure", *targets, "--json", "-", *words))


def haprobe(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "probe.cli", *arguments]


def there(tool: str) -> bool:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin") is not None


def engine_of(pid: int, role: str = "sender") -> int:
    """The engine process of a control process."""

    def find() -> int:
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                for child in (task / "children").read_text().split():
                    words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                    if b"probe.engine" in words and role.encode() in words:
                        return int(child)
        return 0

    return wait_for(find, "an engine process")


def wait_for(condition: Callable[[], Any], what: str, within_s: float = 15.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within_s:g} s in vain for {what}")
        time.sleep(0.02)
    return found


@contextmanager
def opened(progress: Progress) -> Iterator[Bed]:
    with testbed.opened() as network:
        yield Bed(network, progress)
