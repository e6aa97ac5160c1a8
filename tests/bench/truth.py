"""(4) Outages of known probes, made at the router: is what haprobe says of them true?

The router's kernel times the probes around each edge as they come by, in front of its rules. An outage that drops
exactly these probes began somewhere between the last that passed and the first that did not, and ended likewise; where
in between is drawn at random, as it is with a real one. That is the truth which the bounds must hold.

An outage of the way back is timed twice: by its probes on their way out, which is what a bound from TX times speaks of,
and by the replies where they are dropped, which a busy reflector's delay has moved.
"""

from __future__ import annotations

import ctypes
import json
import random
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from probe.lab import namespace

from .bed import Bed
from .plan import Direction, Drop, Plan, plans
from .results import Figure, Row

STARTING_S = 20.0
STAMP_PORT = 862
# Where STAMP's Sequence Number stands (RFC 8762, sections 4.2.1 and 4.3.1): in a frame without IP options, and for nft
# in bits from the transport header. In a reply it is the reflector's copy of ours.
FRAME_OFFSET: dict[Direction, int] = {"forward": 42, "reverse": 66}
NFT_OFFSET: dict[Direction, int] = {"forward": 64, "reverse": 256}
SIDE: dict[Direction, tuple[str, str, int]] = {  # interface it comes in by, nft match, offset of the port in a frame
    "forward": ("a1", f"udp dport {STAMP_PORT}", 36),
    "reverse": ("b0", f"udp sport {STAMP_PORT}", 34),
}
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 26, 33, 35
_LD_HALF, _LD_WORD, _JEQ, _RET = 0x28, 0x20, 0x15, 0x06


@dataclass(frozen=True)
class Found:
    """One planned outage against what was said of it. Errors in intervals; None: it was not told as it was."""

    drop: Drop
    rate_pps: float
    exact: bool  # one outage with exactly these probes
    direction: bool
    outside_us: float | None = None  # by how much the truth is outside the bounds; 0: inside
    error: float | None = None  # estimate minus truth
    bias: float | None = None  # the same, over all truths that would have dropped these probes
    outside_replies_us: float | None = None  # as outside_us, by the replies; forward: the same
    said: str = ""

    @property
    def inside(self) -> bool:
        return self.outside_us == 0


