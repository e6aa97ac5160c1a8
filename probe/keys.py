"""Secrets come from files only."""

from __future__ import annotations

from pathlib import Path

from probe.errors import ConfigError
from probe.wire.stamp import load_key


def read_secret(path: Path | str) -> str:
    """The password or token in a file, without the line's end.

    Raises:
        ConfigError: If it cannot be read, or is empty.
    """
    try:
        secret = Path(path).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the secret: {getattr(error, 'strerror', None) or error}") from error
    if not secret:
        raise ConfigError(f"{path}: is empty; a password or token is needed in it")
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
