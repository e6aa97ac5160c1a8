"""Session pickup: one conntrackd per unit, FTFW mode, unicast over the heartbeat port.

FortiOS `session-pickup` synchronises TCP sessions and nothing else, unless `session-pickup-connectionless` is
enabled too; so does this. Only TCP sessions that got as far as ESTABLISHED are sent, so that the SYN probes of
fresh flows do not drown them. The role changes follow the primary-backup procedure of the conntrack-tools manual.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from probe.lab import namespace
from probe.lab.plan import Plan, eni_of, peer_of

_PORT = 3780
_READY_S = 3.0

# What each step of the procedure is for: commit the peer's sessions into the kernel (returns when done), forget
# both caches, read the kernel's sessions again, send them all to the peer. conntrackd 1.4.7 ignores `-f` once
# it has committed anything ("commit still in progress" in its log for ever); harmless, the next commit then
# repeats sessions that the peer has not withdrawn.
_TO_PRIMARY = ("-c", "-f", "-R", "-B")
# Let the sessions the peer owns now run out (after PurgeTimeout, unless we become primary before), ask the peer
# for all of its sessions.
_TO_SECONDARY = ("-t", "-n")

_CONFIG = """\
Sync {{
    Mode FTFW {{
        DisableExternalCache off
        PurgeTimeout 5
        StartupResync on
    }}
    UDP {{
        IPv4_address {own}
        IPv4_Destination_Address {peer}
        Port {port}
        Interface port3
        SndSocketBuffer 1249280
        RcvSocketBuffer 1249280
        Checksum on
    }}
    Options {{
        TCPWindowTracking off
    }}
}}
General {{
    Systemd off
    HashSize 8192
    HashLimit 65536
    LogFile {log}
    Syslog off
    LockFile {lock}
    UNIX {{
        Path {socket}
    }}
    NetlinkBufferSize 2097152
    NetlinkBufferSizeMaxGrowth 8388608
    NetlinkOverrunResync on
    Filter From Kernelspace {{
        Protocol Accept {{
            {protocols}
        }}
        State Accept {{
            ESTABLISHED CLOSE_WAIT TIME_WAIT for TCP
        }}
    }}
}}
"""


def config(plan: Plan, unit: str) -> str:
    """The configuration of a unit's conntrackd."""
    stem = plan.state / f"{unit}-conntrackd"
    return _CONFIG.format(
        own=eni_of(unit, "port3").address,
        peer=eni_of(peer_of(unit), "port3").address,
        port=_PORT,
        protocols="\n            ".join(_protocols(plan)),
        log=stem.with_suffix(".log"),
        lock=stem.with_suffix(".lock"),
        socket=stem.with_suffix(".ctl"),
    )


def _protocols(plan: Plan) -> tuple[str, ...]:
    return ("TCP", "UDP", "ICMP") if plan.options.session_pickup_connectionless else ("TCP",)


@dataclass
class Conntrackd:
    """The conntrackd of one unit. All methods are for a process inside the unit's namespace.

    Use it in this order: `start`, then `to_primary` and `to_secondary` at each role change, then `stop`.
    """

    plan: Plan
    unit: str
    _process: subprocess.Popen[bytes] | None = None

    @property
    def _file(self) -> Path:
        return self.plan.state / f"{self.unit}-conntrackd.conf"

    def start(self) -> None:
        """Start it and wait until it takes commands.

        Raises:
            LabError: If it is not installed or does not start; says where its log is.
        """
        self._file.write_text(config(self.plan, self.unit))
        stem = self.plan.state / f"{self.unit}-conntrackd"
        for leftover in (".lock", ".ctl"):
            stem.with_suffix(leftover).unlink(missing_ok=True)
        with stem.with_suffix(".out").open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    ["conntrackd", "-C", str(self._file)], stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            except FileNotFoundError as error:
                raise namespace.LabError("conntrackd is not installed, and session pickup needs it") from error
        deadline = time.monotonic() + _READY_S
        while not stem.with_suffix(".ctl").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise namespace.LabError(f"conntrackd of {self.unit} did not start; see {output.name}")
            time.sleep(0.01)

    def to_primary(self) -> None:
        """Put the peer's sessions into the kernel; they pass from now on."""
        for step in _TO_PRIMARY:
            self._command(step)

    def to_secondary(self) -> None:
        """Leave the sessions to the peer and ask it for its own."""
        for step in _TO_SECONDARY:
            self._command(step)

    def statistics(self) -> dict[str, int]:
        """Sessions it holds now: `internal` are the kernel's, `external` the peer's."""
        text = self._command("-s")
        found = re.findall(r"cache (internal|external):\s*\n\s*current active connections:\s*(\d+)", text)
        return {kind: int(count) for kind, count in found}

    def stop(self) -> None:
        """End it. Sessions in the kernel stay."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def pid(self) -> int:
        """Its process id; 0 when it is not running."""
        return self._process.pid if self._process else 0

    def _command(self, option: str) -> str:
        return namespace.run(["conntrackd", "-C", str(self._file), option])


def flush_sessions() -> None:
    """Empty the kernel's session table, in the namespace of the caller."""
    namespace.run(["conntrack", "-F"])


def sessions() -> list[str]:
    """The kernel's sessions in the namespace of the caller, one line each."""
    environment = dict(os.environ, LC_ALL="C")
    done = subprocess.run(["conntrack", "-L"], capture_output=True, text=True, check=False, env=environment)
    return done.stdout.splitlines()
