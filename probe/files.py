"""Files that a user names on the command line: read, checked before the work, written after it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from probe.errors import UsageError


def read_bytes(file: str) -> bytes:
    """All of a file, or of stdin when it is `-`.

    Raises:
        UsageError: If it cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except (OSError, ValueError, AttributeError) as error:  # AttributeError: started without a stdin
        why = (error.strerror if isinstance(error, OSError) else None) or "it is closed, or has no such name"
        raise UsageError(f"{file} cannot be read: {why}; allowed: a readable file, or - for standard input") from error


def check_outputs(*files: str | None) -> None:
    """Find out early that a result could not be written.

    Args:
        files: Those that one command is to write; `-` is stdout, None one that is not wanted.

    Raises:
        UsageError: If a directory is missing or closed to us, a file is a directory itself, or two are the same.
    """
    wanted = [file for file in files if file is not None]
    for file in wanted:
        _check_writable(file)
    places = [file if file == "-" else os.path.realpath(file) for file in wanted if not not_a_file(file)]
    for place in places:
        if places.count(place) > 1:
            raise UsageError(f"{place} cannot take two results at once; allowed: a place of its own for each")


def _check_writable(file: str) -> None:
    if file != "-" and not _may_be_written(Path(file)):
        raise UsageError(f"{file} cannot be written; allowed: a file in an existing directory that you may write to")


def _may_be_written(path: Path) -> bool:
    try:
        directory = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return path.parent.is_dir() and os.access(path.parent, os.W_OK)
    except OSError:  # behind a directory that is closed to us, or of a name that is too long
        return False
    return not directory and os.access(path, os.W_OK)


def not_a_file(file: str) -> bool:
    """Whether there is something of this name that must not be replaced by a file: a device, a pipe."""
    try:
        return not stat.S_ISREG(Path(file).stat().st_mode)
    except OSError:  # nothing, or nothing that we may look at
        return False


def replace(file: str, text: str) -> None:
    """As `write`, but who reads the file meanwhile sees the old or the new one, never half of it."""
    if file == "-" or not_a_file(file):
        write(file, text)
        return
    file = os.path.realpath(file)  # a link goes on pointing where it does
    unfinished = f"{file}.new"
    write(unfinished, text)
    try:
        Path(unfinished).replace(file)
    except OSError as error:
        Path(unfinished).unlink(missing_ok=True)
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error


def write(file: str, text: str) -> None:
    """Write a result to a file, or to stdout when it is `-`.

    Raises:
        UsageError: If the file cannot be written.
    """
    # A file's name may hold octets that are no text: rather a question mark in the result than none.
    octets = text.encode(errors="replace")
    if file == "-":
        _print(octets if octets.endswith(b"\n") else octets + b"\n")
        return
    try:
        Path(file).write_bytes(octets)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error


def _print(octets: bytes) -> None:
    """To stdout as they are: a document is UTF-8, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(octets)
    sys.stdout.flush()
