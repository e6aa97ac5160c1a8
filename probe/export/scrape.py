"""`/metrics`: a scrape is made in a thread, piece by piece, and shared by everybody who asks while it is made.

The answer of an agent with thousands of flows is tens of megabytes. It is compressed only for a client that asks for
it, fast rather than small, and sent in pieces, so that other clients get their turn in between.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import StreamingResponse

from probe.export.collector import Exposition, content_type
from probe.export.negotiation import takes_gzip
from probe.export.view import AgentView

PIECE = 1 << 18  # octets; smaller ones are sent together
_LEVEL = 1  # of 1 to 9: names and labels repeat so much that more effort gains little
_GZIP = 16 + zlib.MAX_WBITS


class Scrapes:
    """The scrapes of one agent. Used on the server's event loop."""

    def __init__(self, view: AgentView):
        self._exposition = Exposition(view)
        self._under_way: dict[tuple[str, bool], asyncio.Task[list[bytes]]] = {}

    async def answer(self, request: Request) -> StreamingResponse:
        """The response to a GET or HEAD; that to a HEAD tells only the format."""
        # A list may be spread over several lines of the same name.
        accept, encodings = (", ".join(request.headers.getlist(name)) for name in ("accept", "accept-encoding"))
        headers = {"Content-Type": content_type(accept), "Vary": "Accept, Accept-Encoding"}
        compressed = takes_gzip(encodings)
        if compressed:
            headers["Content-Encoding"] = "gzip"
        if request.method == "HEAD":
            return StreamingResponse(_each([]), headers=headers)
        pieces = await self._made(accept, compressed)
        headers["Content-Length"] = str(sum(map(len, pieces)))
        return StreamingResponse(_each(pieces), headers=headers)

    async def _made(self, accept: str, compressed: bool) -> list[bytes]:
        key = (content_type(accept), compressed)
        task = self._under_way.get(key)
        if task is None:

            def make() -> list[bytes]:
                pieces = self._exposition.render(accept)
                return list(_packed(_gzipped(pieces) if compressed else pieces))

            task = self._under_way[key] = asyncio.create_task(anyio.to_thread.run_sync(make))
            task.add_done_callback(lambda _task: self._under_way.pop(key))
        # A client that goes away takes the scrape from nobody else.
        return await asyncio.shield(task)


def _gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _packed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same octets in pieces of at least PIECE octets, but for the last."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
