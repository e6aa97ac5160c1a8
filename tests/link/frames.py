"""Numbered frames, as the tests of the rings send them: UDP to PORT, checksums left out."""

from __future__ import annotations

import numpy as np
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from probe.link.base import FrameReceiver, Frames, FrameSender, SendResult
from probe.link.bpf import probe_filter

from .netns import End, wait_for

PORT = 61000
OCTETS = 14 + 20 + 8 + 8
FRAME = np.dtype([("eth", "V14"), ("ip", "V20"), ("udp", "V8"), ("seq", ">u8")])
FRAME6 = np.dtype([("eth", "V14"), ("ip", "V40"), ("udp", "V8"), ("seq", ">u8")])
# As a reflector's port, so that ICMP errors stay out: on a real host nobody listens on PORT.
FILTER = probe_filter(udp_reflect=PORT, snaplen=128)


def template(source: End, target: End) -> bytes:
    ethernet = Ether(src=source.mac.hex(":"), dst=target.mac.hex(":"))
    return bytes(ethernet / IP(src=source.ipv4, dst=target.ipv4) / UDP(dport=PORT, chksum=0) / Raw(bytes(8)))


def local_template(version: int, address: str) -> bytes:
    network = IP(src=address, dst=address) if version == 4 else IPv6(src=address, dst=address)
    return bytes(Ether(type=0x0800) / network / UDP(dport=PORT) / Raw(bytes(8)))


def write(sender: FrameSender, frame: bytes, sequences: range, layout: np.dtype = FRAME) -> int:
    """Write numbered copies of a frame into free slots; how many there was room for."""
    first, count = sender.free(len(sequences))
    sender.view(f"V{len(frame)}")[first : first + count] = np.void(frame)
    sender.view(layout)["seq"][first : first + count] = sequences[:count]
    return count


def send(sender: FrameSender, frame: bytes, sequences: range, layout: np.dtype = FRAME) -> SendResult:
    """Send one batch, which must fit."""
    wait_for(lambda: sender.free(len(sequences))[1] == len(sequences))
    count = write(sender, frame, sequences, layout)
    return sender.send(count, np.full(count, len(frame), np.int32))


def send_all(sender: FrameSender, frame: bytes, sequences: range, batch: int = 64, layout: np.dtype = FRAME) -> None:
    """Send in as many batches as it takes; every frame must leave."""
    at = 0
    while at < len(sequences):
        wait_for(lambda: sender.free(1)[1])
        count = write(sender, frame, sequences[at : at + batch], layout)
        result = sender.send(count, np.full(count, len(frame), np.int32))
        assert (result.sent, result.error) == (count, "")
        assert [frames for frames, before, after, _ in result.calls if before <= after] == [count]
        at += count


def taken(receiver: FrameReceiver, count: int) -> Frames:
    """Wait for `count` frames or more, and give them as one batch."""
    parts: list[Frames] = []

    def enough() -> bool:
        frames = receiver.take()
        if len(frames.stamps_ns):
            parts.append(Frames(*(column.copy() for column in frames)))
        return sum(len(part.stamps_ns) for part in parts) >= count

    wait_for(enough)
    narrowest = min(part.octets.shape[1] for part in parts)
    return Frames(
        np.concatenate([part.octets[:, :narrowest] for part in parts]),
        *(np.concatenate(columns) for columns in zip(*(part[1:] for part in parts), strict=True)),
    )


def numbers(frames: Frames, layout: np.dtype = FRAME) -> list[int]:
    """The sequence of each."""
    rows = np.ascontiguousarray(frames.octets[:, : layout.itemsize])
    return rows.view(layout)["seq"][:, 0].tolist() if len(rows) else []


def sequences(receiver: FrameReceiver, layout: np.dtype = FRAME) -> list[int]:
    """Take all that has been handed over."""
    got: list[int] = []
    while new := numbers(receiver.take(), layout):
        got += new
    return got


def receive(receiver: FrameReceiver, count: int, layout: np.dtype = FRAME) -> list[int]:
    """Wait for `count` frames."""
    got: list[int] = []

    def enough() -> bool:
        got.extend(sequences(receiver, layout))
        return len(got) >= count

    wait_for(enough)
    return got


def nothing_stale_leaves(sender: FrameSender, receiver: FrameReceiver, frame: bytes, wire: tuple, who: str) -> None:
    """While the link of `who` (own or peer) is down all is refused, and nothing of that leaves later."""
    send(sender, frame, range(5))
    victim: End = wire[0 if who == "own" else 1]
    victim.set_link("down")
    for start in (100, 200):
        result = send(sender, frame, range(start, start + 50))
        assert (result.sent, result.error) == (0, "link_down")
    victim.set_link("up")
    wait_for(lambda: "LOWER_UP" in wire[0].ip("link", "show", "veth0"))
    # the error the kernel keeps for the socket from back then must not spoil the first batch either
    result = send(sender, frame, range(300, 310))
    assert (result.sent, result.error) == (10, "")
    assert receive(receiver, 15) == [*range(5), *range(300, 310)]
