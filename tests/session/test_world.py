"""Sender, reflector and recorder together, in simulated time: what must hold whatever happens."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probe.core.fate import COLUMN, LOST, LOST_FORWARD, LOST_REVERSE, RECEIVED
from probe.report.document import laws
from probe.session.sender import breath, latest
from tests.core.network import COLUMN_OF, expected_outages, shrink_rings

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
    st.tuples(
        st.sampled_from(["stall", "far_stall", "link_down", "send_error", "restart", "crowd", "far_crowd"]), spans
    ),
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

    def crowd(self, ns: int) -> None:
        """Our interface has no room for what arrives."""
        crowd(self.world, "back", ns)

    def far_crowd(self, ns: int) -> None:
        crowd(self.world, "out", ns)

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


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    wrap=st.booleans(),
    ring=st.sampled_from([4096, 4096, 16]),
    story=st.lists(steps, min_size=1, max_size=8),
)
def test_whatever_happens_the_laws_hold_and_nothing_wrong_is_told(seed, kinds, wrap, ring, story):
    with world(seed, ring=ring, far_ring=ring) as network:
        for index, kind in enumerate(kinds):
            network.add(index, kind, rate=random.Random(seed).choice([200, 500]), start=WRAP[kind] if wrap else 0)
        network.run(150 * MS)
        told = Story(network)
        for step in story:
            told.tell(step)
        network.settle()
        network.check()


# --- our own doing -------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
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


def test_a_stall_in_the_dark_makes_nothing_up():
    with world(6) as network:
        network.add(0, "udp", rate=500)
        network.run(500 * MS)
        network.out.weather = Weather(dark=True)
        network.run(500 * MS)
        network.sender_stalled = True
        network.run(50 * MS)
        network.sender_stalled = False
        network.run(200 * MS)
        network.shut("link_down")
        network.run(400 * MS)
        network.shut("")
        network.run(400 * MS)
        network.out.weather = Weather()
        network.run(200 * MS)
        states = [e["state"] for e in network.events("state", 0)]
        assert states == ["up", "suspect", "down", "connecting", "down", "up"]


@pytest.mark.parametrize("cause", ["link_down", "send_error"])
def test_what_is_not_sent_up_to_now_is_unobserved_and_not_up(cause):
    with world(6) as network:
        network.add(0, "udp", rate=500)
        network.run(500 * MS)
        network.shut(cause)
        network.run(700 * MS)
        network.sender.tell_open()
        network.run(800 * MS)
        network.sender.tell_open()
        network.recorder.sample()
        [flow] = network.document()["flows"]
        [span] = flow["unobserved"]
        unsent = flow["counts"]["unsent"]
        assert unsent > 700 and flow["counts"]["lost"] == 0
        assert span["cause"] == cause and span["end_ns"] - span["start_ns"] == unsent * 2 * MS
        assert [e["state"] for e in network.events("state", 0)] == ["up", "connecting"]
        network.shut("")
        network.run(200 * MS)
        assert [e["state"] for e in network.events("state", 0)] == ["up", "connecting", "up"], "it was no silence"
        network.shut(cause)
        network.run(3 * S)
        network.sender.halt()
        network.sender.close()
        network.recorder.sample()
        [flow] = network.document()["flows"]
        assert [u["cause"] for u in flow["unobserved"]] == [cause, cause]
        blind = sum(u["end_ns"] - u["start_ns"] for u in flow["unobserved"])
        assert abs(blind - flow["counts"]["unsent"] * 2 * MS) <= 4 * MS
        assert flow["outages"] == [] and laws(network.document()) == []


@pytest.mark.parametrize(
    ("trouble", "cause"), [("stall", "stall"), ("link_down", "link_down"), ("send_error", "send_error")]
)
def test_what_we_did_not_send_is_unobserved_and_splits_the_bounds(trouble, cause):
    """Alone it is no outage; within one, the time is not vouched for."""
    with world(6) as network:
        life = network.add(0, "udp", rate=500)
        network.run(500 * MS)
        story = Story(network)
        story.tell((trouble, 200 * MS))
        network.run(500 * MS)
        network.out.weather = Weather(dark=True)
        network.run(300 * MS)
        getattr(story, trouble)(200 * MS)
        network.run(100 * MS)
        network.settle()
        network.check()
        [flow] = network.document()["flows"]
        sent = [probe.sent + network.sender.anchor for probe in life.probes.values()]
        # Every slot of the schedule is in the account, sent or not.
        assert flow["counts"]["scheduled"] == round((sent[-1] - sent[0]) / (2 * MS)) + 1
        assert flow["counts"]["unsent"] == flow["counts"]["scheduled"] - len(sent) >= 190
        gaps = [(a, b) for a, b in pairwise(sent) if b - a > 10 * MS]
        spans = [(u["start_ns"], u["end_ns"], u["cause"]) for u in flow["unobserved"]]
        assert spans == [(a, b, cause) for a, b in gaps] and len(gaps) == 2
        [outage] = flow["outages"]
        bounds, edges, unseen = outage["duration_ns"], outage["edges_ns"], gaps[1][1] - gaps[1][0]
        assert outage["unobserved_ns"] == unseen
        assert bounds["lower"] == edges["last_lost"] - edges["first_lost"] - unseen
        assert bounds["lower"] <= 600 * MS <= bounds["upper"] == edges["first_ok"] - edges["last_ok"]


@pytest.mark.parametrize("kind", ["udp", "tcp", "icmp"])
@pytest.mark.parametrize("threshold", [50 * MS, 300 * MS, 2 * S])
@pytest.mark.parametrize("blind", [1100 * MS, 250 * MS, 0])
def test_what_a_link_threw_away_before_it_said_so_is_no_outage(kind, threshold, blind):
    """No further back than it may have done so, and nothing that was lost before an answer came."""
    with world(11) as network:
        life = network.add(0, kind, rate=500, threshold=threshold)
        network.run(300 * MS)
        network.out.weather = Weather(dark=True)
        network.run(100 * MS)
        network.out.weather = Weather()
        network.run(100 * MS)
        network.out.weather = network.back.weather = Weather(dark=True)  # the carrier goes
        gone = network.clock.mono
        network.run(400 * MS)
        for door in network.doors:
            door.blind_ns = blind
        network.shut("link_down")
        told = network.clock.mono
        network.run(300 * MS)
        network.settle()
        [flow] = network.document()["flows"]
        assert laws(network.document(), settled=True) == []
        sent = sorted((probe.sent, bool(probe.answered)) for probe in life.probes.values())
        missing = [at for at, answered in sent if not answered]
        before, after = [at for at in missing if at < gone - 50 * MS], [at for at in missing if at >= gone - 50 * MS]
        excused = flow["counts"]["dropped_locally"]
        assert len(before) == 50 and len(after) in range(200, 205)
        assert 0 <= excused - min(blind // (2 * MS), len(after)) <= 3  # with those that were on their way
        assert flow["counts"]["lost"] == len(missing) - excused
        assert len(flow["outages"]) == 1 + (blind < 400 * MS)
        [span] = flow["unobserved"]
        anchor = network.sender.anchor
        last = max(at for at, answered in sent if answered and at < told) if blind > 400 * MS else told - blind
        assert span["cause"] == "link_down" and abs(span["start_ns"] - anchor - last) <= 8 * MS
        assert span["end_ns"] - anchor == next(at for at, _ in sent if at > told)


@pytest.mark.parametrize(
    ("rate", "stalled_ms", "late"), [(1000, 15, 15), (10_000, 12, 120), (10_000, 15, 50), (1000, 40, 5), (50, 15, 0)]
)
def test_after_a_stall_a_few_are_made_up_for_and_the_time_still_went_unobserved(rate, stalled_ms, late):
    """What came due in a short one leaves at once; nobody watched all the same. After a long one, no burst."""
    with world(8) as network:
        life = network.add(0, "udp", rate=rate)
        network.run(201 * MS)
        before = len(life.probes)
        Story(network).stall(stalled_ms * MS)
        network.run(1 * MS)
        left = len(life.probes) - before - rate // 1000
        network.run(200 * MS)
        network.settle()
        network.check()
        [flow] = network.document()["flows"]
        assert flow["outages"] == [] and flow["counts"]["lost"] == 0
        assert flow["counts"]["unsent"] == flow["counts"]["scheduled"] - len(life.probes)
        if not late:  # not one slot came due too long ago: a probe a little late is within the flow's interval
            assert left <= 1 and flow["counts"]["unsent"] == 0 and flow["unobserved"] == []
            return
        assert abs(left - late) <= 2
        assert abs(flow["counts"]["unsent"] - (stalled_ms * rate // 1000 - late)) <= 1
        sent = [probe.sent + network.sender.anchor for probe in life.probes.values()]
        [gap] = [(a, b) for a, b in pairwise(sent) if b - a > 10 * MS]
        assert [(u["start_ns"], u["end_ns"], u["cause"]) for u in flow["unobserved"]] == [(*gap, "stall")]


def test_a_limit_of_processor_time_delays_what_is_settled_and_no_more():
    """As in a container that may use a part of a processor: it runs for 25 ms, stands still for 60, again and again."""
    with world(6) as network:
        network.add(0, "udp", rate=500)
        network.back.receiver.lag_ns = 50 * MS  # as a ring of blocks has
        network.run(500 * MS)
        story = Story(network)
        for _ in range(60):
            story.calm(25 * MS)
            story.stall(60 * MS)
            assert network.clock.mono - network.sender.ledger.settled_to <= 300 * MS + 250 * MS + 4 * 85 * MS
        network.out.weather = Weather(dark=True)
        network.run(100 * MS)
        network.settle()
        network.check()
        [flow] = network.document()["flows"]
        [outage] = flow["outages"]
        assert outage["lost"] == flow["counts"]["lost"] in range(50, 60)


@pytest.mark.parametrize(("rate", "ms"), [(0, 20), (10, 20), (6400, 20), (12_800, 10), (25_600, 5), (1e6, 5)])
def test_how_long_a_stall_may_be_that_loses_no_slot(rate, ms):
    assert latest(rate) == ms * MS


@pytest.mark.parametrize(
    ("rate", "flows", "fine", "spin", "us"),
    [
        (20_000, 1, True, True, 0),  # each probe has a wake-up
        (25_000, 1, True, True, 0),  # or is waited for
        (50_000, 10, True, True, 0),
        (50_000, 1, True, False, 50),
        (40_000, 10, True, True, 62),
        (50_000, 200, True, True, 500),
        (30_000, 10, True, True, 83),
        (60_000, 1, True, True, 1000),
        (1000, 1, False, True, 1000),
        (40_000, 1, False, True, 1000),
    ],
)
def test_hardly_two_probes_of_one_flow_leave_together(rate, flows, fine, spin, us):
    assert breath(rate, S * flows // rate, fine=fine, spin=spin) // 1000 == us


def test_where_more_is_asked_for_than_can_be_sent_all_that_is_late_goes_at_once():
    """Giving up takes time as well: a little at a time, it would make the next stall, and so on."""
    with world(7) as network:
        life = network.add(0, "udp", rate=25_000)
        network.run(50 * MS)
        story = Story(network)
        left = []
        for _ in range(3):
            network.run(1 * MS)
            before = len(life.probes)
            story.stall(8 * MS)
            network.run(1)
            left.append(len(life.probes) - before)
        network.settle()
        network.check()
        [flow] = network.document()["flows"]
        assert flow["outages"] == []
        # Of 200 slots that have passed, those of the last 5 ms are made up for the first time, then hardly any.
        assert 115 <= left[0] <= 135 and max(left[1:]) <= 30


@pytest.mark.parametrize("stalled_ms", [100, 250, 1000])
def test_a_reflector_whose_ring_was_full_tells_so_however_late(stalled_ms):
    # 300 ms of loss threshold: with the longest stall, probes are settled as lost long before anybody tells why.
    with world(3, far_ring=16) as network:
        for index, kind in enumerate(["udp", "tcp"]):
            network.add(index, kind, rate=200)
        network.run(400 * MS)
        Story(network).far_stall(stalled_ms * MS)
        network.settle()
        network.check()
        assert network.ring_drops > 2 * (stalled_ms // 5 - 16)
        for flow in network.document()["flows"]:
            assert flow["outages"] == [] and flow["counts"]["lost"] == 0
            assert flow["counts"]["dropped_locally"] >= stalled_ms // 5 - 16
            assert any(u["cause"] == "ring_drop" for u in flow["unobserved"])


@pytest.mark.parametrize(("way", "before_ms"), [("dark_out", 500), ("dark_back", 500), ("dark_back", 10)])
def test_a_full_ring_excuses_no_outage_before_it(way, before_ms):
    # On the way back the reflector has said that the probes came: those its ring did not drop, however near.
    with world(3, far_ring=16) as network:
        network.add(0, "udp", rate=200, threshold=900 * MS)
        network.run(400 * MS)
        story = Story(network)
        story.tell((way, 200 * MS))
        story.tell(("calm", before_ms * MS))
        story.tell(("far_stall", 200 * MS))
        network.settle()
        network.check()
        [flow] = network.document()["flows"]
        assert [(o["direction"], o["lost"]) for o in flow["outages"]] == [
            ("forward" if way == "dark_out" else "reverse", 40)
        ]


# --- interfaces without room ---------------------------------------------------------------------------------------


def crowd(network: World, wire: str, ns: int) -> None:
    """The interface at the end of a wire has no room for so long."""
    getattr(network, wire).crowded.append((network.clock.mono, network.clock.mono + ns))
    network.run(ns)


@pytest.mark.parametrize("threshold_ms", [60, 100, 300, 1000])  # the sender looks every 200 ms
@pytest.mark.parametrize("counted_late_ms", [0, 700])
def test_what_our_interface_dropped_is_no_outage(threshold_ms, counted_late_ms):
    with world(5) as network:
        network.back.counted_late = counted_late_ms * MS
        lives = [network.add(index, kind, rate=500, threshold=threshold_ms * MS) for index, kind in enumerate(KINDS)]
        network.run(500 * MS)
        crowd(network, "back", 250 * MS)
        network.run(S)
        network.settle()
        network.check()
        for life, flow in zip(lives, network.document()["flows"], strict=True):
            missed = [probe.sent + network.sender.anchor for probe in life.probes.values() if probe.lost]
            assert flow["outages"] == [] and flow["counts"]["lost"] == 0
            assert flow["counts"]["dropped_locally"] == len(missed) == pytest.approx(125, abs=2)
            spans = [(u["start_ns"], u["end_ns"]) for u in flow["unobserved"] if u["cause"] == "ring_drop"]
            # Each probe that was dropped stands for the time around it, and for no more.
            assert all(any(start < at < end for start, end in spans) for at in missed)
            assert sum(end - start for start, end in spans) == pytest.approx(250 * MS, abs=30 * MS)
        assert int(network.shared.header["ring_drops"][0]) == len(network.back.refused)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    kinds=st.lists(st.sampled_from(["icmp", "udp", "tcp"]), min_size=1, max_size=3),
    threshold=st.sampled_from([50, 150, 300, 1000]),
    side=st.sampled_from(["crowd", "far_crowd"]),
    counted_late=st.sampled_from([0, 400]),
    story=st.lists(
        st.tuples(st.sampled_from(["side", "side", "calm", "stall", "link_down"]), spans), min_size=1, max_size=6
    ),
)
def test_interfaces_without_room_are_no_outage_whatever_else_we_do(seed, kinds, threshold, side, counted_late, story):
    with world(seed) as network:
        network.back.counted_late = counted_late * MS
        for index, kind in enumerate(kinds):
            network.add(index, kind, rate=200, threshold=threshold * MS)
        network.run(250 * MS)
        told = Story(network)
        for name, ns in story:
            told.tell((side if name == "side" else name, ns))
        network.run(S)
        network.settle()
        network.check()
        for flow in network.document()["flows"]:
            assert flow["outages"] == [] and flow["counts"]["lost"] == 0


@pytest.mark.parametrize("way", ["out", "back"])
def test_an_interface_excuses_no_more_than_it_dropped(way):
    with world(5) as network:
        network.add(0, "udp", rate=500)
        network.run(500 * MS)
        getattr(network, way).weather = Weather(dark=True)
        network.run(300 * MS)
        getattr(network, way).weather = Weather()
        getattr(network, way).refused += [network.clock.mono] * 40  # of other traffic, in the middle of the outage
        network.run(500 * MS)
        network.settle()
        [flow] = network.document()["flows"]
        assert laws(network.document(), settled=True) == []
        assert flow["counts"]["dropped_locally"] <= 40
        assert flow["counts"]["lost"] + flow["counts"]["dropped_locally"] == 150
        [outage] = flow["outages"]
        assert outage["lost"] == flow["counts"]["lost"]


def test_an_interface_that_drops_what_is_not_ours_excuses_nothing():
    """On a busy host it may do so all the time. Nobody missed a reply: nothing went unobserved."""
    with world(5) as network:
        for index, kind in enumerate(KINDS):
            network.add(index, kind, rate=500)
        for _ in range(10):
            network.run(150 * MS)
            for wire in (network.out, network.back):
                wire.refused += [network.clock.mono] * 100
        network.settle()
        network.check()
        for flow in network.document()["flows"]:
            assert flow["counts"]["dropped_locally"] == flow["counts"]["lost"] == 0 and flow["unobserved"] == []
        assert int(network.shared.header["ring_drops"][0]) == 1000


@pytest.mark.parametrize("crowded_ms", [50, 250, 900])
def test_what_the_reflectors_interface_dropped_is_no_outage(crowded_ms):
    with world(5) as network:
        lives = [network.add(index, kind, rate=200) for index, kind in enumerate(["udp", "tcp"])]
        network.run(500 * MS)
        crowd(network, "out", crowded_ms * MS)
        network.run(500 * MS)
        network.settle()
        network.check()
        for life, flow in zip(lives, network.document()["flows"], strict=True):
            missed = sum(bool(probe.lost) for probe in life.probes.values())
            assert flow["outages"] == [] and flow["counts"]["lost"] == 0
            assert flow["counts"]["dropped_locally"] == missed >= crowded_ms // 5 - 2
            assert {u["cause"] for u in flow["unobserved"]} == {"ring_drop"}


def test_the_interface_is_asked_five_times_a_second_and_once_more_at_the_end():
    with world(5) as network:
        network.add(0, "udp", rate=500, threshold=50 * MS)
        network.run(2 * S)
        assert len(network.looks) in (9, 10)
        assert min(b - a for a, b in pairwise(network.looks)) >= 200 * MS
        while network.looks[-1] < network.clock.mono - 10 * MS:
            network.run(10 * MS)
        looked = len(network.looks)
        crowd(network, "back", 10 * MS)
        network.sender.halt()
        network.run(140 * MS)
        assert len(network.looks) == looked
        assert network.sender.ledger.live[0, COLUMN["lost"]] == len(network.back.refused) == 5
        network.sender.close()
        network.recorder.sample()
        document = network.document()
        assert laws(document, settled=True) == []
        [flow] = document["flows"]
        assert (flow["counts"]["dropped_locally"], flow["counts"]["lost"], flow["outages"]) == (5, 0, [])


# --- outages that outlast the ring -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("longer", ["out", "back", "neither"])
def test_an_outage_of_both_ways_that_outlasts_the_ring_is_told_once(monkeypatch, kind, longer):
    """Both fail at once, with replies on their way. They come back together, or one of them a second later."""
    shrink_rings(monkeypatch, 512)
    with world(7) as network:
        life = network.add(0, kind, rate=500, threshold=100 * MS)
        assert network.sender.ledger._rings.slots[0] * 2 * MS < 6 * S
        network.run(S)
        network.out.weather = network.back.weather = Weather(dark=True)
        network.run(6 * S)
        for name, wire in (("out", network.out), ("back", network.back)):
            wire.weather = Weather(dark=name == longer)
        network.run(S)
        network.settle()
        times = network.recorder.history._times
        for start, end in [(None, None), *zip(times[::3], times[2::4], strict=False)]:
            assert laws(network.document(start, end), settled=start is None) == []
        [flow] = network.document()["flows"]
    sent = [probe for _, probe in sorted(life.probes.items())]
    ways = [RECEIVED if p.answered else LOST_REVERSE if p.reached else LOST_FORWARD for p in sent]
    assert {LOST_FORWARD, LOST_REVERSE} <= set(ways)
    unknown = kind in ("icmp", "udp_base")  # one tells nothing; the other's numbers cannot tell what is mixed
    fates = [LOST if unknown and way != RECEIVED else way for way in ways]
    told = {(o["direction"], o["first_lost_seq"], o["last_lost_seq"], o["lost"]) for o in flow["outages"]}
    assert told == {entry[:4] for entry in expected_outages(fates, [probe.sent for probe in sent], life.k)}
    for fate, name in COLUMN_OF.items():
        assert flow["counts"][name] == fates.count(fate)
    main = max(flow["outages"], key=lambda o: o["lost"])
    assert main["direction"] == ("round_trip" if unknown else "forward")
    true = 7 * S if longer == "out" or (unknown and longer == "back") else 6 * S
    assert main["duration_ns"]["lower"] - 5 * MS <= true <= main["duration_ns"]["upper"] + 5 * MS
    assert abs(main["duration_ns"]["estimate"] - true) <= 7 * MS


# --- spans ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["dark_out", "dark_back"])
@pytest.mark.parametrize("kind", ["udp", "icmp"])
def test_a_span_that_cuts_an_outage_holds_its_part_of_it(way, kind):
    with world(4) as network:
        life = network.add(0, kind, rate=500)
        network.run(S)
        Story(network).tell((way, 2 * S))
        network.settle()
        network.check()
        [whole] = network.document()["flows"][0]["outages"]
        anchor = network.sender.anchor
        lost = [probe.sent + anchor for probe in life.probes.values() if probe.lost]
        assert whole["lost"] == len(lost) and whole["censored"] == "no"
        times = network.recorder.history._times
        cuts = [at for at in times if whole["start_ns"] < at < whole["end_ns"]]
        assert len(cuts) > 4
        for cut in cuts:
            for start, end, kept, censored in (
                (times[0], cut, [at for at in lost if at <= cut], "end"),
                (cut, times[-1], [at for at in lost if at > cut], "start"),
            ):
                document = network.document(start, end)
                assert laws(document) == []
                [flow] = document["flows"]
                [part] = flow["outages"]
                assert (part["lost"], part["censored"]) == (len(kept), censored)
                assert (part["edges_ns"]["first_lost"], part["edges_ns"]["last_lost"]) == (kept[0], kept[-1])
                assert flow["counts"]["lost"] == len(kept)


# --- time ----------------------------------------------------------------------------------------------------------


def dark_twice(network: World, between: tuple[int, ...] = ()) -> list[dict]:
    """A run with an outage each way, and steps of the wall clock all along; its flows."""
    for index, kind in enumerate(KINDS):
        network.add(index, kind, rate=500)
    network.run(200 * MS)
    steps = iter(between)
    for weather in (network.out, network.back):
        network.run(200 * MS)
        weather.weather = Weather(dark=True)
        for _ in range(5):
            network.run(33 * MS)
            network.step_wall(next(steps, 0))
        weather.weather = Weather()
        for _ in range(10):
            network.run(37 * MS)
            network.step_wall(next(steps, 0))
    network.settle()
    network.check()
    return network.document()["flows"]


@pytest.mark.parametrize("sign", [-1, 1])
def test_steps_of_the_wall_clock_change_nothing(sign):
    steps = tuple(sign * ns for ns in (MS, -MS, S, 3600 * S, -S, 100 * MS, -3600 * S, 10 * S) * 4)
    with world(5) as calm, world(5) as stepping:
        expected, told = dark_twice(calm), dark_twice(stepping, steps)
    for flow, other in zip(expected, told, strict=True):
        assert len(flow["outages"]) == 2
        for outage in flow["outages"] + other["outages"]:
            del outage["evidence"]  # the reflector's own clock is in it, which steps
        assert {**other, "rtt_ns": 0} == {**flow, "rtt_ns": 0}
        # A step of less than the time between two looks at the ring cannot be told from a delay; by no more than it.
        assert flow["rtt_ns"]["min"] - MS <= other["rtt_ns"]["min"] <= other["rtt_ns"]["p99"], flow["name"]
        assert other["rtt_ns"]["max"] <= flow["rtt_ns"]["max"] + 20 * MS, flow["name"]


@pytest.mark.parametrize("kinds", [["udp"], ["udp", "tcp", "udp", "tcp"]])
@pytest.mark.parametrize("rate", [200, 1000])
def test_the_way_back_is_measured_as_finely_as_the_way_out(kinds, rate):
    """Truth is the fault's own window; the reflector answers at the pace of its process."""
    with world(2) as network:
        for index, kind in enumerate(kinds):
            network.add(index, kind, rate=rate)
        network.run(500 * MS)
        rng, interval = random.Random(4), S // rate
        now, lengths = network.clock.mono + 20 * MS, []
        for _ in range(20):
            lengths.append(round(interval * rng.uniform(5, 40)))
            network.back.faults.append((now, now + lengths[-1]))
            now += lengths[-1] + round(interval * rng.uniform(5, 40))
        network.run(now - network.clock.mono)
        network.settle()
        network.check()
        for flow in network.document()["flows"]:
            assert [o["direction"] for o in flow["outages"]] == ["reverse"] * len(lengths)
            for outage, length in zip(flow["outages"], lengths, strict=True):
                bounds = outage["duration_ns"]
                # A reply may wait a quarter of an interval for others; nothing else blurs the way back.
                assert bounds["lower"] - interval // 4 <= length <= bounds["upper"] + interval // 4
                assert abs(bounds["estimate"] - length) <= interval + interval // 4


