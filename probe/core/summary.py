"""What a flow lost below the floor of its ring, in summary: an outage may outlast the ring.

As long as an outage lasts, nobody knows which way its probes were lost. When it is over the reflector tells, and often
not the same of all: where a path fails both ways at once, the first probes had come through on the way out and lost
their replies; the others never arrived. So all that was lost since the last probe that passed both ways is kept in
*parts*: the first probes one by one, for as long as replies may have been on their way; the rest by steps of the
account.

From these, runs of both directions are found as they would have been in a ring without end. Where a direction changes
within a part, the TX times there are known to within that part, and bounds become as much wider. Where something
cannot be told, all of it stays one run of round trips: two of wrong lengths would be worse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from probe.core.account import KEPT_STEPS
from probe.core.fate import EMPTY, IS_LOST, LATE, LOST, LOST_FATES, LOST_FORWARD, LOST_REVERSE, RECEIVED
from probe.core.outage import RunFinder, Span, TxError
from probe.core.ranges import Ranges

Ints = npt.NDArray[np.int64]
Fates = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]

MOST_ALONE: Final = 1 << 14  # probes kept one by one
MOST_PARTS: Final = KEPT_STEPS + 1024  # besides; there is one for each step and each call of `feed`, hardly more
FAR: Final = 1 << 62
LONGEST_NS: Final = (1 << 32) - 1  # that a TX time may be off by

# Losses in a row, of one fate: sequence, TX time and what that may be off by, of the first and the last; how many.
_EDGE: Final = {"": np.int64, "_at": np.int64, "_earlier": np.uint32, "_later": np.uint32}
PART: Final = np.dtype(
    [(f"{edge}{name}", kind) for edge in ("first", "last") for name, kind in _EDGE.items()]
    + [("count", np.uint32), ("fate", np.uint8)]
)


class Change(NamedTuple):
    """Losses, as parts, that had another fate until now."""

    parts: Array
    was: int
    to: int


class Summary:
    """The state of a flow's runs before the floor, and what it takes to find them anew.

    Args:
        finder: The state to begin with: all before has passed both ways, or nothing is before.
        alone: How many probes of a stretch of losses are kept one by one: those that may be sent within the loss
            threshold.

    Attributes:
        finder: The state of the runs.
    """

    def __init__(self, finder: RunFinder, alone: int):
        self.finder = finder
        self._before = finder.copy()  # the state after the last probe that passed both ways
        self._alone = min(alone, MOST_ALONE)
        self._parts = np.zeros(0, PART)  # lost since
        self._final = False  # whether those have their directions, or never will
        self._told = self._parts  # as they were told apart
        self._renewed_from = FAR
        self._closed: list[Span] = []  # runs that were found anew, and have ended

    def feed(self, sequences: Ints, at: Ints, fates: Fates, error: TxError, step_of: Callable[[Ints], Ints]) -> None:
        """Take in what falls below the floor, ascending by sequence; as `RunFinder.feed`, and `Account.step_of`."""
        passed = np.flatnonzero((fates == RECEIVED) | (fates == LATE))
        end = int(passed[-1]) + 1 if len(passed) else 0
        if end:
            self.finder.feed(sequences[:end], at[:end], fates[:end], TxError(*(e[:end] for e in error)))
            self._before, self._final = self.finder.copy(), False
            self._parts = self._told = np.zeros(0, PART)
        sequences, at, fates, error = sequences[end:], at[end:], fates[end:], TxError(*(e[end:] for e in error))
        self.finder.feed(sequences, at, fates, error)
        if not self._final:
            lost = IS_LOST[fates]
            columns = (sequences[lost], at[lost], error.earlier[lost], error.later[lost])
            if len(columns[0]):
                self._note(columns, fates[lost], step_of)

    def _note(self, columns: tuple[Array, ...], fates: Fates, step_of: Callable[[Ints], Ints]) -> None:
        """Keep these losses: sequence, TX time, by how much it may have been earlier and later."""
        starts, ends = _groups(step_of(columns[1]), fates, self._alone - len(self._parts))
        more = np.zeros(len(starts), PART)
        for name, column in zip(_EDGE, columns, strict=True):
            more[f"first{name}"], more[f"last{name}"] = column[starts], column[ends]
        more["count"], more["fate"] = ends - starts + 1, fates[starts]
        self._parts = np.concatenate([self._parts, more])
        if len(self._parts) > self._alone + MOST_PARTS:
            self._thin(step_of)

    def _thin(self, step_of: Callable[[Ints], Ints]) -> None:
        """Of an outage longer than half an hour or so the account does not tell steps any more: nor does this."""
        parts = self._parts
        starts, ends = _groups(step_of(parts["last_at"]), parts["fate"], self._alone)
        self._parts = parts[starts]
        for name in _EDGE:
            self._parts[f"last{name}"] = parts[f"last{name}"][ends]
        self._parts["count"] = np.add.reduceat(parts["count"], starts)
        if len(self._parts) > self._alone + MOST_PARTS:
            self._leave()

    def _leave(self) -> None:
        """All losses since a probe passed both ways keep the fates that they have."""
        self._parts, self._final = np.zeros(0, PART), True

    def stretch(self) -> tuple[int, int] | None:
        """First and last of the losses since a probe passed both ways, if some of them may yet be given a direction."""
        if not (self._parts["fate"] == LOST).any():
            return None
        return int(self._parts["first"][0]), int(self._parts["last"][-1])

    def tell_apart(self, forward: Ranges) -> list[Change] | None:
        """Find the runs of the stretch anew, now that it is known what was lost on the way out: the rest was on the way
        back. None, and nothing has changed, when it cannot be told apart.
        """
        cuts = np.array([*forward.starts, *(last + 1 for last in forward.ends)], np.int64)
        parts = _cut(self._parts, np.unique(cuts))
        if parts is None:
            return None
        out = forward.contains(parts["first"])
        fate = np.where(out, np.uint8(LOST_FORWARD), np.uint8(LOST_REVERSE))
        return self._renew(parts, np.where(parts["fate"] == LOST, fate, parts["fate"]))

    def make_one(self) -> list[Change]:
        """Let all of the stretch be one run of round trips: too little is known of it."""
        return self._renew(self._parts, np.full(len(self._parts), LOST, np.uint8))

    def _renew(self, parts: Array, fates: Fates) -> list[Change]:
        self.finder = self._before.copy()
        self._renewed_from = min(self._renewed_from, int(parts["first"][0]))
        self._closed += _feed(self.finder, parts, fates)
        self._leave()
        changes = []
        for was in LOST_FATES:
            for fate in LOST_FATES:
                these = (parts["fate"] == was) & (fates == fate)
                if was != fate and these.any():
                    changes.append(Change(parts[these], was, fate))
        self._told = parts.copy()
        self._told["fate"] = fates
        return changes

    def fates(self, sequences: Ints) -> Fates:
        """Fates of probes of a stretch that was told apart; EMPTY of all others."""
        told = self._told
        if not len(told):
            return np.full(len(sequences), EMPTY, np.uint8)
        place = np.maximum(np.searchsorted(told["first"], sequences, side="right") - 1, 0)
        part = told[place]
        known = (sequences >= part["first"]) & (sequences <= part["last"]) & _is_whole(part)
        return np.where(known, part["fate"], np.uint8(EMPTY))

    def open_from(self) -> int:
        """The lowest sequence whose outages may have to be told anew; FAR if there is none."""
        return min(self._renewed_from, int(self._parts["first"][0]) if len(self._parts) else FAR)

    def take_renewed(self) -> tuple[int, list[Span]]:
        """From which sequence on runs have been found anew since the last call, FAR if none; and those that ended."""
        renewed = self._renewed_from, self._closed
        self._renewed_from, self._closed = FAR, []
        return renewed


def _groups(step: Ints, fates: Fates, alone: int) -> tuple[Ints, Ints]:
    """First and last rows of what makes one part: of one step and one fate; the first `alone` rows are one each."""
    edge = np.r_[True, (step[1:] != step[:-1]) | (fates[1:] != fates[:-1])]
    edge[: max(0, alone) + 1] = True
    starts = np.flatnonzero(edge)
    return starts, np.r_[starts[1:], len(edge)] - 1


def _is_whole(parts: Array) -> Bools:
    """Which parts lack no probe between their first and their last."""
    whole: Bools = parts["count"] == parts["last"] - parts["first"] + 1
    return whole


def _cut(parts: Array, cuts: Ints) -> Array | None:
    """The parts, cut before each of these sequences, ascending, that lies within one; None if one cannot be cut."""
    place = np.searchsorted(parts["first"], cuts) - 1  # the last that begins before
    within = (place >= 0) & (cuts <= parts["last"][place]) & (parts["fate"][place] == LOST)
    cuts, of = cuts[within], parts[place[within]]
    apart = of["last_at"] - of["first_at"] + of["first_earlier"] + of["last_later"]
    if not (_is_whole(of) & (apart <= LONGEST_NS)).all():  # which were lost, or when they left, is not known
        return None
    pieces = np.repeat(parts, 1 + np.bincount(place[within], minlength=len(parts)))
    row = place[within] + 1 + np.arange(len(cuts))  # of what begins with each cut
    _move_edge(pieces, "last", row - 1, cuts - 1, of)
    _move_edge(pieces, "first", row, cuts, of)
    for changed in (row - 1, row):
        pieces["count"][changed] = pieces["last"][changed] - pieces["first"][changed] + 1
    return pieces


def _move_edge(pieces: Array, edge: str, row: Ints, to: Ints, of: Array) -> None:
    """Let an edge of these pieces be another sequence within the part that each is of. It left when an even pace has
    it, or at some other time between the part's first and its last.
    """
    at = of["first_at"] + (of["last_at"] - of["first_at"]) * (to - of["first"]) // (of["last"] - of["first"])
    pieces[edge][row], pieces[f"{edge}_at"][row] = to, at
    pieces[f"{edge}_earlier"][row] = at - of["first_at"] + of["first_earlier"]
    pieces[f"{edge}_later"][row] = of["last_at"] - at + of["last_later"]


def _feed(finder: RunFinder, parts: Array, fates: Fates) -> list[Span]:
    """Feed a finder with parts, each of one fate: their edges stand for all of them."""
    rows = {name: np.column_stack([parts[f"first{name}"], parts[f"last{name}"]]).ravel() for name in _EDGE}
    single = parts["first"] == parts["last"]
    each = np.column_stack([np.where(single, 1, parts["count"].astype(np.int64) - 1), ~single]).ravel()
    keep = each > 0
    error = TxError(*(rows[name][keep] for name in ("_earlier", "_later")))
    return finder.feed(rows[""][keep], rows["_at"][keep], np.repeat(fates, 2)[keep], error, each[keep])
