from __future__ import annotations

import pytest

from probe.core.events import FlowSpec
from probe.wire import layout, sizes
from probe.wire.craft import flow_template


def frame_of(protocol, size, target):
    source = "10.0.0.1" if "." in target else "2001:db8::1"
    spec = FlowSpec("a", protocol, "kept", "p", target, 0 if protocol == "icmp" else 862, 1000.0, size=size)
    return flow_template(
        spec,
        source=source,
        target=target,
        source_mac=bytes(6),
        target_mac=bytes(6),
        session=1,
        error_estimate=1,
    )


def test_none_is_the_default():
    for protocol in ("icmp", "udp", "tcp"):
        assert sizes.effective_size(protocol, None) == sizes.DEFAULT_SIZE[protocol]
        assert sizes.effective_size(protocol, 1) == sizes.MIN_SIZE[protocol]
        assert sizes.effective_size(protocol, sizes.MAX_SIZE) == sizes.MAX_SIZE


@pytest.mark.parametrize("protocol", ["icmp", "udp", "tcp"])
@pytest.mark.parametrize("target", ["10.0.0.2", "2001:db8::2"])
def test_every_size_can_be_sent_and_is_what_was_promised(protocol, target):
    for wanted in [None, *range(1, 260), 576, 1499, 1500]:
        promised = sizes.effective_size(protocol, wanted)
        assert promised >= min(wanted or 0, promised)
        template = frame_of(protocol, wanted, target)
        more = sizes.IP_HEADER[template.family] - sizes.IP_HEADER[4]
        assert len(template.frame) - sizes.ETHERNET - more == promised, wanted


def test_a_stamp_packet_is_bare_or_ends_in_a_whole_tlv():
    # A TLV header alone has four octets (RFC 8972, section 4): one to three more than a complete packet cannot be.
    for wanted in range(sizes.MIN_SIZE["udp"], 300):
        room = sizes.effective_size("udp", wanted) - 20 - 8
        rest = room - (sizes.UDP_PAYLOAD if room >= sizes.UDP_PAYLOAD else sizes.STAMP_BASE)
        assert rest == 0 or rest >= sizes.TLV_HEADER


def test_the_default_carries_all_that_we_need():
    assert frame_of("udp", None, "10.0.0.2").kind == layout.UDP
    assert frame_of("udp", 72, "10.0.0.2").kind == layout.UDP_BASE


def test_sizes_match_the_layouts():
    for family in (4, 6):
        header = sizes.ETHERNET + sizes.IP_HEADER[family]
        assert layout.frame_dtype("icmp", family).itemsize == header + sizes.ICMP_HEADER + sizes.ICMP_PAYLOAD
        udp = header + sizes.UDP_HEADER
        assert layout.frame_dtype("udp_base_reply", family).itemsize == udp + sizes.STAMP_BASE
        assert layout.frame_dtype("udp_auth_reply", family).itemsize == udp + sizes.STAMP_AUTH
        # One spare octet ends a report: the last named field is the TTL before it.
        assert layout.frame_dtype("udp", family).itemsize == udp + sizes.UDP_PAYLOAD - 1
        assert layout.frame_dtype("tcp", family).itemsize == header + sizes.TCP_HEADER + sizes.TCP_PAYLOAD - 1
