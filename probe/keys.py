"""Secrets come from files only."""

from __future__ import annotations

import os
from pathlib import Path

from probe.errors import ConfigError
from probe.wire.stamp import load_key


def read_secret(where: str, what: str, file: str | None, variable: str | None) -> str:
    """A secret from its file or environment variable.

    Raises:
        ConfigError: If it is not there, or cannot be sent; never shows it.
    """
    if file is not None:
        key, place = f"{what}_file", file
        try:
            secret = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigError(f"{where}.{key}: {file} cannot be read: {reason}; allowed: a readable file") from error
    else:
        key, place = f"{what}_env", f"environment variable {variable}"
        secret = os.environ.get(variable or "", "").strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        raise ConfigError(f"{where}.{key}: {place} holds no {what}; allowed: one line of printable characters")
    return secret


def read_key(path: str) -> bytes:
    """The STAMP key in a file.

    Raises:
        ConfigError: If it cannot be read, or is too short.
    """
    try:
        return load_key(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the STAMP key: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
