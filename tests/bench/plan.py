"""Which probes the router is to drop: random outages, known by sequence. Pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

SHORTEST_S, LONGEST_S = 1e-3, 3.0
SLOWEST_PPS, FASTEST_PPS = 100.0, 50_000.0
MIN_PROBES = 3  # fewer are no outage, by the default rule
FLAPPING = 0.25  # share of the outages that come as a group of short ones
FLAP_S, FLAP_GAP = 0.1, (3, 20)  # longest window of a group; probes that pass between two of them
REST_S, REST_PROBES = 0.2, 40  # between outages that have nothing to do with each other

Direction = Literal["forward", "reverse"]


@dataclass(frozen=True)
class Drop:
    """One outage: all probes (forward) or replies (reverse) of these sequences, both ends included."""

    direction: Direction
    first: int
    last: int
    group: int  # those that flap together share one

    @property
    def count(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Plan:
    """One run with its outages, in order."""

    rate_pps: float
    probes: int
    drops: tuple[Drop, ...]

    @property
    def seconds(self) -> float:
        return self.probes / self.rate_pps


def plan(rng: random.Random, outages: int) -> Plan:
    """A run at a random rate with that many outages."""
    rate = float(round(log_uniform(rng, SLOWEST_PPS, FASTEST_PPS)))
    rest = max(REST_PROBES, math.ceil(REST_S * rate))
    drops: list[Drop] = []
    following, group = rest, 0
    while len(drops) < outages:
        group += 1
        direction: Direction = rng.choice(("forward", "reverse"))
        windows = min(rng.randint(2, 4), outages - len(drops)) if rng.random() < FLAPPING else 1
        longest = FLAP_S if windows > 1 else LONGEST_S
        for _ in range(windows):
            length = max(MIN_PROBES, round(log_uniform(rng, SHORTEST_S, longest) * rate))
            drops.append(Drop(direction, following, following + length - 1, group))
            following += length + rng.randint(*FLAP_GAP)
        following += rest
    return Plan(rate, following + rest, tuple(drops))


def plans(rng: random.Random, outages: int, *, each: int = 5) -> list[Plan]:
    """Runs with `outages` in all, `each` in every one but the last."""
    return [plan(rng, min(each, outages - done)) for done in range(0, outages, each)]


def log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))
