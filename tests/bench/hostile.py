"""An API that misbehaves: one TCP port that does to every client what its mode says. For `watchers` and tests.

silent     accepts, and never says a word
denied     an error of HTTP 403; throttled: 503, both with the body an AWS error has
random     random octets instead of HTTP
endless    a body that never ends, as fast as it is taken
huge       a well-formed body of 64 MiB
deep       brackets, or elements, within each other without end
bomb       a compressed body that unpacks to a gigabyte
headers    header lines one octet at a time
drip       a body one octet at a time
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal, get_args

Mode = Literal["silent", "denied", "throttled", "random", "endless", "huge", "deep", "bomb", "headers", "drip"]
MODES: tuple[Mode, ...] = get_args(Mode)
PAUSE_S = 0.1  # between two octets
_PATIENCE_S = 60.0  # for a client that takes nothing
_MIB = 1 << 20
_ERROR = (
    "<Response><Errors><Error><Code>{}</Code><Message>no</Message></Error></Errors><RequestID>1</RequestID></Response>"
)
_STATUS = {"denied": ("403 Forbidden", "UnauthorizedOperation"), "throttled": ("503 Busy", "RequestLimitExceeded")}


class HostileServer:
    """Serves from threads of its own until closed.

    Args:
        listener: A listening socket; taken over.
        mode: What to do.
        xml: Whether bodies are XML, else JSON.
        tls: Wraps each connection.
    """

    def __init__(self, listener: socket.socket, mode: Mode, *, xml: bool, tls: ssl.SSLContext | None = None):
        self._listener, self._mode, self._xml, self._tls = listener, mode, xml, tls
        self._open: set[socket.socket] = set()
        self._closed = threading.Event()
        self.served = 0  # connections that came to a request
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Hang up on everybody."""
        self._closed.set()
        for one in (self._listener, *list(self._open)):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        client = raw
        self._open.add(raw)
        try:
            if self._mode == "silent":
                self._closed.wait()
                return
            raw.settimeout(_PATIENCE_S)
            if self._tls is not None:
                client = self._tls.wrap_socket(raw, server_side=True)
                self._open.add(client)
            self._talk(client)
        except (OSError, ValueError):
            pass  # the client has had enough
        finally:
            for one in (client, raw):
                one.close()
                self._open.discard(one)

    def _talk(self, client: socket.socket) -> None:
        while _request(client):
            self.served += 1
            for piece in answer(self._mode, self._xml):
                client.sendall(piece)
                if self._closed.is_set():
                    return
            if self._mode not in _STATUS:
                return


def _request(client: socket.socket) -> bool:
    """Whether there was one. All of it is read: who closes a connection with octets unread resets it."""
    head, _, body = _received(client, b"", lambda octets: b"\r\n\r\n" in octets).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *([0-9]+)", head)
    _received(client, body, lambda octets: len(octets) >= (int(length[1]) if length else 0))
    return bool(head)


def _received(client: socket.socket, octets: bytes, enough: Callable[[bytes], bool]) -> bytes:
    while not enough(octets) and (piece := client.recv(65_536)):
        octets += piece
    return octets


def answer(mode: Mode, xml: bool) -> Iterator[bytes]:
    """What is sent for one request, piece by piece."""
    if mode in _STATUS:
        status, code = _STATUS[mode]
        body = _ERROR.format(code).encode()
        yield f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        return
    if mode == "random":
        yield os.urandom(4096)
        return
    if mode == "headers":
        yield from _slowly(b"HTTP/1.1 200 OK\r\n" + b"X-Long: 1\r\n" * 100_000)
        return
    packed = "Content-Encoding: gzip\r\n" if mode == "bomb" else ""
    kind = "xml" if xml else "json"
    yield f"HTTP/1.1 200 OK\r\nContent-Type: text/{kind}\r\n{packed}Connection: close\r\n\r\n".encode()
    yield from _BODIES[mode](xml)


def _slowly(octets: bytes) -> Iterator[bytes]:
    for one in octets:
        yield bytes([one])
        time.sleep(PAUSE_S)


def _endless(xml: bool) -> Iterator[bytes]:
    yield b"<Response><addressesSet>" if xml else b"["
    while True:
        yield (b"<item></item>" if xml else b"[],") * 5000


def _huge(xml: bool) -> Iterator[bytes]:
    item = (b"<item><publicIp>192.0.2.1</publicIp></item>" if xml else b'{"serial_no":"1"},') * 1000
    yield b"<Response><addressesSet>" if xml else b'{"serial":"F","version":"v7","results":['
    for _ in range(64 * _MIB // len(item)):
        yield item
    yield b"</addressesSet></Response>" if xml else b"0]}"


def _deep(xml: bool) -> Iterator[bytes]:
    yield (b"<a>" if xml else b"[") * _MIB


def _bomb(xml: bool) -> Iterator[bytes]:
    packer = gzip.compress(b" " * (64 * _MIB))
    for _ in range(16):
        yield packer


def _drip(xml: bool) -> Iterator[bytes]:
    yield from _slowly(b" " * 100_000)


_BODIES: dict[str, Callable[[bool], Iterator[bytes]]] = {
    "endless": _endless,
    "huge": _huge,
    "deep": _deep,
    "bomb": _bomb,
    "drip": _drip,
}
