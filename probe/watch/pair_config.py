"""The config file for a pair that was found: complete for watching it, with what else it could say as comments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from probe import __version__
from probe.watch.access import Access
from probe.watch.pair import Pair, Unit


def config_text(pair: Pair, access: Access, now: datetime) -> str:
    """A config for the pair that an agent takes as it is, with what it could go on to say as comments."""
    first, second = pair.units
    lines = [
        f"# Written by haprobe {__version__} discover aws, {now:%Y-%m-%d %H:%M} UTC: {pair.vpc} in {pair.region}.",
        "# It watches the pair, and probes nothing yet: add flows. Check: haprobe run --config.check --config.file F",
    ]
    lines += ["#", "# Not certain:", *(f"# - {doubt}" for doubt in pair.doubts)] if pair.doubts else []
    lines += ["", "watchers:", "  aws:", f"    region: {pair.region}"]
    for key in ("profile", "role_arn", "external_id", "endpoint_url"):
        value = getattr(access, key)
        lines += [f"    {key}: {_quoted(value)}"] if value else []
    lines += _listed("addresses", [(e.allocation, _eip_comment(e.address, e.interface, pair)) for e in pair.eips])
    tables = [(table, f"{', '.join(ones)} to the pair") for table, ones in pair.tables.items()]
    lines += _listed("route_tables", tables)
    comments = [(eni, "its secondary private addresses move") for eni in pair.moving_interfaces]
    lines += _listed("network_interfaces", comments)
    lines += ["    units:"]
    for unit in pair.units:
        lines += [f"      {unit.name}:" + _unit_comment(unit, pair)]
        lines += [f"        - {e.id}  # {e.port}, {e.address}, {e.role}" for e in unit.interfaces]
    lines += ["    instances:", *(f"      {unit.name}: {unit.instance}" for unit in pair.units)]
    lines += _suggestions(pair, first, second)
    return "\n".join(lines) + "\n"


def _listed(key: str, entries: Sequence[tuple[str, str]]) -> list[str]:
    return [f"    {key}:", *(f"      - {value}  # {comment}" for value, comment in entries)] if entries else []


def _eip_comment(address: str, interface: str, pair: Pair) -> str:
    where = next(f"{u.name} {e.port}" for u in pair.units for e in u.interfaces if e.id == interface)
    return f"{address}, now on {where}"


def _unit_comment(unit: Unit, pair: Pair) -> str:
    words = [unit.zone, unit.state] + (["active"] if unit.name == pair.active else [])
    return f"  # {', '.join(word for word in words if word)}"


def _suggestions(pair: Pair, first: Unit, second: Unit) -> list[str]:
    target = pair.eips[0].address if pair.eips else "203.0.113.10"
    active = pair.active or first.name
    hosts = {unit.name: unit.management or "MANAGEMENT-ADDRESS" for unit in (first, second)}
    return [
        "",
        "# flows:",
        f"#   - {{name: ingress, protocol: tcp, session: fresh, path: ingress, target: {target}, port: 22}}",
        "#   - {name: east-west, protocol: udp, session: both, path: east-west, target: WORKLOAD-B}  # haprobe reflect",
        "#",
        "# watchers.fortigate, beside aws above:",
        "#   fortigate:",
        "#     units:",
        *(f"#       {name}: {{host: {host}, token_file: /etc/haprobe/{name}.token}}" for name, host in hosts.items()),
        "#",
        "# agents: {workload-b: {url: http://WORKLOAD-B:10862}}",
        "# drill:",
        f"#   trigger: {{kind: fortigate, unit: {active}, host: {hosts[active]}, user: haprobe,",
        "#             key_file: /etc/haprobe/id_ed25519, known_hosts: /etc/haprobe/known_hosts}",
    ]


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
