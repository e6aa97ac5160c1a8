"""Sender, reflector and recorder together, in simulated time: what must hold whatever happens."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .world import MS, S, Weather, World, world

KINDS = ["icmp", "udp", "tcp", "udp_base"]
WRAP = {"icmp": (1 << 16) - 150, "udp": (1 << 32) - 150, "udp_base": (1 << 32) - 150, "tcp": 0}

spans = st.integers(1, 500).map(lambda n: n * MS)
shares = st.sampled_from([0.02, 0.3])
# What happens next, and for how long. Every name is a method of Story.
steps = st.one_of(
    st.tuples(st.just("calm"), spans),
    st.tuples(st.sampled_from(["dark_out", "dark_back", "dark_both", "late", "jitter"]), spans),
    st.tuples(st.sampled_from(["loss_out", "loss_back", "duplicate"]), spans, shares),
    st.tuples(st.sampled_from(["stall", "far_stall", "link_down", "send_error", "restart"]), spans),
    st.tuples(st.just("step"), st.sampled_from([-3600 * S, -S, -MS, MS, S, 3600 * S])),
    st.tuples(st.sampled_from(["add", "remove"]), st.integers(1, 3)),
)


class Story:
    """Steps of a drawn story, carried out."""

    def __init__(self, network: World):
        self.world = network

    def tell(self, step: tuple) -> None:
        name, *arguments = step
        getattr(self, name)(*arguments)
        self.world.out.weather, self.world.back.weather = Weather(), Weather()

    def calm(self, ns: int) -> None:
        self.world.run(ns)

    def dark_out(self, ns: int) -> None:
        self.world.out.weather = Weather(dark=True)
        self.world.run(ns)

    def dark_back(self, ns: int) -> None:
        self.world.back.weather = Weather(dark=True)
        self.world.run(ns)

    def dark_both(self, ns: int) -> None:
        self.world.out.weather = self.world.back.weather = Weather(dark=True)
        self.world.run(ns)

    def late(self, ns: int) -> None:
        """Replies take longer than the loss threshold."""
        self.world.back.weather = Weather(extra=700 * MS)
        self.world.run(ns)

    def jitter(self, ns: int) -> None:
        self.world.out.weather = Weather(jitter=20 * MS)
        self.world.back.weather = Weather(jitter=50 * MS)
        self.world.run(ns)

    def loss_out(self, ns: int, share: float) -> None:
        self.world.out.weather = Weather(loss=share)
        self.world.run(ns)

    def loss_back(self, ns: int, share: float) -> None:
        self.world.back.weather = Weather(loss=share, duplicate=share)
        self.world.run(ns)

    def duplicate(self, ns: int, share: float) -> None:
        self.world.out.weather = self.world.back.weather = Weather(duplicate=share)
        self.world.run(ns)

    def stall(self, ns: int) -> None:
        """Our process stands still; its ring keeps what arrives."""
        self.world.sender_stalled = True
        self.world.run(ns)
        self.world.sender_stalled = False

    def far_stall(self, ns: int) -> None:
        self.world.reflector_stalled = True
        self.world.run(ns)
        self.world.reflector_stalled = False

    def link_down(self, ns: int) -> None:
        self.world.shut("link_down")
        self.world.run(ns)
        self.world.shut("")

    def send_error(self, ns: int) -> None:
        self.world.shut("send_error")
        self.world.run(ns)
        self.world.shut("")

    def restart(self, ns: int) -> None:
        self.world.restart_reflector()
        self.world.run(ns)

    def step(self, ns: int) -> None:
        self.world.step_wall(ns)
        self.world.run(7 * MS)

    def add(self, index: int) -> None:
        if index not in self.world.flows:
            self.world.add(index, KINDS[index], rate=300)
        self.world.run(20 * MS)

    def remove(self, index: int) -> None:
        if index in self.world.flows:
            self.world.remove(index)
        self.world.run(20 * MS)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    wrap=st.booleans(),
    story=st.lists(steps, min_size=1, max_size=8),
)
def test_whatever_happens_the_laws_hold_and_nothing_wrong_is_told(seed, kinds, wrap, story):
    with world(seed) as network:
        for index, kind in enumerate(kinds):
            network.add(index, kind, rate=random.Random(seed).choice([200, 500]), start=WRAP[kind] if wrap else 0)
        network.run(150 * MS)
        told = Story(network)
        for step in story:
            told.tell(step)
        network.settle()
        network.check()


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    kinds=st.lists(st.sampled_from(["icmp", "udp", "tcp"]), min_size=1, max_size=3),
    ring=st.sampled_from([16, 64]),
    far_ring=st.sampled_from([16, 64]),
    story=st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["stall", "far_stall", "link_down"]), spans),
            st.tuples(st.just("calm"), spans),
            st.tuples(st.just("duplicate"), spans, shares),
            st.tuples(st.just("step"), st.sampled_from([-S, S])),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_full_rings_and_stalls_are_no_outage(seed, kinds, ring, far_ring, story):
    """Our own hosts fail in every way, the network in none."""
    with world(seed, ring=ring, far_ring=far_ring) as network:
        for index, kind in enumerate(kinds):
            network.add(index, kind, rate=200)
        network.run(150 * MS)
        told = Story(network)
        for step in story:
            told.tell(step)
        network.settle()
        network.check()
        for flow in network.document()["flows"]:
            assert flow["outages"] == [] and flow["counts"]["lost"] == 0
