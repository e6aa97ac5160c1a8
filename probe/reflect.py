"""`haprobe reflect`: a Session-Reflector alone."""

from __future__ import annotations

import socket
import sys
import threading
from typing import Any

from probe.errors import UsageError
from probe.interrupts import interruptible
from probe.keys import read_key
from probe.supervise import ANYWHERE, Engine, Placement
from probe.timesync import host_clock


def reflector_engine(
    udp: int | None,
    tcp: int | None,
    *,
    interface: str | None = None,
    allow: tuple[str, ...] = (),
    key_file: str | None = None,
    placement: Placement = ANYWHERE,
) -> Engine:
    """Start a reflector process.

    Raises:
        UsageError: If a port is taken, or the interface does not exist.
        PrivilegeError: Without the capabilities that raw sockets need.
    """
    clock = host_clock()
    options = ["--udp", str(udp or 0), "--tcp", str(tcp or 0), *placement.options()]
    options += ["--error-estimate", str(clock.error_estimate()), "--sync-source", str(clock.reference)]
    if interface is not None:
        try:
            options += ["--ifindex", str(socket.if_nametoindex(interface))]
        except OSError as error:
            raise UsageError(f"no interface named {interface}") from error
    for network in allow:
        options += ["--allow", network]
    if key_file is None:
        return Engine("reflector", options, _ignore)
    return Engine("reflector", [*options, "--authenticated"], _ignore, first={"key": read_key(key_file).hex()})


def _ignore(message: dict[str, Any]) -> None:
    """A reflector has nothing to tell beyond its counters."""


def reflect(
    *,
    udp_port: int | None,
    tcp_port: int | None,
    interface: str | None,
    key_file: str | None,
    placement: Placement = ANYWHERE,
) -> int:
    """Reflect until interrupted.

    Raises:
        UsageError: If a port is taken.
        ConfigError: If the key cannot be used.
        HaprobeError: If the reflector process ends by itself.
    """
    stop = threading.Event()
    with interruptible(stop.set):
        engine = reflector_engine(udp_port, tcp_port, interface=interface, key_file=key_file, placement=placement)
        try:
            ports = [f"{name} {port}" for name, port in (("udp", udp_port), ("tcp", tcp_port)) if port]
            print(f"haprobe: reflecting on {', '.join(ports)}", file=sys.stderr, flush=True)
            while not stop.wait(0.2):
                engine.check()
        finally:
            engine.stop()
    return 0
