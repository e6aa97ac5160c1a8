"""The way of probes to their targets: found once (`resolve`), then followed (`PathMonitor`).

Runs in the control process, in the network namespace of the calling thread; of the caller of `start`, for the
monitor. The engine, which sends, is handed the result.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from pyroute2 import IPRoute

from probe.errors import HaprobeError, PeerError
from probe.link.neighbour import (
    NUD_FAILED,
    Path,
    Want,
    changed_interfaces,
    check_address,
    look_up,
    notifications,
    poke,
)

__all__ = ["Path", "PathMonitor", "resolve"]

log = logging.getLogger(__name__)

_RETRY_S = 0.01
_POKE_GAP_S = 1.0
_UNRESOLVED_S = 2.0
_RESTART_S = 1.0


def resolve(target_ip: str, *, source: str | None = None, interface: str | None = None, timeout_s: float = 2.0) -> Path:
    """Find the way to a target, making the kernel ask for the next hop's MAC where it does not know it.

    Blocks; from a coroutine call it in a thread.

    Args:
        target_ip: IPv4 or IPv6 address; link-local ones with `%interface`, or `interface` given.
        source: Address to send from; must be this host's.
        interface: Leave through this interface only.
        timeout_s: How long to wait for the next hop to answer.

    Raises:
        PeerError: If there is no route, or the next hop does not answer.
        UsageError: If `interface` or `source` is not this host's, or `target_ip` no address.
    """
    want = Want(check_address(target_ip), source, interface)
    deadline = time.monotonic() + timeout_s
    with IPRoute() as ipr:
        path, state = look_up(ipr, want)
        if path.destination_mac or path.kind == "local":
            return path
        poke(path)
        while time.monotonic() < deadline:
            path, state = look_up(ipr, want)
            if path.destination_mac:
                return path
            if state & NUD_FAILED:
                break
            time.sleep(_RETRY_S)
    protocol = "ARP" if ip_address(path.next_hop.partition("%")[0]).version == 4 else "neighbour discovery"
    raise PeerError(
        f"cannot reach {path.target}: next hop {path.next_hop} on {path.interface} does not answer {protocol}"
    )


@dataclass(slots=True)
class _Watched:
    want: Want
    path: Path | None
    keep_source: bool
    unresolved_since: float = 0.0  # monotonic seconds; 0 while the next hop is known


class PathMonitor:
    """Follows routes, neighbours, links and addresses, and tells when a target's path has changed.

    `changed(key, path)` is called from the monitor's thread. None means that this host cannot send there at all: no
    route, no interface, or a new next hop that has never answered. A next hop that answered once and stopped is *not*
    a change: probes go on to its last MAC, and are lost in the network, where the fault is.

    Args:
        changed: Called with the key given to `watch`, and the new path.
        refresh_s: How often next hops are poked, so that the kernel notices a MAC that changed without announcement,
            and everything is looked up again in case a notification was lost.
    """

    def __init__(self, changed: Callable[[Hashable, Path | None], None], *, refresh_s: float = 5.0):
        self._changed = changed
        self._refresh_s = refresh_s
        self._lock = threading.Lock()
        self._watched: dict[Hashable, _Watched] = {}
        self._poked: dict[tuple[int, str], float] = {}
        self._closing = False
        self._doorbell: socket.socket | None = None
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="path-monitor", daemon=True)

    def watch(
        self,
        key: Hashable,
        target_ip: str,
        *,
        source: str | None = None,
        interface: str | None = None,
        path: Path | None = None,
        keep: str | None = None,
    ) -> None:
        """Follow a target; `path` is what the caller knows already, so that only a difference is told.

        Watching a key again replaces what it stood for.

        Args:
            key: What `changed` is called with.
            target_ip: As of `resolve`.
            source: Likewise.
            interface: Likewise.
            path: The way as known, if it is.
            keep: For a session: stay with this source address as long as this host has it ("": with the first that is
                found), then with the next. None: always the one that the kernel prefers.
        """
        with self._lock:
            want = Want(check_address(target_ip), source, interface, keep or "")
            self._watched[key] = _Watched(want, path, keep is not None)
        self._wake()

    def unwatch(self, key: Hashable) -> None:
        """Forget a target; unknown keys are ignored."""
        with self._lock:
            self._watched.pop(key, None)

    def start(self) -> None:
        """Begin to follow, in the network namespace of the calling thread. Changes from here on are not missed."""
        self._doorbell = notifications()
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait for the thread; no call of `changed` follows."""
        self._closing = True
        self._wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        for sock in (self._doorbell, self._wake_out, self._wake_in):
            if sock is not None:
                sock.close()

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_in.send(b"\0")

    def _run(self) -> None:
        while not self._closing:
            try:
                with IPRoute() as ipr:
                    self._follow(ipr)
            except Exception:  # whatever the tables answered: without this thread, a failover here goes unnoticed
                log.exception("path monitor: starting over")
                select.select([self._wake_out], [], [], _RESTART_S)

    def _follow(self, ipr: Any) -> None:
        assert self._doorbell is not None
        refresh_at = time.monotonic() + self._refresh_s
        self._review(ipr, None)
        while not self._closing:
            due_s = refresh_at - time.monotonic()
            if self._unresolved():
                due_s = min(due_s, _UNRESOLVED_S / 4)
            ready, _, _ = select.select([self._doorbell, self._wake_out], [], [], max(due_s, 0))
            interfaces: set[int] | None = None
            if self._wake_out in ready:
                self._drain_wake()
            elif self._doorbell in ready:
                interfaces = changed_interfaces(self._doorbell)
            if time.monotonic() >= refresh_at:
                refresh_at = time.monotonic() + self._refresh_s
                self._poke_all()
            if not self._closing:
                self._review(ipr, interfaces)

    def _drain_wake(self) -> None:
        with suppress(BlockingIOError):
            while self._wake_out.recv(4096):
                pass

    def _unresolved(self) -> bool:
        with self._lock:
            return any(watched.unresolved_since for watched in self._watched.values())

    def _poke_all(self) -> None:
        with self._lock:
            paths = [watched.path for watched in self._watched.values() if watched.path is not None]
        for path in paths:
            self._poke(path)

    def _poke(self, path: Path) -> None:
        """Poke a next hop, but not more often than the kernel would ask anyway."""
        hop, now = (path.ifindex, path.next_hop), time.monotonic()
        if path.kind == "ethernet" and now - self._poked.get(hop, -_POKE_GAP_S) >= _POKE_GAP_S:
            self._poked[hop] = now
            poke(path)

    def _review(self, ipr: Any, interfaces: set[int] | None) -> None:
        """Look up what may have changed: next hops on `interfaces`, or everything if None."""
        with self._lock:
            watched = list(self._watched.items())
        found: dict[Want, Path | HaprobeError] = {}  # thousands of flows may have one target in common
        for key, item in watched:
            settled = item.path is not None and not item.unresolved_since
            if interfaces is not None and settled and item.path and item.path.ifindex not in interfaces:
                continue
            if item.want not in found:
                found[item.want] = _sought(ipr, item.want)
            path = self._settle(item, found[item.want])
            if path is not None and item.keep_source:
                item.want = replace(item.want, kept=path.source_ip)
            if path == item.path:
                continue
            item.path = path
            with self._lock:
                still_wanted = self._watched.get(key) is item and not self._closing
            if still_wanted:
                self._tell(key, path)

    def _settle(self, item: _Watched, path: Path | HaprobeError) -> Path | None:
        """What the path of an item is now, by what was found; remembers since when its next hop has been unknown."""
        if isinstance(path, HaprobeError):
            log.debug("%s: %s", item.want.target, path)
            item.unresolved_since = 0.0
            return None
        if path.kind == "local" or path.destination_mac:
            item.unresolved_since = 0.0
            return path
        self._poke(path)
        known = item.path
        if known is not None and (known.ifindex, known.next_hop) == (path.ifindex, path.next_hop):
            item.unresolved_since = 0.0
            return replace(path, destination_mac=known.destination_mac)
        item.unresolved_since = item.unresolved_since or time.monotonic()
        # A moment for the new next hop to answer, so that a mere change of route is told once, and complete.
        return known if time.monotonic() - item.unresolved_since < _UNRESOLVED_S else None

    def _tell(self, key: Hashable, path: Path | None) -> None:
        try:
            self._changed(key, path)
        except Exception:  # a listener's mistake must not end the watching
            log.exception("path of %s changed to %s", key, path)


def _sought(ipr: Any, want: Want) -> Path | HaprobeError:
    try:
        return look_up(ipr, want)[0]
    except HaprobeError as error:
        return error
