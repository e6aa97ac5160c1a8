"""Scapy as a sender: `python -m tests.bench.scapy_sender WAY COUNT LIMIT_S TARGET PORT [MAC MAC]`; prints JSON.

Told apart from the rest so that loading Scapy counts as nobody's sending.
"""

from __future__ import annotations

import json
import logging
import sys
import time


def main() -> None:
    way, count, limit_s, target, port, *macs = sys.argv[1:]
    logging.getLogger("scapy").setLevel(logging.ERROR)
    from scapy.all import IP, UDP, Ether, Raw, conf, send

    packet = IP(dst=target) / UDP(sport=40000, dport=int(port)) / Raw(b"\0" * 44)
    end = time.monotonic() + float(limit_s)
    sent, wall, cpu = 0, time.monotonic(), time.process_time()
    if way == "send":
        while sent < int(count) and time.monotonic() < end:
            send(packet, count=100, verbose=0)  # a socket for each call, as its users have it
            sent += 100
    else:
        frame = Ether(src=macs[0], dst=macs[1]) / packet
        socket = conf.L2socket(iface="a0")
        while sent < int(count) and time.monotonic() < end:
            socket.send(frame)
            sent += 1
        socket.close()
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