@pytest.mark.parametrize("rate", [1, 7, 30, 45, 1000])
def test_every_slot_is_kept_from_the_first_on(rate):
    with world(1) as network:
        network.run(123 * MS)
        life = network.add(0, "udp", rate=rate)
        network.run(3 * S)
        network.settle()
        [flow] = network.document()["flows"]
        assert flow["unobserved"] == [] and flow["counts"]["unsent"] == 0
        sent = [probe.sent for probe in life.probes.values()]
        assert len(sent) > 2 * rate
        assert all(abs(at - sent[0] - n * S / rate) < 10_000 for n, at in enumerate(sent))


def test_flows_that_come_and_go_disturb_no_other():
    def run(network: World, busy: bool) -> list[int]:
        life = network.add(0, "udp", rate=500)
        for n in range(12):
            network.run(97 * MS)
            if busy and n % 3 == 0:
                network.add(1, "tcp", rate=1000)
                network.add(2, "udp", rate=300, threshold=900 * MS)
            if busy and n % 3 == 2:
                network.remove(2)
                network.remove(1)
            network.out.weather = Weather(dark=n % 4 == 1)
        network.settle()
        network.check()
        [flow] = (f for f in network.document()["flows"] if f["name"] == life.track.spec.name)
        assert flow["outages"] and flow["unobserved"] == [] and flow["counts"]["unsent"] == 0
        return [(o["lost"], o["first_lost_seq"]) for o in flow["outages"]], [p.sent for p in life.probes.values()]

    with world(9) as alone, world(9) as together:
        assert run(alone, False) == run(together, True)


