"""Sizes of our packets, in octets of IP packet, and the few constants that both ends must agree on.

Kept free of imports so that the config can name them without loading the wire formats.
"""

ETHERNET = 14
IP_HEADER = {4: 20, 6: 40}
ICMP_HEADER = 8
UDP_HEADER = 8
TCP_HEADER = 20

COOKIE = 32  # our payload in ICMP and TCP: magic, compensator, session, sequence, TX time
REPORT = 52  # what our reflector says about itself and about what it received: see layout.py
STAMP_BASE = 44  # RFC 8762, section 4.2.1
TWAMP_REPLY = 41  # a TWAMP reflector may end behind the sender's TTL (RFC 5357, section 4.2.1)
STAMP_AUTH = 112  # RFC 8762, section 4.2.2
STAMP_SIGNED = 96  # octets of it that the HMAC covers; it stands right behind them
STAMP_HMAC = 16
TLV_HEADER = 4  # RFC 8972, section 4
TLV_VALUE = 24 + REPORT

ICMP_PAYLOAD = COOKIE
UDP_PAYLOAD = STAMP_BASE + TLV_HEADER + TLV_VALUE
TCP_PAYLOAD = COOKIE + 16 + REPORT

# Smallest IPv4 packet that can carry a probe, and the size sent when the config says nothing.
MIN_SIZE = {
    "icmp": IP_HEADER[4] + ICMP_HEADER + ICMP_PAYLOAD,
    "udp": IP_HEADER[4] + UDP_HEADER + STAMP_BASE,
    "tcp": IP_HEADER[4] + TCP_HEADER + TCP_PAYLOAD,
}
DEFAULT_SIZE = {
    "icmp": MIN_SIZE["icmp"],
    "udp": IP_HEADER[4] + UDP_HEADER + UDP_PAYLOAD,
    "tcp": MIN_SIZE["tcp"],
}
MAX_SIZE = 1500


def effective_size(protocol: str, wanted: int | None) -> int:
    """The size of IP packet that is sent when `wanted` was asked for (None: the default).

    Below the protocol's minimum it is raised to it. A STAMP packet is either the bare base packet or ends in a
    whole TLV, so up to three octets above the minimum are rounded up to the next packet that can exist.
    """
    if wanted is None:
        return DEFAULT_SIZE[protocol]
    size = max(wanted, MIN_SIZE[protocol])
    if protocol == "udp":
        for complete in (MIN_SIZE["udp"], DEFAULT_SIZE["udp"]):
            if complete < size < complete + TLV_HEADER:
                return complete + TLV_HEADER
    return size
