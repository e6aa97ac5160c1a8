"""The FortiGate stand-in's firewall: a stateful nftables ruleset that behaves as the workshop's policies do.

    path         from    to      translation                      policy
    ingress      port1   port2   VIP: 1:1 DNAT to workload A,     sessions that matched the VIP
                                 SNAT to the unit's port2
    egress       port2   port1   SNAT to the unit's port1         all
    east-west    port2   port2   none                             all

Mid-stream TCP without a session (`nf_conntrack_tcp_loose=0`) is dropped in silence, FortiOS's default, or
answered with RST (`reset-sessionless-tcp`). Both units carry the same rules, like a synchronised
configuration; the secondary has one more table which forwards nothing. Heartbeat and management (port3,
port4) are outside connection tracking, so that no session table flush or synchronisation concerns them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from probe.lab import namespace
from probe.lab.plan import WORKLOAD_A, LabOptions, Plan

# Settings of connection tracking in a unit, as FortiOS has them where it has a default of its own. The short
# ones keep the session table small under fresh flows: it is bounded for the whole machine, not per namespace.
CONNTRACK: dict[str, int] = {
    "nf_conntrack_tcp_loose": 0,  # a session starts with SYN
    "nf_conntrack_tcp_timeout_syn_sent": 10,  # FortiOS tcp-halfopen-timer
    "nf_conntrack_tcp_timeout_syn_recv": 10,
    "nf_conntrack_tcp_timeout_close": 2,
    "nf_conntrack_tcp_timeout_time_wait": 2,
    "nf_conntrack_udp_timeout": 20,
    "nf_conntrack_udp_timeout_stream": 180,  # FortiOS udp-idle-timer
    "nf_conntrack_icmp_timeout": 10,
    # For `sessions`: which sessions are long ones, which were handed over, which still carry packets.
    "nf_conntrack_acct": 1,
    "nf_conntrack_timestamp": 1,
}
KEPT_MARK = 0x6B
"""Mark of a session that has seen more packets than any fresh flow's ever does."""
KEPT_PACKETS = 40

_RULES = """\
table inet firewall {{
  chain untracked {{
    type filter hook prerouting priority raw; policy accept;
    iifname {{ "lo", "port3", "port4" }} notrack
  }}
  chain untracked_output {{
    type filter hook output priority raw; policy accept;
    oifname {{ "lo", "port3", "port4" }} notrack
  }}
  chain sessionless {{
    {sessionless}
    drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct mark 0 ct original packets > {kept_packets} ct mark set {kept_mark}
    ct state established,related accept
    ct state invalid goto sessionless
    iifname "port2" oifname {{ "port1", "port2" }} accept
    iifname "port1" oifname "port2" ct status dnat accept
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname {{ "lo", "port3", "port4" }} accept
    ct state established,related accept
    ct state invalid goto sessionless
    iifname "port2" icmp type echo-request accept
  }}
}}
table ip translation {{
  chain vip {{
    type nat hook prerouting priority dstnat; policy accept;
    iifname "port1" ip daddr {extip} dnat to {mapped}
  }}
  chain egress {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "port1" snat to {port1}
    {ingress}
  }}
}}
"""

# Before the policies, so that a secondary neither forwards nor answers for a session it may know.
_PASSIVE = """\
table inet passive {
  chain forward {
    type filter hook forward priority filter - 10; policy drop;
  }
}
"""
_PASSIVE_CLEAR = "table inet passive\ndelete table inet passive\n"  # declaring it first makes this never fail


@dataclass(frozen=True, slots=True)
class FirewallOptions:
    """What the rules of one unit depend on."""

    port1: str  # the unit's own address: what egress is translated to
    port2: str  # what the source of ingress is translated to, with `ingress_snat`
    extip: str  # external address of the VIP
    mapped: str = WORKLOAD_A
    reset_sessionless_tcp: bool = False
    ingress_snat: bool = True


def options_for(unit: str, options: LabOptions) -> FirewallOptions:
    """The rules' options of a unit in a lab.

    With `vip_extip="fixed"` both units' VIP is bound to fgt-a's address. That is the workshop's trap: the
    firewall configuration is synchronised, addresses are not, and after a failover the VIP matches nothing.
    """
    plan = Plan(options=options)
    own = plan.eni_of(unit, "port1").port_address
    extip = own if options.vip_extip == "own" else plan.eni_of("fgt-a", "port1").port_address
    return FirewallOptions(
        own,
        plan.eni_of(unit, "port2").port_address,
        extip,
        reset_sessionless_tcp=options.reset_sessionless_tcp,
        ingress_snat=options.ingress_snat,
    )


def ruleset(options: FirewallOptions) -> str:
    """The policies and translations of one unit as nftables text, without the secondary's extra table."""
    # A RST is never answered with a RST.
    reset = "tcp flags & rst == 0 reject with tcp reset" if options.reset_sessionless_tcp else ""
    ingress = f'oifname "port2" ct status dnat snat to {options.port2}' if options.ingress_snat else ""
    return _RULES.format(
        sessionless=reset,
        extip=options.extip,
        mapped=options.mapped,
        port1=options.port1,
        ingress=ingress,
        kept_packets=KEPT_PACKETS,
        kept_mark=KEPT_MARK,
    )


def forwarding(enabled: bool) -> str:
    """The nftables text that lets a unit forward (primary) or not (secondary). Can be repeated."""
    return _PASSIVE_CLEAR if enabled else _PASSIVE_CLEAR + _PASSIVE


def install(options: FirewallOptions) -> None:
    """Set a unit's rules up, in the namespace of the caller. It starts as secondary: forwarding nothing.

    Raises:
        LabError: If nftables refuses.
    """
    namespace.run(["nft", "-f", "-"], "flush ruleset\n" + forwarding(False) + ruleset(options))
    for name, value in CONNTRACK.items():
        (Path("/proc/sys/net/netfilter") / name).write_text(str(value))


def set_forwarding(enabled: bool) -> None:
    """Become primary or secondary on the data plane, in the namespace of the caller; in effect on return."""
    namespace.run(["nft", "-f", "-"], forwarding(enabled))