@pytest.mark.parametrize("gone", ["vanished", "deaf"])
def test_a_way_that_has_gone_again_leaves_every_flow_on_the_old_one(gone, caplog):
    with world(9) as network:
        network.add(0, "udp", rate=500)
        network.add(1, "tcp", rate=500)
        network.run(300 * MS)
        getattr(network, gone).add(2)
        network.retarget(0, 2)
        network.run(300 * MS)
        getattr(network, gone).clear()
        assert [e["reason"] for e in network.events("stayed", 0)] == ["no interface with index 2"]
        assert "its new way cannot be taken: no interface with index 2" in caplog.text
        assert network.sender.table.flows[0].transmitter == ("ethernet", 1)
        network.retarget(0, 2)  # it is there now
        network.run(300 * MS)
        assert network.sender.table.flows[0].transmitter == ("ethernet", 2)
        network.settle()
        network.check()
        for flow in network.document()["flows"]:
            assert flow["counts"]["unsent"] == 0 and flow["unobserved"] == []


@pytest.mark.parametrize("kind", ["icmp", "udp", "udp_base"])
def test_from_another_address_it_is_another_session(kind):
    with world(9) as network:
        life = network.add(0, kind, rate=500)
        network.run(300 * MS)
        network.retarget(0, 2)
        network.run(300 * MS)
        assert [*network.events("moved")] == [], "another interface is none"
        network.retarget(0, 2, source="198.51.100.7")
        network.run(300 * MS)
        assert len([*network.events("moved", 0)]) == 1
        network.settle()
        network.check()
        [flow] = network.document()["flows"]
        assert flow["rebound"] and flow["counts"]["lost"] == 0
        assert len(life.probes) == flow["counts"]["sent"]


