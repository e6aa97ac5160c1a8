"""`--record FILE`: every probe of a measurement in one Parquet file, a row each.

While it is measured, the engine writes a spool beside the file; afterwards that is joined and the file appears under
its name, whole. What a killed run leaves is hidden and ends in `.spool`; a recording that came to its end early is
called `NAME.incomplete.parquet`. So a file of the name that was asked for holds every probe of its run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from probe.core.events import FlowSpec
from probe.core.fate import FATE_WORD
from probe.errors import UsageError
from probe.store.joining import Joined, Spool
from probe.wire.stamp import reflector_ns

FORMAT = "haprobe.record/1"
FATES = list(FATE_WORD.values())
_FATE_CODE = np.array([FATES.index(FATE_WORD[f]) if f in FATE_WORD else 0 for f in range(8)], np.int8)


class RecordFile:
    """One recording, from the first probe to the finished file. Leaving the context removes the spool.

    Args:
        target: The file to make.

    Raises:
        UsageError: If nothing can be written there.
    """

    def __init__(self, target: Path):
        self.target = target
        self.ended = ""  # why the engine ended it early, as it told
        try:
            # Beside the target: what fits there as a spool fits there as a file.
            self.fd, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".spool", dir=target.parent)
        except OSError as error:
            raise UsageError(f"{target}: cannot record there: {error.strerror or error}") from error
        self._spool = Path(name)
        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.fd)
        self._spool.unlink(missing_ok=True)

    def remove_older(self) -> None:
        """A file of an earlier run under this name must not pass for this one's."""
        try:
            self.target.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"{self.target}: cannot be replaced: {error.strerror or error}") from error

    def finish(
        self, flows: Sequence[FlowSpec], *, run: Mapping[str, Any], anchor_ns: int, progress: Callable[[float], None]
    ) -> dict[str, Any]:
        """Make the file, once the engine has ended.

        Args:
            flows: By the engine's index of each.
            run: The result document's `run`.
            anchor_ns: Unix time minus CLOCK_MONOTONIC, as the engine holds it fixed.
            progress: Called with the part that is done, 0 to 1.

        Returns:
            The document's `run.record`.
        """
        result = {"file": "", "probes": 0, "complete": False, "reason": self.ended}
        staging: Path | None = None
        try:
            spool = self._open([spec.loss_threshold_ns for spec in flows])
            complete = spool.whole and not self.ended
            result["reason"] = "" if complete else self.ended or "the engine ended before it had written all"
            final = self.target if complete else self.target.with_suffix(f".incomplete{self.target.suffix}")
            fd, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
            os.close(fd)
            staging = Path(name)
            about = {"schema": FORMAT, "complete": complete, "reason": result["reason"], "anchor_ns": anchor_ns}
            about |= {"run": dict(run), "flows": [_described(spec) for spec in flows]}
            _write(staging, spool, flows, about, progress)
            staging.chmod(0o644)
            staging.rename(final)
            return {**result, "file": str(final), "probes": spool.rows, "complete": complete}
        except (OSError, MemoryError) as error:  # pyarrow's own errors of writing are OSErrors
            return {**result, "reason": result["reason"] or f"cannot write the file: {error}"}
        except KeyboardInterrupt:
            return {**result, "reason": "interrupted while the file was written"}
        finally:
            if staging is not None:
                with contextlib.suppress(OSError):
                    staging.unlink(missing_ok=True)

    def _open(self, thresholds_ns: list[int]) -> Spool:
        size = os.fstat(self.fd).st_size
        memory = mmap.mmap(self.fd, size, prot=mmap.PROT_READ) if size else b""
        return Spool(memory, thresholds_ns)


def _described(spec: FlowSpec) -> dict[str, Any]:
    names = ("name", "protocol", "session", "path", "target", "port", "interval_ns", "loss_threshold_ns")
    return {name: getattr(spec, name) for name in (*names, "outage_min_probes")}


def _write(
    file: Path, spool: Spool, flows: Sequence[FlowSpec], about: dict[str, Any], progress: Callable[[float], None]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    word = pa.dictionary(pa.int32(), pa.string())
    fields = [("flow", word), ("sequence", pa.int64()), ("due_ns", pa.int64()), ("tx_ns", pa.int64())]
    fields += [(name, pa.uint32()) for name in ("tx_earlier_ns", "tx_later_ns")]
    fields += [(name, pa.int64()) for name in ("rx_ns", "rtt_ns", "reflector_rx_ns", "reflector_tx_ns")]
    schema = pa.schema([*fields, ("ttl", pa.uint8()), ("fate", word)], {"haprobe": json.dumps(about)})
    names = pa.array([spec.name for spec in flows], pa.string())
    ntp = np.array([spec.protocol == "udp" for spec in flows])
    done = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for part in spool.joined():
            table = pa.table(_columns(pa, part, names, ntp, int(about["anchor_ns"])), schema=schema)
            writer.write_table(table)
            done += len(part.sequence)
            progress(done / spool.rows)


def _columns(pa: Any, part: Joined, names: Any, ntp: npt.NDArray[np.bool_], anchor: int) -> dict[str, Any]:
    """Arrow arrays of a stretch of probes, in Unix ns."""
    answered = part.arrived > 0
    sent = part.sent + anchor
    there = {}
    for name, raw in (("reflector_rx_ns", part.received_there), ("reflector_tx_ns", part.replied_there)):
        stamp = ntp[part.flow]
        there[name] = np.where(stamp, reflector_ns(raw, sent, ntp=True), reflector_ns(raw, sent, ntp=False))
    rtt = part.arrived - part.sent
    # As everywhere in haprobe: the time a probe spent inside the reflector is not the network's.
    told = (there["reflector_rx_ns"] > 0) & (there["reflector_tx_ns"] > 0)
    inside = there["reflector_tx_ns"] - there["reflector_rx_ns"]
    rtt = np.where(told & (inside > 0) & (inside < rtt), rtt - inside, rtt)
    columns = {
        "flow": pa.DictionaryArray.from_arrays(pa.array(part.flow, pa.int32()), names),
        "sequence": pa.array(part.sequence),
        "due_ns": pa.array(part.due + anchor),
        "tx_ns": pa.array(sent),
        "tx_earlier_ns": pa.array(part.earlier),
        "tx_later_ns": pa.array(part.later),
        "rx_ns": pa.array(part.arrived + anchor, mask=~answered),
        "rtt_ns": pa.array(rtt, mask=~answered),
    }
    columns |= {name: pa.array(ns, mask=ns == 0) for name, ns in there.items()}
    columns["ttl"] = pa.array(part.ttl, mask=~answered)
    codes = pa.array(_FATE_CODE[part.fate].astype(np.int32))
    columns["fate"] = pa.DictionaryArray.from_arrays(codes, pa.array(FATES))
    return columns
