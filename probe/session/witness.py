"""What goes along with an outage when it is told: the raw records around its edges (core/evidence.py).

Its start is looked up when it is first told, and kept: minutes later, when it ends, the logs have long moved on.
What was still open then (a probe whose fate was pending, probes after the end that had yet to be sent) is told again
once it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from probe.core.arrays import where_all
from probe.core.events import Outage
from probe.core.evidence import AROUND, NO_RECORDS, Evidence, Records, edges
from probe.core.fate import DIRECTION_FATE, EMPTY, FATE_WORD, LOST, PENDING
from probe.core.ledger import Arrivals, Ledger
from probe.session.flows import Flow
from probe.session.recording import Recording
from probe.wire import layout
from probe.wire.stamp import reflector_ns

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

KEPT_RECORDS: Final = 512  # per flow: the edges of its last sixteen outages and more
MOST_AT_ONCE: Final = 8  # outages looked up at a time: every flow may go dark at once, and slots must not wait
AGAIN_NS: Final = 5_000_000_000  # beyond the loss threshold, how long to wait for what an outage's evidence lacks
NTP_KINDS: Final = (layout.UDP, layout.UDP_BASE, layout.UDP_AUTH)


class Witness:
    """The evidence of one sender's outages.

    Args:
        ledger: Knows fates.
        anchor: Unix time minus monotonic time.
        tell: Called with each event.
        recording: Takes in every probe.
    """

    def __init__(
        self,
        ledger: Ledger,
        anchor: int,
        tell: Callable[[dict[str, Any]], None],
        recording: Recording | None = None,
    ):
        self.evidence = Evidence()
        self._ledger, self._anchor, self._tell = ledger, anchor, tell
        self._recording = recording
        if recording is not None:
            recording.follow(ledger)
        self._flows: dict[int, Flow] = {}
        self._rate, self._longest = 0.0, 0  # probes a second of all flows; ns to hold
        self._kept: dict[int, Records] = {}  # by flow, ascending by sequence
        # Of open outages and of those owed more: what their records depend on, and the records that were told.
        self._told: dict[tuple[int, int], tuple[tuple[object, ...], bytes]] = {}
        self._owed: dict[tuple[int, int], Outage] = {}

    def add(self, flow: Flow) -> None:
        """Keep records of this flow from now on."""
        self._flows[flow.index] = flow
        self._rate += 1e9 / flow.interval_ns
        self._longest = max(self._longest, flow.threshold_ns + (flow.min_probes + AROUND) * flow.interval_ns)
        self.evidence.expect(self._rate, self._longest / 1e9)

    def remove(self, index: int) -> None:
        """Forget a flow: its index may be another's soon."""
        flow = self._flows.pop(index, None)
        if flow is None:
            return
        self._rate -= 1e9 / flow.interval_ns
        self.evidence.forget(index)
        self._kept.pop(index, None)
        for table in (self._told, self._owed):
            for key in [key for key in table if key[0] == index]:
                del table[key]

    def received(
        self, flow: Ints, sequence: Ints, at: Ints, arrivals: Arrivals, ttl: Array, times: tuple[Array, Array] | None
    ) -> None:
        """Replies that the ledger has accounted for, with their TTL and the reflector's receive and send times."""
        first = arrivals.answered | arrivals.late
        there, replied = times if times is not None else (np.zeros(len(flow), np.uint64),) * 2
        self.evidence.received(*where_all(first, flow, sequence, at, there, replied, ttl))

    def tick(self, now: int) -> None:
        """Hand on to the recording what is new."""
        if self._recording is not None and not self._recording.error:
            self._recording.tick(self.evidence, now)
            self._tell_failure()

    def close(self) -> None:
        """End the recording."""
        if self._recording is not None and not self._recording.error:
            self._recording.close(self.evidence)
            self._tell_failure()

    def _tell_failure(self) -> None:
        if self._recording is not None and self._recording.error:
            self._tell({"event": "recording_ended", "reason": self._recording.error})

    def attest(
        self, found: Iterable[tuple[int, Outage]], now: int, *, again: bool
    ) -> Iterator[tuple[int, Outage, dict[str, Any]]]:
        """Add the evidence to outages that are about to be told.

        Of many at once, the later ones are told without theirs; it follows with the next calls.

        Args:
            found: (flow, outage) of each.
            now: Monotonic ns.
            again: Whether those told before whose evidence has become more complete are to come again.

        Yields:
            (flow, outage, what to add to the message): nothing when it was told before and is the same.
        """
        left = MOST_AT_ONCE
        for index, outage in found:
            key = index, outage.id
            if outage.withdrawn:
                self._told.pop(key, None)
                self._owed.pop(key, None)
                yield index, outage, {}
            elif self._settled(key, outage):
                yield index, outage, {}
            elif left:
                left -= 1
                yield index, outage, self._statement(index, outage, now)
            else:
                self._owed[key] = outage
                # What was told of it before may contradict it by now: rather nothing until it is looked up.
                stale = self._told.pop(key, None) is not None
                yield index, outage, {"evidence": []} if stale else {}
        for key, outage in list(self._owed.items()):
            if left and (again or key not in self._told):
                left -= 1
                more = self._statement(key[0], outage, now)
                if more:
                    yield key[0], outage, more

    def _settled(self, key: tuple[int, int], outage: Outage) -> bool:
        """Whether an open outage has only grown since its start was told for good."""
        told = self._told.get(key)
        return outage.censored == "end" and key not in self._owed and told is not None and told[0] == _start(outage)

    def _statement(self, index: int, outage: Outage, now: int) -> dict[str, Any]:
        key, flow = (index, outage.id), self._flows[index]
        records, whole = self._records(flow, outage)
        told, content = self._told.get(key), records.tobytes()
        patience = flow.threshold_ns + AROUND * flow.interval_ns + AGAIN_NS
        if whole or now > outage.end_ns + patience:
            self._owed.pop(key, None)
        else:
            self._owed[key] = outage
        if outage.censored == "end" or key in self._owed:
            self._told[key] = _start(outage), content
        else:
            self._told.pop(key, None)
        return {} if told is not None and told[1] == content else {"evidence": self._rows(flow, records)}

    def _records(self, flow: Flow, outage: Outage) -> tuple[Records, bool]:
        """The records around an outage's edges as they are known now, and whether nothing is to be added to them."""
        still_open = outage.censored == "end"
        ok = outage.last_ok_seq if outage.last_ok_seq >= 0 else outage.first_lost_seq - 1
        after = outage.first_ok_seq if outage.first_ok_seq >= 0 else outage.last_lost_seq + 1
        start, end = edges(ok, outage.first_lost_seq, -1 if still_open else outage.last_lost_seq, after)
        kept = self._kept.get(flow.index, NO_RECORDS)
        found = [kept]
        for side, near in ((start, outage.last_ok_ns or outage.first_lost_ns), (end, outage.last_lost_ns)):
            new = side[~_among(side, kept["sequence"])]
            if len(new):
                found.append(self.evidence.records(flow.index, new, near, self._ledger.fates))
        if len(found) > 1:
            kept = np.concatenate(found)
            kept = kept[np.argsort(kept["sequence"], kind="stable")][-KEPT_RECORDS:]
            self._kept[flow.index] = kept
        wanted = _among(kept["sequence"], np.concatenate([start, end]))
        records = kept[wanted]
        self._update(flow.index, outage, records)
        kept[wanted] = records
        complete = still_open or int((records["sequence"] >= after).sum()) >= AROUND
        return records, complete and not bool((records["fate"] == PENDING).any())

    def _update(self, index: int, outage: Outage, records: Records) -> None:
        """Bring fates up to date, and fill in replies that have come since."""
        fate = self._ledger.fates(index, records["sequence"])
        known = fate != EMPTY
        records["fate"][known] = fate[known]
        if outage.lost == outage.last_lost_seq - outage.first_lost_seq + 1:
            # The ledger no longer remembers these one by one, and has given the whole run its direction (`Ledger`).
            within = (records["sequence"] >= outage.first_lost_seq) & (records["sequence"] <= outage.last_lost_seq)
            records["fate"][~known & within & (records["fate"] == LOST)] = DIRECTION_FATE[outage.direction]
        self.evidence.add_replies(index, records)

    def _rows(self, flow: Flow, records: Records) -> list[list[Any]]:
        """Records as messages carry them (`core.events.ProbeRecord`): Unix ns, None for what there is not."""
        sent = records["sent"] + self._anchor
        arrived = np.where(records["arrived"] > 0, records["arrived"] + self._anchor, 0)
        answered = records["arrived"] > 0
        ntp = flow.kind in NTP_KINDS
        there = [reflector_ns(records[name], sent, ntp=ntp) for name in ("received_there", "replied_there")]
        ttl = np.where(answered, records["ttl"].astype(np.int64), 0)
        optional = [[value or None for value in column.tolist()] for column in (arrived, *there, ttl)]
        fates = [FATE_WORD[fate] for fate in records["fate"].tolist()]
        columns = [records["sequence"].tolist(), sent.tolist(), *optional, fates]
        return [list(row) for row in zip(*columns, strict=True)]


def _start(outage: Outage) -> tuple[object, ...]:
    """What the records around an open outage's start depend on."""
    return outage.direction, outage.first_lost_seq, outage.last_ok_ns


def _among(values: Ints, others: Ints) -> npt.NDArray[np.bool_]:
    """Which of `values` are in `others`, which ascends."""
    if not len(others):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(others, values), len(others) - 1)
    there: npt.NDArray[np.bool_] = others[place] == values
    return there
