from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.core.direction import FILLED, SENT_GAPS
from probe.session import peers as peers_module
from probe.session.peers import IDLE_NS, Peers

from .reflecting import remembered

S = 1_000_000_000


def answer(peers: Peers, *sequences: int, key: int = 7, now: int = 0):
    keys = np.full(len(sequences), key, np.uint64)
    return peers.answer(keys, np.array(sequences, np.int64), now)


def records(peers: Peers, key: int = 7) -> list[tuple[int, int]]:
    return list(peers.sessions[key].records)


def test_replies_are_numbered_from_zero_per_session():
    peers = Peers(random.Random(1))
    keys = np.array([5, 9, 5, 5, 9], np.uint64)
    first = peers.answer(keys, np.array([0, 0, 1, 2, 1]), 0)
    assert first.q.tolist() == [0, 0, 1, 2, 1]
    assert answer(peers, 3, key=5).q.tolist() == [3]
    assert len(set(first.boot.tolist())) == 2


def test_a_session_begins_with_a_record_of_where():
    # Length 0: what came before 40 did not arrive, or nobody remembers it.
    peers = Peers(random.Random(1))
    told = answer(peers, 40, 41)
    assert records(peers) == [(40, 0)]
    assert told.gap_total.tolist() == told.gap_index.tolist() == [1, 1]
    assert told.gap_start.tolist() == [40, 40] and told.gap_length.tolist() == [0, 0]


def test_gaps_and_what_filled_them():
    peers = Peers(random.Random(1))
    answer(peers, 0, 1, 5, 6, 9)
    assert records(peers)[1:] == [(2, 3), (7, 2)]
    answer(peers, 3)
    answer(peers, 3, 8, 8)  # a copy, a late one and its copy
    assert records(peers)[3:] == [(3, 1 | FILLED), (8, 1 | FILLED)]
    answer(peers, 6, 0)  # plain copies
    assert len(records(peers)) == 5


def test_a_new_record_goes_out_with_the_next_reply_and_again_in_turn():
    peers = Peers(random.Random(1))
    answer(peers, 0)
    told = []
    for sequence in range(2, 62, 2):  # thirty gaps, one a reply
        told += answer(peers, sequence).gap_index.tolist()
    assert told == list(range(2, 32))
    again = answer(peers, *range(61, 61 + 62)).gap_index
    assert np.bincount(again, minlength=32)[1:].tolist() == [2] * 31


def test_every_record_that_is_held_is_repeated():
    peers = Peers(random.Random(1))
    answer(peers, *range(0, 400, 2))  # more gaps than a session remembers
    total = peers.sessions[7].total
    told = set(answer(peers, *range(399, 399 + 2 * SENT_GAPS)).gap_index.tolist())
    assert told >= set(range(total - SENT_GAPS + 1, total + 1))


def test_a_record_and_its_number_go_together():
    peers = Peers(random.Random(1))
    rng = random.Random(2)
    made: dict[int, tuple[int, int]] = {}
    sequence = 0
    for _ in range(300):
        batch = []
        for _ in range(rng.randint(1, 9)):
            sequence += rng.choice([1, 1, 1, 3, 0, -2])
            batch.append(max(sequence, 0))
        told = answer(peers, *batch)
        for total, index, start, length in zip(
            told.gap_total.tolist(),
            told.gap_index.tolist(),
            told.gap_start.tolist(),
            told.gap_length.tolist(),
            strict=True,
        ):
            assert 1 <= index <= total
            assert made.setdefault(index, (start, length)) == (start, length)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), min_size=1, max_size=6))
def test_the_records_say_exactly_what_is_missing(batches):
    """As long as all are held: gaps without what filled them are the sequences that did not arrive."""
    peers = Peers(random.Random(1))
    seen: set[int] = set()
    for batch in batches:
        answer(peers, *batch)
        seen |= set(batch)
    began, *rest = records(peers)
    assert began == (batches[0][0], 0)
    missing: set[int] = set()
    for first, length in rest:
        numbers = set(range(first, first + (length & ~FILLED)))
        missing = missing - numbers if length & FILLED else missing | numbers
    first = batches[0][0]
    assert missing == set(range(first, max(seen) + 1)) - seen


def test_batches_may_be_cut_anywhere():
    whole, single = Peers(random.Random(1)), Peers(random.Random(1))
    sequences = [0, 1, 4, 2, 4, 9, 8, 12]
    answer(whole, *sequences)
    for sequence in sequences:
        answer(single, sequence)
    # A whole batch notes its gaps before what filled them: the same records but for their order.
    assert sorted(records(whole)) == sorted(records(single))
    assert whole.sessions[7].q == single.sessions[7].q == len(sequences)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 300)), max_size=90), max_size=6))
def test_a_few_without_arrays_are_answered_as_many(batches):
    many, few = Peers(random.Random(1)), Peers(random.Random(1))
    for now, batch in enumerate(batches):
        keys, sequences = [key for key, _ in batch], [sequence for _, sequence in batch]
        told = many.answer(np.array(keys, np.uint64), np.array(sequences, np.int64), now)
        columns = (told.boot, told.q, told.gap_total, told.gap_index, told.gap_start, told.gap_length)
        assert few.answer_few(keys, sequences, now) == list(zip(*(c.tolist() for c in columns), strict=True))
        assert list(few.sessions) == list(many.sessions)
        for key, session in few.sessions.items():
            assert remembered(session) == remembered(many.sessions[key])


def test_the_session_idle_longest_makes_room(monkeypatch):
    monkeypatch.setattr(peers_module, "MAX_SESSIONS", 3)
    peers = Peers(random.Random(1))
    for key in (1, 2, 3):
        answer(peers, 0, key=key, now=key)
    answer(peers, 1, key=1, now=4)
    answer(peers, 0, key=4, now=5)
    assert sorted(peers.sessions) == [1, 3, 4]


def test_a_forgotten_session_begins_anew():
    peers = Peers(random.Random(1))
    before = answer(peers, 0, 1, 2)
    peers.sessions.clear()
    after = answer(peers, 3)
    assert after.boot[0] != before.boot[0] and after.q.tolist() == [0] and records(peers) == [(3, 0)]


def test_idle_sessions_expire():
    peers = Peers(random.Random(1))
    answer(peers, 0, key=1, now=0)
    answer(peers, 0, key=2, now=10 * S)
    answer(peers, 1, key=1, now=20 * S)
    peers.expire(10 * S + IDLE_NS)
    assert sorted(peers.sessions) == [1, 2]
    peers.expire(10 * S + IDLE_NS + 1)
    assert sorted(peers.sessions) == [1]
    peers.expire(100 * IDLE_NS)
    assert peers.sessions == {}


def test_nothing_to_answer():
    assert len(answer(Peers(random.Random(1))).q) == 0


def test_memory_of_a_session_is_bounded():
    peers = Peers(random.Random(1))
    answer(peers, *range(0, 100_000, 2))
    assert len(records(peers)) == SENT_GAPS