def test_from_another_address_tcp_has_a_new_connection():
    with world(9) as network:
        network.add(0, "tcp", rate=500)
        network.run(600 * MS)
        network.retarget(0, 1, source="198.51.100.7")
        network.run(900 * MS)
        assert [e["event"] for e in network.told if e["event"] in ("established", "moved", "session_end")] == [
            "established",
            "moved",
            "established",
        ]
        network.settle()
        network.check()
        [flow] = network.document()["flows"]
        assert flow["rebound"] and flow["outages"] == [] and flow["counts"]["reset"] == 0
        assert flow["counts"]["received"] == flow["counts"]["sent"] > 500


@pytest.mark.parametrize("after_ms", [0, 3, 30])
def test_a_connection_that_is_being_opened_is_opened_anew_from_another_address(after_ms):
    """Before the SYN/ACK comes, or before the first probe leaves."""
    with world(9) as network:
        network.add(0, "tcp", rate=500)
        network.run(after_ms * MS)
        network.retarget(0, 1, source="198.51.100.7")
        network.run(S)
        assert len([*network.events("established", 0)]) == 1
        network.settle()
        network.check()
        assert network.document()["flows"][0]["counts"]["received"] > 300


def test_a_session_that_had_ended_is_not_renewed_by_another_address():
    with world(9) as network:
        network.add(0, "tcp", rate=500)
        network.run(600 * MS)
        network.restart_reflector()
        network.run(300 * MS)
        assert len([*network.events("session_end", 0)]) == 1
        network.retarget(0, 1, source="198.51.100.7")
        network.run(600 * MS)
        assert len([*network.events("established", 0)]) == 1 and [*network.events("moved", 0)] == []


