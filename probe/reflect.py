"""`haprobe reflect`: a Session-Reflector alone."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from typing import Any

from probe.errors import HaprobeError, PeerError, UsageError
from probe.interrupts import interruptible
from probe.keys import read_key
from probe.link.offload import cut_options
from probe.privileges import drop_privileges
from probe.supervise import ANYWHERE, Engine, Placement
from probe.timesync import HostClock, host_clock

CLOCK_ASKED_EVERY_S = 60.0


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
    options += [*_admission(interface, allow), *cut_options()]
    if key_file is None:
        engine = Engine("reflector", options, _ignore)
    else:
        first = {"key": read_key(key_file).hex()}
        engine = Engine("reflector", [*options, "--authenticated"], _ignore, first=first)
    threading.Thread(target=_tell_of_clock, args=(engine, clock), name="reflector-clock", daemon=True).start()
    return engine


def _tell_of_clock(engine: Engine, told: HostClock) -> None:
    """For as long as a reflector lives: what its replies say of our clock is what is known of it now."""
    drop_privileges()  # capabilities are a thread's own; this one needs none
    while engine.alive():
        time.sleep(CLOCK_ASKED_EVERY_S)
        clock = host_clock()
        if (clock.error_estimate(), clock.reference) == (told.error_estimate(), told.reference):
            continue
        told = clock
        with contextlib.suppress(OSError, ValueError, HaprobeError):  # it has just ended
            engine.send({"error_estimate": clock.error_estimate(), "sync_source": clock.reference})


def echo_engine(port: int, *, interface: str | None = None, allow: tuple[str, ...] = ()) -> Engine:
    """Start an echo service, for streams.

    Raises:
        UsageError: If the port is taken, or the interface does not exist.
        PrivilegeError: If the port needs a privilege.
    """
    return Engine("echo", ["--tcp", str(port), *_admission(interface, allow)], _ignore)


def _admission(interface: str | None, allow: tuple[str, ...]) -> list[str]:
    """Who is answered, and where, for an engine's command line."""
    options: list[str] = []
    if interface is not None:
        options += ["--ifindex", str(_index(interface))]
    for network in allow:
        options += ["--allow", network]
    return options


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        raise UsageError(f"no interface named {interface}") from error


def _see_that_it_is_there(ifindex: int, interface: str) -> None:
    try:
        socket.if_indextoname(ifindex)
    except OSError as error:
        raise PeerError(
            f"interface {interface} is gone; one that is made anew under that name is another one"
        ) from error


def _ignore(message: dict[str, Any]) -> None:
    """A reflector has nothing to tell beyond its counters."""


def reflect(
    *,
    udp_port: int | None,
    tcp_port: int | None,
    interface: str | None,
    key_file: str | None,
    echo_port: int | None = None,
    placement: Placement = ANYWHERE,
) -> int:
    """Reflect until interrupted.

    Raises:
        UsageError: If a port is taken, or given twice, or the interface does not exist.
        ConfigError: If the key cannot be used.
        PeerError: If the interface is gone for good: a supervisor then starts it on the one that has come in its place.
        HaprobeError: If a process ends by itself.
    """
    if echo_port and echo_port == tcp_port:
        raise UsageError(f"--tcp and --echo cannot share port {tcp_port}: one keeps the kernel away, one needs it")
    ifindex = _index(interface) if interface is not None else None
    stop = threading.Event()
    engines: list[Engine] = []
    with interruptible(stop.set):
        try:
            if udp_port or tcp_port:
                engines.append(
                    reflector_engine(udp_port, tcp_port, interface=interface, key_file=key_file, placement=placement)
                )
            if echo_port:
                engines.append(echo_engine(echo_port, interface=interface))
            named = (("udp", udp_port), ("tcp", tcp_port), ("echo", echo_port))
            ports = [f"{name} {port}" for name, port in named if port]
            print(f"haprobe: reflecting on {', '.join(ports)}", file=sys.stderr, flush=True)
            while not stop.wait(0.2):
                for engine in engines:
                    engine.check()
                if ifindex is not None and interface is not None:
                    _see_that_it_is_there(ifindex, interface)
        finally:
            for engine in engines:
                engine.stop()
    return 0
