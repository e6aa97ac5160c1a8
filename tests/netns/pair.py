"""Two firewalls side by side in namespaces, each with its own connection tracking, and routers that choose one by hand.

                          ┌─ .11.2  a  .21.2 ─┐
s  .1.2 ── .1.1  x  .11.1 ┤                   ├ .21.1  y  .2.1 ── .2.2  d      all of 10.211.0.0/16
                    .12.1 └─ .12.2  b  .22.2 ─┘ .22.1

Nothing of the product's lab is in it: plain forwarding, nftables and conntrack, as a stranger would set them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from probe.lab import namespace

from .triple import NETNS, Triple, _pings, wait_for

FAR, NEAR = "10.211.2.2", "10.211.1.2"
SHARED = "10.211.99.1"
SIDES = {"a": ("10.211.11.2", "10.211.21.2"), "b": ("10.211.12.2", "10.211.22.2")}


class Pair(Triple):
    """The six namespaces. The inherited router is `x`, whose interface towards the sender is `a1`."""

    @property
    def names(self) -> list[str]:
        return [f"{self.prefix}{letter}" for letter in "sxdaby"]

    def _make(self) -> None:
        s, x, d, a, b, y = self.names
        for name in self.names:
            namespace.create(name)
            self.ip(name, "link set lo up")
        self._link(x, "a1 10.211.1.1/24", s, "a0 10.211.1.2/24")
        self._link(x, "xa 10.211.11.1/24", a, "ax 10.211.11.2/24")
        self._link(x, "xb 10.211.12.1/24", b, "bx 10.211.12.2/24")
        self._link(y, "ya 10.211.21.1/24", a, "ay 10.211.21.2/24")
        self._link(y, "yb 10.211.22.1/24", b, "by 10.211.22.2/24")
        self._link(y, "b0 10.211.2.1/24", d, "b1 10.211.2.2/24")
        self.ip(s, "route add default via 10.211.1.1")
        self.ip(d, "route add default via 10.211.2.1")
        self.ip(a, "route add 10.211.1.0/24 via 10.211.11.1", "route add 10.211.2.0/24 via 10.211.21.1")
        self.ip(b, "route add 10.211.1.0/24 via 10.211.12.1", "route add 10.211.2.0/24 via 10.211.22.1")
        for name in (x, y, a, b):
            self.run(name, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")

    def _link(self, one: str, here: str, other: str, there: str) -> None:
        (name, address), (far_name, far_address) = here.split(), there.split()
        self.ip(one, f"link add {name} type veth peer name {far_name} netns {other}")
        self.ip(one, f"addr add {address} dev {name}", f"link set {name} up")
        self.ip(other, f"addr add {far_address} dev {far_name}", f"link set {far_name} up")

    def side(self, letter: str) -> str:
        return f"{self.prefix}{letter}"

    def use(self, letter: str) -> None:
        """Both routers send everything by this firewall; the shared address moves to it."""
        inner, outer = SIDES[letter]
        self.ip(self.side("x"), f"route replace 10.211.2.0/24 via {inner}")
        for net in ("10.211.1.0/24", f"{SHARED}/32"):
            self.ip(self.side("y"), f"route replace {net} via {outer}")

    def rules(self, letter: str, *, invalid: str = "drop", nat: str = "", first: tuple[str, ...] = ()) -> None:
        """Set a firewall's rules.

        Args:
            letter: Which one.
            invalid: What it does with segments of sessions that it does not know.
            nat: Translate the sender's address to the firewall's `own`, or to one that both `share`; ports as well.
            first: Rules before all others.
        """
        ports = {"a": "20000-29999", "b": "30000-39999"}[letter]
        address = {"own": SIDES[letter][1], "shared": SHARED, "": ""}[nat]
        translate = (
            "chain nat {",
            "type nat hook postrouting priority 100;",
            f'oifname "{letter}y" meta l4proto {{ tcp, udp }} snat to {address}:{ports} random',
            f'oifname "{letter}y" snat to {address}',
            "}",
        )
        self._rules(
            letter,
            "table ip fw {",
            "chain forward {",
            "type filter hook forward priority 0; policy drop;",
            *first,
            f"ct state invalid counter {invalid}",
            "ct state new,established,related accept",
            "}",
            *(translate if nat else ()),
            "}",
        )
        # As a real firewall: nothing is picked up in the middle.
        self.run(self.side(letter), "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose=0")

    def crash(self, letter: str) -> None:
        """It forwards nothing any more, and answers nothing."""
        self._rules(
            letter,
            "table ip gone {",
            "chain everything {",
            "type filter hook prerouting priority -400; policy drop;",
            "}",
            "}",
        )

    def _rules(self, letter: str, *lines: str) -> None:
        self.run(self.side(letter), "nft", "-f", "-", text="\n".join(("flush ruleset", *lines)))

    def conntrack(self, letter: str, *arguments: str, text: str | None = None) -> str:
        return self.run(self.side(letter), "conntrack", *arguments, text=text)

    def copy_sessions(self, fro: str, to: str, chosen: Callable[[str], bool] = lambda _line: True) -> int:
        """Load one firewall's sessions into the other, as a synchronisation would have; how many."""
        saved = [line for line in self.conntrack(fro, "-L", "-o", "save").splitlines() if line.startswith("-A")]
        lines = [_with_translation(line) for line in saved if chosen(line)]
        if lines:
            self.conntrack(to, "-R", "-", text="\n".join(lines) + "\n")
        return len(lines)

    def reset(self) -> None:
        super().reset()
        for letter in "ba":
            if (NETNS / self.side(letter)).exists():
                self._rules(letter)
                self.conntrack(letter, "-F")
                self.use(letter)


def _with_translation(line: str) -> str:
    """A saved session, its translated port where the tool reads it: it saves the port apart from the address."""
    words = line.split()
    if "-n" not in words or "--reply-port-dst" not in words:
        return line
    words[words.index("-n") + 1] += ":" + words[words.index("--reply-port-dst") + 1]
    return " ".join(words)


@contextmanager
def opened(directory: Path) -> Iterator[Pair]:
    pair = Pair.open(directory, "p")
    try:
        for letter in "ba":
            pair.use(letter)
            wait_for(lambda: _pings(pair.sender, FAR), what="for a ping through each firewall")
        yield pair
    finally:
        pair.close()
