"""Outages of a flow as they are kept: the newest of them, with their episodes, at a cost that does not grow."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from probe.core.events import Outage
from probe.core.outage import with_episodes
from probe.outages import Extent, Outages

S = 1_000_000_000
T0 = 1_700_000_000 * S


def outage(number: int, start_s: float, length_s: float = 1, *, still_open: bool = False) -> Outage:
    start, end = T0 + round(start_s * S), T0 + round((start_s + length_s) * S)
    edges = (start, end, 0 if still_open else end)
    length = end - start
    return Outage(
        "",
        number,
        "round_trip",
        start,
        end,
        start - 1,
        *edges,
        length,
        length,
        length,
        3,
        0,
        2,
        "end" if still_open else "no",
    )


def told(seed: int, outages: int = 400) -> tuple[Outages, dict[int, Outage], list[tuple[int, int]]]:
    """Outages as engines tell them, nearly in order and some again; those that count, and each episode as told."""
    rng = random.Random(seed)
    kept, newest, said = Outages(), {}, []
    at = 0.0
    for number in range(1, outages + 1):
        at += rng.choice([0.5, 3, 4.9, 5.1, 7, 20])
        one = outage(number, at - rng.choice([0, 0, 1]), rng.choice([0.2, 1, 2]), still_open=rng.random() < 0.2)
        for again in (one, *([outage(number, at, 1.5)] if one.censored == "end" or rng.random() < 0.1 else [])):
            newest[number] = again
            said.append((number, kept.take(again).episode))
        if rng.random() < 0.05:
            kept.take(replace(newest.pop(number), withdrawn=True))
    return kept, newest, said


@pytest.mark.parametrize("seed", range(20))
def test_episodes_are_those_of_all_outages(seed: int) -> None:
    kept, newest, said = told(seed)
    expected = with_episodes(newest.values())
    assert [(o.id, o.start_ns) for o in kept.numbered()] == [(o.id, o.start_ns) for o in expected]
    for got, wanted in zip(pairwise(kept.numbered()), pairwise(expected), strict=True):
        assert (got[0].episode == got[1].episode) == (wanted[0].episode == wanted[1].episode)
    episodes = [o.episode for o in kept.numbered()]
    assert episodes == sorted(episodes)
    assert dict(said).keys() >= newest.keys()
    assert (kept.total.count, kept.total.length_ns) == (len(newest), sum(o.estimate_ns for o in newest.values()))
    assert len(kept) == len(newest)


@pytest.mark.parametrize("most", [3, 50, 200])
def test_the_newest_are_kept_with_the_numbers_they_had(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.outages.MOST", most)
    kept, *_ = told(1)
    monkeypatch.setattr("probe.outages.MOST", 10_000)
    every, *_ = told(1)
    numbers = {o.id: o.episode for o in every.numbered()}
    assert [(o.id, o.episode) for o in kept.numbered()] == [
        (n, numbers[n]) for n in sorted(kept, key=lambda n: every.get(n).start_ns)
    ]
    assert len(kept) == most and kept.total == every.total


def test_one_that_goes_on_while_many_others_come_and_go() -> None:
    kept = Outages()
    kept.take(outage(1, 0, 3, still_open=True))
    for number in range(2, 500):
        kept.take(outage(1, 0, number * 10, still_open=True))
        assert kept.take(outage(number, number * 10 + 4)).episode == 1, "as it has not ended"
    assert [o.id for o in kept.recent() if o.first_ok_ns == 0] == [1]
    assert kept.extent() == Extent(T0, T0 + 4994 * S, T0 + 4995 * S, T0 + 4995 * S)
    kept.take(outage(1, 0, 6000))
    assert not any(o.first_ok_ns == 0 for o in kept.recent())
    assert kept.total.length_ns == (6000 + 498) * S
    assert kept.take(outage(500, 6020)).episode == 2


@pytest.mark.parametrize("most", [1, 20, 300])
@pytest.mark.parametrize("gone", [0, 60])
def test_the_last_ones(most: int, gone: int) -> None:
    kept, *_ = told(2)
    for number in sorted(kept)[len(kept) - gone :]:
        kept.take(replace(outage(number, 0), withdrawn=True))
    assert [o.id for o in kept.last(most)] == [o.id for o in kept.numbered()][-most:]
    assert kept.recent()[-1] == kept.last(1)[0], "whatever was withdrawn"


def test_of_none_there_is_no_extent() -> None:
    assert (Outages().extent(), Outages().numbered(), Outages().recent()) == (Extent(), [], [])
    assert Outages().last(3) == []