# --- early notice --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coarse", [False, True])
def test_suspect_within_a_tenth_of_a_second_then_corrected(coarse):
    with world(1) as network:
        life = network.add(0, "udp", rate=1000, threshold=500 * MS, coarse=coarse)
        network.run(500 * MS)
        network.out.weather = Weather(dark=True)
        network.run(2 * S)
        network.out.weather = Weather()
        network.run(S)
        network.settle()
        network.check()
        states = [(e["state"], e["mono"]) for e in network.events("state", 0)]
        assert [state for state, _ in states] == ["up", "suspect", "down", "up"]
        first_lost = min(probe.sent for probe in life.probes.values() if probe.lost)
        assert 0 < states[1][1] - first_lost <= 100 * MS
        # A probe's own time is that of its frame's release, a little before it is on the wire.
        assert 500 * MS <= states[2][1] - first_lost + MS // 10 <= 600 * MS
        assert next(network.events("outage", 0))["mono"] - first_lost <= 600 * MS


def test_a_suspicion_that_comes_to_nothing_is_taken_back_and_no_outage():
    with world(1) as network:
        network.add(0, "udp", rate=1000, threshold=500 * MS)
        network.run(500 * MS)
        network.back.weather = Weather(extra=300 * MS)  # held up, not lost
        network.run(200 * MS)
        network.settle()
        network.check()
        assert [e["state"] for e in network.events("state", 0)] == ["up", "suspect", "up"]
        assert list(network.events("outage", 0)) == []


# --- the end of a run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["icmp", "udp", "tcp"])
def test_a_run_that_ends_as_soon_as_nothing_is_pending_knows_the_end_of_its_outage(kind):
    with world(4) as network:
        life = network.add(0, kind, rate=20, threshold=300 * MS)
        network.run(500 * MS)
        network.out.weather = Weather(dark=True)
        network.run(400 * MS)
        network.out.weather = Weather()
        network.run(100 * MS)
        lost = [sequence for sequence, probe in life.probes.items() if probe.lost]
        assert len(lost) >= 5
        while network.sender.ledger.live[0, COLUMN["lost"]] < len(lost):
            network.run(MS)
        network.sender.halt()
        network.run(30 * MS)  # the last answer comes in
        network.sender.close()
        network.recorder.sample()
        document = network.document()
        assert laws(document, settled=True) == []
        [outage] = document["flows"][0]["outages"]
        assert (outage["lost"], outage["censored"]) == (len(lost), "no")
        first, after = life.probes[min(lost)].sent, life.probes[max(lost) + 1].sent
        assert outage["end_ns"] - outage["start_ns"] == pytest.approx(after - first, abs=MS // 10)
