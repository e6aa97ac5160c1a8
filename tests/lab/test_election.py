"""Two elections joined by heartbeats of this test, on a clock of this test."""

from __future__ import annotations

from probe.lab.election import Election

INTERVAL = 200
LOST = 20 * INTERVAL


class Cluster:
    def __init__(self, failback: bool = True):
        self.now = 1_000_000
        self.a = Election("fgt-a", 255, LOST, failback, self.now)
        self.b = Election("fgt-b", 100, LOST, failback, self.now)
        self.dead: set[str] = set()
        self.roles: list[tuple[str, str]] = []

    def run(self, beats: int = 3) -> tuple[str, str]:
        """Exchange some heartbeats and return both roles; keeps what was seen after each one."""
        for _ in range(beats):
            self.now += INTERVAL
            for sender, receiver in ((self.a, self.b), (self.b, self.a)):
                sender.decide(self.now)
                if not self.dead & {sender.unit, receiver.unit}:
                    receiver.heard(sender.heartbeat(), self.now)
                self.roles.append((self.a.role, self.b.role))
        return self.a.role, self.b.role


def started() -> Cluster:
    cluster = Cluster()
    assert cluster.run() == ("primary", "secondary")
    cluster.roles.clear()
    return cluster


def test_the_higher_priority_becomes_primary_at_the_start():
    started()


def test_a_lone_unit_becomes_primary_only_after_the_lost_threshold():
    alone = Election("fgt-b", 100, LOST, True, 0)
    alone.decide(LOST - 1)
    assert alone.role == "init"
    alone.decide(LOST)
    assert alone.role == "primary"


def test_failover_set_is_sticky():
    cluster = started()
    cluster.a.set_failover(cluster.now)
    assert cluster.a.role == "secondary"  # at once, before the peer knows
    assert cluster.run(50) == ("secondary", "primary")
    assert ("primary", "primary") not in cluster.roles


def test_unset_lets_priority_decide_which_is_a_second_failover():
    cluster = started()
    cluster.a.set_failover(cluster.now)
    cluster.run()
    cluster.a.unset_failover(cluster.now)
    assert cluster.a.role == "secondary"  # the peer steps down first
    assert cluster.run() == ("primary", "secondary")
    assert ("primary", "primary") not in cluster.roles
    assert not cluster.a.claim


def test_unset_without_failback_changes_nothing():
    cluster = Cluster(failback=False)
    cluster.run()
    cluster.a.set_failover(cluster.now)
    cluster.run()
    cluster.a.unset_failover(cluster.now)
    assert cluster.run(50) == ("secondary", "primary")


def test_unset_that_was_never_set_changes_nothing():
    cluster = started()
    cluster.b.unset_failover(cluster.now)
    cluster.a.unset_failover(cluster.now)
    assert cluster.run() == ("primary", "secondary")


def test_silence_of_the_primary_counts_from_its_last_heartbeat():
    cluster = started()
    cluster.dead.add("fgt-a")
    last = cluster.b.heard_ns
    cluster.b.decide(last + LOST - 1)
    assert cluster.b.role == "secondary"
    cluster.b.decide(last + LOST)
    assert cluster.b.role == "primary"


def test_a_unit_that_comes_back_stays_secondary_whatever_its_priority():
    cluster = started()
    cluster.dead.add("fgt-a")
    cluster.run(25)
    assert cluster.b.role == "primary"
    cluster.a = Election("fgt-a", 255, LOST, True, cluster.now)
    cluster.dead.clear()
    assert cluster.run(30) == ("secondary", "primary")


def test_a_split_heals_in_favour_of_priority():
    cluster = started()
    cluster.dead.add("fgt-a")  # the link between them, seen from both
    cluster.run(25)
    assert (cluster.a.role, cluster.b.role) == ("primary", "primary")
    cluster.dead.clear()
    assert cluster.run() == ("primary", "secondary")


def test_a_set_unit_takes_over_when_its_peer_dies():
    cluster = started()
    cluster.a.set_failover(cluster.now)
    cluster.run()
    cluster.dead.add("fgt-b")
    cluster.run(25)
    assert cluster.a.role == "primary"
