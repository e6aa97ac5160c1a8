"""From a configured flow to the command that starts it: name to address, route, next hop, template frame."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from probe.config import look_up
from probe.core.events import FlowSpec
from probe.engine import LARGE, SMALL
from probe.errors import ConfigError, PeerError
from probe.keys import read_key
from probe.link.path import Path, resolve
from probe.wire.craft import Template, flow_template

_rng = random.SystemRandom()


@dataclass(slots=True)
class PreparedFlow:
    """A flow that is ready to be handed to an engine.

    Attributes:
        spec: As configured.
        index: Row in the engine's tables.
        address: The target's address.
        path: How to get there.
        session: Random number of this flow of this run.
    """

    spec: FlowSpec
    index: int
    address: str
    path: Path
    session: int
    error_estimate: int

    def template(self) -> Template:
        """The flow's frame, by its present path."""
        return flow_template(
            self.spec,
            source=self.path.source_ip,
            target=self.address,
            source_mac=self.path.source_mac,
            target_mac=self.path.destination_mac,
            session=self.session,
            error_estimate=self.error_estimate,
        )

    def frame_fields(self, template: Template | None = None) -> dict[str, Any]:
        """What changes with the path."""
        template = template or self.template()
        large = "-large" if len(template.frame) > SMALL else ""
        return {
            "frame": template.frame.hex(),
            "rest": template.rest,
            "transmitter": [self.path.kind + large, self.path.ifindex],
        }

    def add_command(self, *, limit: int | None = None, lead_ns: int = 0) -> dict[str, Any]:
        """The command that starts the flow in an engine."""
        template = self.template()
        spec = self.spec
        return {
            "command": "add",
            "stack": "packet",
            "index": self.index,
            "name": spec.name,
            "kind": template.kind,
            "family": template.family,
            "session_kind": spec.session,
            "target": self.address,
            "interval_ns": spec.interval_ns,
            "session": self.session,
            "min_probes": spec.outage_min_probes,
            "threshold_ns": spec.loss_threshold_ns,
            "limit": limit,
            "lead_ns": lead_ns,
            "coarse": spec.pacing == "coarse",
            "key": read_key(spec.key_file).hex() if spec.key_file is not None else "",
            **self.frame_fields(template),
        }


def stream_command(spec: FlowSpec, index: int, address: str, *, limit: int | None = None) -> dict[str, Any]:
    """The command that starts a stream in an engine: the kernel finds the way."""
    return {
        "command": "add",
        "stack": "kernel",
        "index": index,
        "name": spec.name,
        "interval_ns": spec.interval_ns,
        "session": _rng.getrandbits(64),
        "min_probes": spec.outage_min_probes,
        "threshold_ns": spec.loss_threshold_ns,
        "limit": limit,
        "way": {
            "address": address,
            "port": spec.port,
            "source": spec.source or "",
            "interface": spec.interface or "",
            "dscp": spec.dscp,
            "ttl": spec.ttl,
        },
    }


def host_address(host: str, *, like: str | None = None) -> str:
    """The first address of a host name or address literal, of the family of the address `like` if given.

    Raises:
        ConfigError: If the name does not resolve.
    """
    try:
        return look_up(host, like=like)
    except OSError as error:
        raise ConfigError(f"unknown host {host!r}: {error.strerror or error}") from error


def prepare(
    spec: FlowSpec, index: int, *, error_estimate: int, address: str, path: Path | None = None, timeout_s: float = 2.0
) -> PreparedFlow:
    """Find the way to a flow's target, unless it is known.

    Raises:
        PeerError: If there is no way to it.
    """
    if path is None:
        path = resolve(address, source=spec.source, interface=spec.interface, timeout_s=timeout_s)
    if (spec.size or 0) + 14 > LARGE:
        raise PeerError(f"flow {spec.name}: packets of {spec.size} octets do not fit an Ethernet frame")
    return PreparedFlow(spec, index, address, path, _rng.getrandbits(63) | 1, error_estimate)
