"""Flows as an engine holds them, for tests of what it does with them."""

from __future__ import annotations

from typing import Any

from probe.core.events import FlowSpec
from probe.session.flows import ONE_ID, PORT_SPACE, Flow, FlowTable
from probe.wire.craft import flow_template

ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
KINDS = {
    "icmp": {"protocol": "icmp", "port": 0},
    "udp": {"protocol": "udp"},
    "udp_base": {"protocol": "udp", "size": 72},
    "udp_auth": {"protocol": "udp", "key_file": "/etc/key"},
    "tcp": {"protocol": "tcp"},
    "syn": {"protocol": "tcp", "session": "fresh"},
}
KEY = b"0123456789abcdef"


def template(name: str, family: int, *, session: int = 0x1234567890ABCDEF, source: str = "", **more: Any):
    own, target = ADDRESSES[family]
    fields = {"session": "kept", "port": 862, **KINDS[name], **more}
    spec = FlowSpec(name, path="p", target=target, rate_pps=1000.0, **fields)
    macs = {"source_mac": bytes.fromhex("020000000001"), "target_mac": bytes.fromhex("020000000002")}
    return flow_template(spec, source=source or own, target=target, session=session, error_estimate=0x8587, **macs)


def add(
    table: FlowTable, index: int, name: str, family: int, ids: list[int], per_id: int = ONE_ID, **more: Any
) -> Flow:
    made = template(name, family, **more)
    flow = Flow(
        index=index,
        name=name,
        kind=made.kind,
        family=family,
        target=ADDRESSES[family][1],
        transmitter=("ethernet", 1),
        proto=PORT_SPACE[made.kind],
        interval_ns=1_000_000,
        session=0x1234567890ABCDEF,
        ids=ids,
        min_probes=3,
        threshold_ns=100_000_000,
        key=KEY if name == "udp_auth" else b"",
    )
    table.add(flow, made.frame, made.rest, 0, per_id)
    return flow
