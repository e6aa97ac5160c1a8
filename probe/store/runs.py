"""Runs on disk: DIR/<run-id>/report.json and report.html. Atomic to write, forgiving to find, exact about errors.

A run directory appears whole or not at all: it is filled under a hidden name and then renamed, so that an
interrupted drill leaves nothing that a later `compare` would read as a result.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from probe.errors import UsageError
from probe.report import html
from probe.report.document import problems

REPORT = "report.json"
PAGE = "report.html"


def new_run_id(now_ns: int) -> str:
    """A name for a run that starts at `now_ns` (Unix epoch ns): UTC to the millisecond, sortable, a safe file name."""
    instant = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC)
    return f"{instant:%Y%m%dT%H%M%S}.{now_ns // 1_000_000 % 1000:03d}Z"


def store(document: dict[str, Any], out_dir: Path | str, files: Mapping[str, str] | None = None) -> Path:
    """Write a run's document and its page.

    Args:
        document: A result document; `run.id` names the directory.
        out_dir: Made if missing.
        files: More to keep beside it, by name, such as the capture of a unit's awsd.

    Returns:
        The run's directory.

    Raises:
        UsageError: If the run has no usable id, is stored already, or the directory cannot be written.
    """
    run_id = str(document.get("run", {}).get("id", ""))
    if not run_id or run_id != Path(run_id).name or run_id.startswith("."):
        raise UsageError(f"run id {run_id!r} cannot name a directory")
    out = Path(out_dir)
    final = out / run_id
    staging: Path | None = None
    try:
        if final.exists():
            raise UsageError(f"{final}: this run is stored already")
        out.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{run_id}.", dir=out))
        _write(staging / REPORT, to_json(document))
        for name, text in (files or {}).items():
            _write(staging / name, text)
        staging.chmod(0o755)  # mkdtemp's 0700 would hide the report from the people it is for
        staging.rename(final)
        # The page comes last: whatever goes wrong with it, the measurement itself is safe.
        _write(final / PAGE, html.render(document))
    except OSError as error:
        if staging is not None and staging.exists():
            shutil.rmtree(staging, ignore_errors=True)
        raise UsageError(f"{out}: cannot store the run: {error.strerror or error}") from error
    return final


def replace(document: dict[str, Any], path: Path | str) -> Path:
    """Write a run's document over the stored one, and its page anew; each file is whole at any instant.

    Args:
        document: The run's new document.
        path: As for `load`.

    Returns:
        The document's file.

    Raises:
        UsageError: If there is no such run, or it cannot be written.
    """
    found = find(path)
    if len(found) > 1:
        raise UsageError(f"{path}: holds {len(found)} runs, name one of them")
    file = found[0]
    texts = {file: to_json(document)}
    if file.name == REPORT:
        texts[file.with_name(PAGE)] = html.render(document)
    try:
        for target, text in texts.items():
            scratch = target.with_name(f".{target.name}.new")
            _write(scratch, text)
            scratch.replace(target)
    except OSError as error:
        raise UsageError(f"{file}: cannot be written: {error.strerror or error}") from error
    return file


def to_json(document: dict[str, Any]) -> str:
    """The document as it is stored: readable, in the contract's order, newline at the end.

    What is no text, as an octet of a file's name may be, becomes a question mark: no reader would take it.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    return text.encode(errors="replace").decode()


def load(path: Path | str) -> dict[str, Any]:
    """Read one run: a report.json (by any name), a run's directory, or a directory that holds a single run.

    Args:
        path: On disk, or in S3: s3://BUCKET/PREFIX.

    Raises:
        UsageError: If nothing is there, several runs are, or the file is not a result document; says which.
        HaprobeError: If S3 cannot be read.
    """
    found = _contents(path)
    if len(found) > 1:
        names = ", ".join(place.split("/")[-2] for place, _ in found[-5:])
        raise UsageError(f"{path}: holds {len(found)} runs, name one of them; the newest are {names}")
    return _read(*found[0])


def load_all(path: Path | str) -> list[dict[str, Any]]:
    """Read every run under a path, oldest first; `path` as for `load`.

    Raises:
        UsageError: If there is none, or one of them is not a result document.
        HaprobeError: If S3 cannot be read.
    """
    return [_read(*found) for found in _contents(path)]


def _contents(path: Path | str) -> list[tuple[str, bytes]]:
    """(place, content) of the documents under a path."""
    if str(path).startswith("s3://"):
        from probe.store import s3  # the SDK takes a while to import

        return s3.documents(str(path), REPORT)
    found = []
    for file in find(path):
        try:
            found.append((str(file), file.read_bytes()))
        except OSError as error:
            raise UsageError(f"{file}: {error.strerror or error}") from error
    return found


def find(path: Path | str) -> list[Path]:
    """The documents under a path, by run id; never empty.

    Raises:
        UsageError: If there is none, or a directory is closed to us: a run that cannot be read is not passed over.
    """
    try:
        found = _found(Path(path))
    except OSError as error:
        raise UsageError(f"{error.filename or path}: {error.strerror or error}") from error
    if not found:
        raise UsageError(f"{path}: holds no run (neither {REPORT} nor */{REPORT})")
    return found


def _found(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.exists():
        raise UsageError(f"{place}: no such file or directory")
    if (place / REPORT).is_file():
        return [place / REPORT]
    # Hidden directories are runs that were being written when something ended them.
    runs = sorted(run for run in place.iterdir() if not run.name.startswith("."))
    return [run / REPORT for run in runs if (run / REPORT).exists()]


def _read(file: str, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content.decode("utf-8"))
        # Python reads more than others do: NaN, numbers beyond any float, halves of surrogate pairs.
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:  # bad JSON, bytes that are not UTF-8, brackets without end
        raise UsageError(f"{file}: not JSON: {error}") from error
    schema = document.get("schema", "") if isinstance(document, dict) else ""
    if not isinstance(schema, str) or not schema.startswith("haprobe.report/"):
        raise UsageError(f"{file}: not a result document: its schema should be haprobe.report/1")
    if schema != "haprobe.report/1":
        raise UsageError(f"{file}: schema {schema} is of another haprobe; this one reads haprobe.report/1")
    wrong = problems(document)
    if wrong:
        raise UsageError(f"{file}: not a sound result document: {wrong[0]}")
    return dict(document)


def _write(file: Path, text: str) -> None:
    # Captures are verbatim: their line ends are kept.
    with file.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
