"""An interpreter of classic BPF, written from linux/filter.h and nothing of ours: the oracle for `probe.link.bpf`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SKF_AD_OFF = -0x1000
ANCILLARY = {0: "protocol", 4: "pkttype", 28: "hatype", 44: "vlan_tag", 48: "vlan_tag_present"}


@dataclass(frozen=True)
class Skb:
    """A frame as the kernel holds it: without its VLAN tag, which is metadata."""

    data: bytes
    protocol: int
    pkttype: int = 0
    hatype: int = 1
    vlan_tag: int = 0
    vlan_tag_present: int = 0


def run(program: Sequence[tuple[int, int, int, int]], skb: Skb) -> int:
    """Octets of the frame the program lets through; 0 drops it."""
    accumulator, at = 0, 0
    for _ in range(len(program) + 1):
        code, jt, jf, k = program[at]
        at += 1
        group = code & 0x07
        if group == 0x00:  # BPF_LD
            if code == 0x80:  # BPF_LD | BPF_W | BPF_LEN
                accumulator = len(skb.data)
                continue
            assert code & 0xE0 == 0x20, "only absolute loads and the length are known here"
            size = {0x00: 4, 0x08: 2, 0x10: 1}[code & 0x18]
            signed = k - (1 << 32) if k >= 1 << 31 else k
            if signed < 0:
                accumulator = getattr(skb, ANCILLARY[signed - SKF_AD_OFF])
            elif k + size > len(skb.data):
                return 0
            else:
                accumulator = int.from_bytes(skb.data[k : k + size], "big")
        elif group == 0x04:  # BPF_ALU
            assert code == 0x54
            accumulator &= k
        elif group == 0x05:  # BPF_JMP
            tests = {0x10: accumulator == k, 0x20: accumulator > k, 0x30: accumulator >= k, 0x40: bool(accumulator & k)}
            at += k if code & 0xF0 == 0 else (jt if tests[code & 0xF0] else jf)
        elif code == 0x06:  # BPF_RET | BPF_K
            return k
        else:
            raise AssertionError(f"unknown instruction {code:#x}")
    raise AssertionError("the program does not end")
