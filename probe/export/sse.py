"""Server-sent events: from the agent's threads to any number of HTTP clients, none of which can hold up the agent.

`EventHub.publish` may be called from any thread; everything else runs on the server's event loop. Each client has a
bounded queue. One that does not read fast enough loses its queue, is told so by a `dropped` event, and is cut off; on
reconnecting it names the last event it got (`Last-Event-ID`), and gets those after it, or a `missed` event when they
are no longer kept. A comment line now and then keeps middleboxes from closing an idle stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

HEARTBEAT = b": heartbeat\n\n"
_GREETING = b": haprobe events\nretry: 2000\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect events into pages otherwise
]


def frame(kind: str, data: Mapping[str, Any], event_id: str = "") -> bytes:
    """One event on the wire (HTML Living Standard, section 9.2.5)."""
    # JSON on one line has no line break that would need a second `data:`.
    body = json.dumps(data, ensure_ascii=False, default=str)
    name = f"id: {event_id}\n" if event_id else ""
    return f"{name}event: {kind}\ndata: {body}\n\n".encode()


class EventClient:
    """The queue of one connected client. Used on the event loop only."""

    def __init__(self, limit: int):
        self._limit = limit
        self._frames: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._lost = 0

    def push(self, data: bytes) -> None:
        """Queue a frame, or start counting what this client loses."""
        if self._lost or len(self._frames) >= self._limit:
            self._lost += len(self._frames) + 1
            self._frames.clear()
        else:
            self._frames.append(data)
        self._wake.set()

    def close(self) -> None:
        """End the stream after what is queued."""
        self._closed = True
        self._wake.set()

    async def next(self, heartbeat_s: float) -> bytes | None:
        """The next frame, a heartbeat when there is none for so long, or None at the end of the stream."""
        if not (self._frames or self._lost or self._closed):
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), heartbeat_s)
        if self._lost:
            lost, self._lost, self._closed = self._lost, 0, True
            return frame("dropped", {"lost": lost, "reason": "this client reads too slowly; connect again to go on"})
        if self._frames:
            return self._frames.popleft()
        return None if self._closed else HEARTBEAT


class EventHub:
    """Fans events out to clients, and keeps the newest for those that reconnect.

    Args:
        queue_size: Events a client may be behind before it is dropped.
        heartbeat_s: Seconds of silence after which a comment is sent.
        write_timeout_s: Seconds that one write to a client may take before its connection is given up.
        max_clients: Clients at a time; more are answered 503.
        kept: Events kept for clients that reconnect.
    """

    def __init__(
        self,
        *,
        queue_size: int = 256,
        heartbeat_s: float = 15.0,
        write_timeout_s: float = 30.0,
        max_clients: int = 64,
        kept: int = 256,
    ):
        self.heartbeat_s = heartbeat_s
        self.write_timeout_s = write_timeout_s
        self._queue_size = queue_size
        self._max_clients = max_clients
        self._life = secrets.token_hex(4)  # numbers of an earlier life of the agent must not be taken for ours
        self._number = 0
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=kept)
        self._clients: set[EventClient] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def attach(self, subscribe: Callable[[Callable[[str, dict[str, Any]], None]], Any]) -> Callable[[], None]:
        """Start taking events from `AgentView.subscribe`; call on the event loop. Returns a function that ends it."""
        self._loop = asyncio.get_running_loop()
        unsubscribe = subscribe(self.publish)

        def detach() -> None:
            if callable(unsubscribe):
                unsubscribe()
            self.close()

        return detach

    def publish(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send an event to every client. Safe from any thread, never blocks; without a server it is a no-op."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody is listening any more
                self._loop.call_soon_threadsafe(self._fan_out, kind, data)

    def _fan_out(self, kind: str, data: Mapping[str, Any]) -> None:
        self._number += 1
        encoded = frame(kind, data, f"{self._life}-{self._number}")
        self._kept.append((self._number, encoded))
        for client in self._clients:
            client.push(encoded)

    def join(self, last_event_id: str = "") -> EventClient | None:
        """A new client, given what it missed since `last_event_id`; None when there are too many."""
        if self._closed or len(self._clients) >= self._max_clients:
            return None
        client = EventClient(self._queue_size)
        for encoded in self._since(last_event_id):
            client.push(encoded)
        self._clients.add(client)
        return client

    def _since(self, last_event_id: str) -> list[bytes]:
        life, _, number = last_event_id.partition("-")
        if not number.isdecimal():
            return []
        seen = int(number)
        # A client dropped for slowness must not start with a full queue: it gets the newest half, after a `missed`.
        newest = [(n, encoded) for n, encoded in self._kept if n > seen or life != self._life][-self._queue_size // 2 :]
        complete = life == self._life and (seen >= self._number or bool(newest and newest[0][0] == seen + 1))
        if complete:
            return [encoded for _, encoded in newest]
        missed = frame(
            "missed", {"reason": "events since the last one you got are no longer kept; read the status again"}
        )
        return [missed, *(encoded for _, encoded in newest)]

    def leave(self, client: EventClient) -> None:
        """Forget a client."""
        self._clients.discard(client)

    def close(self) -> None:
        """End every stream; call on the event loop."""
        self._closed = True
        for client in self._clients:
            client.close()


class EventStream:
    """The HTTP response that one client reads: an ASGI app for one request."""

    def __init__(self, hub: EventHub, last_event_id: str = ""):
        self._hub = hub
        self._last_event_id = last_event_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = self._hub.join(self._last_event_id)
        if client is None:
            refused = PlainTextResponse("too many event streams, or shutting down; try again later\n", 503)
            await refused(scope, receive, send)
            return
        watcher = asyncio.create_task(_close_on_disconnect(receive, client))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            if scope["method"] != "HEAD":
                await self._pump(client, send)
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            pass  # it does not even take bytes: returning early makes the server close the connection
        finally:
            self._hub.leave(client)
            watcher.cancel()

    async def _pump(self, client: EventClient, send: Send) -> None:
        data: bytes | None = _GREETING
        while data is not None:
            message = {"type": "http.response.body", "body": data, "more_body": True}
            await asyncio.wait_for(send(message), self._hub.write_timeout_s)
            data = await client.next(self._hub.heartbeat_s)


async def _close_on_disconnect(receive: Receive, client: EventClient) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    client.close()