def truth(bed: Bed, *, outages: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    runs = plans(rng, outages)
    found: list[Found] = []
    extra = 0
    notes: list[str] = []
    with bed.reflecting():
        for number, one in enumerate(runs, 1):
            what = f"{len(one.drops)} outages at {one.rate_pps:,.0f}/s in {one.seconds:.1f} s"
            bed.progress.line(f"truth: run {number}/{len(runs)}, {what}")
            try:
                results, more, note = _run(bed, one, rng)
            except (RuntimeError, OSError) as error:
                notes.append(f"run {number} failed: {error}")
                continue
            found += results
            extra += more
            notes += [f"run {number}: {note}"] if note else []
            for result in results:
                if not (result.exact and result.direction and result.inside):
                    bed.progress.line(f"truth:   {_told(result)}")
    return [summary(found, outages, extra, seed, "; ".join(notes))]


def _run(bed: Bed, one: Plan, rng: random.Random) -> tuple[list[Found], int, str]:
    bed.nft(rules(one.drops))
    captures: dict[Direction, Edges] = {}
    ways: tuple[Direction, ...] = ("forward", "reverse")
    try:
        for way in ways:
            captures[way] = Edges(bed, way, one.drops)
        program = bed.measure(
            f"udp://{bed.target}", rate=one.rate_pps, duration=one.probes / one.rate_pps, loss_threshold=0.5
        )
        done = program.end(one.seconds + STARTING_S)
        dropped = bed.dropped()
        if done.status != 0:
            raise RuntimeError(done.complaint)
        (flow,) = json.loads(done.stdout)["flows"]
        arrivals = {way: capture.arrivals() for way, capture in captures.items()}
    finally:
        for capture in captures.values():
            capture.close()
        bed.clear()
    results = [judge(drop, one.rate_pps, flow["outages"], arrivals, rng) for drop in one.drops]
    planned = sum(drop.count for drop in one.drops)
    trouble = [f"the router dropped {dropped} instead of {planned}"] if dropped != planned else []
    counts = flow["counts"]
    trouble += [f"{counts[name]} {name}" for name in ("unsent", "dropped_locally", "late") if counts[name]]
    more = len(flow["outages"]) - sum(result.exact for result in results)
    return results, more, ", ".join(trouble)


def rules(drops: Sequence[Drop]) -> str:
    """For nft at the router: drop exactly these."""
    lines = ["flush ruleset", "table inet faults {", "chain forward {", "type filter hook forward priority 0;"]
    for way, (interface, match, _) in SIDE.items():
        ranges = ", ".join(f"{drop.first}-{drop.last}" for drop in drops if drop.direction == way)
        if ranges:
            lines.append(f'iifname "{interface}" {match} @th,{NFT_OFFSET[way]},32 {{ {ranges} }} counter drop')
    return "\n".join([*lines, "}", "}"]) + "\n"


def judge(
    drop: Drop,
    rate_pps: float,
    outages: Sequence[dict],
    arrivals: dict[Direction, dict[int, int]],
    rng: random.Random,
) -> Found:
    """Compare one planned outage with the document's.

    Args:
        drop: What was planned.
        rate_pps: Of the flow.
        outages: The flow's, from the result document.
        arrivals: When the probes (forward) and replies (reverse) around the edges came to the router, by sequence,
            Unix ns.
        rng: Where in between the edges lie.
    """
    touching = [o for o in outages if o["first_lost_seq"] <= drop.last and o["last_lost_seq"] >= drop.first]
    said = ", ".join(f"{o['direction']} {o['first_lost_seq']}-{o['last_lost_seq']}" for o in touching) or "nothing"
    direction = bool(touching) and all(o["direction"] == drop.direction for o in touching)
    same = [o for o in touching if (o["first_lost_seq"], o["last_lost_seq"]) == (drop.first, drop.last)]
    exact = len(touching) == 1 == len(same)
    if not exact or any(s not in arrivals[way] for s in edges(drop) for way in {"forward", drop.direction}):
        return Found(drop, rate_pps, exact, direction, said=said if not exact else "an edge was not seen at the router")
    told = same[0]["duration_ns"]
    drawn = rng.random(), rng.random()

    def length(times: dict[int, int], where: tuple[float, float]) -> float:
        at_begin, at_end = where
        last_ok, first_lost, last_lost, first_ok = (times[sequence] for sequence in edges(drop))
        return last_lost + at_end * (first_ok - last_lost) - last_ok - at_begin * (first_lost - last_ok)

    def outside_us(true: float) -> float:
        return max(told["lower"] - true, true - told["upper"], 0.0) / 1e3

    true = length(arrivals["forward"], drawn)
    error, bias = ((told["estimate"] - one) * rate_pps / 1e9 for one in (true, length(arrivals["forward"], (0.5, 0.5))))
    by_replies = outside_us(length(arrivals[drop.direction], drawn))
    return Found(drop, rate_pps, True, direction, outside_us(true), error, bias, by_replies, said)


def edges(drop: Drop) -> tuple[int, int, int, int]:
    """Last before, first and last of it, first after."""
    return drop.first - 1, drop.first, drop.last, drop.last + 1


def summary(found: Sequence[Found], planned: int, extra: int, seed: int, note: str) -> Row:
    timed = [one for one in found if one.error is not None]
    errors = [one.error for one in timed if one.error is not None]
    within = sum(abs(error) <= 1 for error in errors)
    inside = sum(one.inside for one in timed)
    biases = [one.bias for one in timed if one.bias is not None]
    bias = sum(biases) / len(biases) if biases else None
    exact, right = sum(one.exact for one in found), sum(one.direction for one in found)
    figures: dict[str, Figure] = {
        "outages": planned,
        "told exactly": exact,
        "direction right": right,
        "inside bounds": inside,
        "outside by us, most": max((one.outside_us or 0.0 for one in timed), default=None),
        "inside by replies": sum(one.outside_replies_us == 0 for one in timed),
        "within an interval": within,
        "error, most (intervals)": max((abs(error) for error in errors), default=None),
        "bias (intervals)": bias,
        "told besides": extra,
        "seed": seed,
        "met": min(exact, right, inside, within) == planned and extra == 0 and bias is not None and abs(bias) < 0.05,
    }
    return Row("truth", "haprobe", "probes dropped by sequence", figures, note)


def _told(one: Found) -> str:
    planned = f"{one.drop.direction} {one.drop.first}-{one.drop.last} at {one.rate_pps:,.0f}/s"
    if one.outside_us is None or not one.direction:
        return f"{planned}: told {one.said}"
    return f"{planned}: outside the bounds by {one.outside_us:.1f} us"


class Edges:
    """The probes around the edges of outages, stamped by the router's kernel; all others stay outside by a filter."""

    def __init__(self, bed: Bed, way: Direction, drops: Sequence[Drop]):
        interface, _, port_at = SIDE[way]
        self._offset = FRAME_OFFSET[way]
        wanted = sorted({sequence for drop in drops for sequence in edges(drop)})
        program = edge_filter(port_at, self._offset, wanted)
        self._socket = namespace.inside(bed.network.path("router"), self._open, interface, program)

    @staticmethod
    def _open(interface: str, program: bytes) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        code = ctypes.create_string_buffer(program, len(program))
        sock.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
        )
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        sock.bind((interface, 3))  # ETH_P_ALL
        sock.setblocking(False)
        return sock

    def arrivals(self) -> dict[int, int]:
        """Sequence to Unix ns."""
        found: dict[int, int] = {}
        while True:
            try:
                frame, ancillary, _, _ = self._socket.recvmsg(256, 64)
            except BlockingIOError:
                return found
            stamp = next(data for _, kind, data in ancillary if kind == _SO_TIMESTAMPNS)
            seconds, ns = struct.unpack("qq", stamp)
            found[struct.unpack_from("!I", frame, self._offset)[0]] = seconds * 1_000_000_000 + ns

    def close(self) -> None:
        self._socket.close()


def edge_filter(port_at: int, sequence_at: int, wanted: Sequence[int]) -> bytes:
    """Classic BPF: IPv4 UDP from or to STAMP's port with one of these sequences."""
    tests: list[tuple[int, int, int]] = [(_LD_HALF, 12, 0x0800), (0x30, 23, 17), (_LD_HALF, port_at, STAMP_PORT)]
    count = len(wanted)
    if count > 240:
        raise ValueError("a jump of classic BPF reaches no further than 255 instructions")
    code: list[tuple[int, int, int, int]] = []
    total = 2 * len(tests) + 1 + count + 2
    for load, at, value in tests:
        code.append((load, 0, 0, at))
        code.append((_JEQ, 0, total - 2 - len(code) - 1, value))  # else to the refusal, which is the last but one
    code.append((_LD_WORD, 0, 0, sequence_at))
    for sequence in wanted:
        code.append((_JEQ, total - 1 - len(code) - 1, 0, sequence))
    code += [(_RET, 0, 0, 0), (_RET, 0, 0, 256)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
