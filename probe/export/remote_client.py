"""The HTTP side of remote write: one request at a time, and what its answer means for the batch."""

from __future__ import annotations

import base64
import email.utils
import ssl
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import httpx

from probe import __version__, tls
from probe.errors import ConfigError
from probe.export.remote_format import HEADERS
from probe.keys import read_secret

if TYPE_CHECKING:
    from probe.config import RemoteWrite

TIMEOUT_S = 10.0
LONGEST_WAIT_S = 300.0
# The path is wrong rather than the batch: another password, route or pace makes these answers good.
_PATH_FAULTS = {401, 403, 404, 407, 408, 425, 429}
# Prometheus with an out-of-order window calls what lies before it a fault of its own (500), which never passes.
_TOO_OLD = "too old sample"


class Fate(Enum):
    """What becomes of a batch."""

    TAKEN = "taken"
    AGAIN = "again"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one request. `wait_s`: how long the store wants to be left alone."""

    fate: Fate
    reason: str = ""
    wait_s: float = 0.0


class RemoteClient:
    """Sends request bodies to one store. Not safe to share between threads.

    Args:
        config: `remote_write` of the config file.

    Raises:
        ConfigError: If a secret or a certificate cannot be read.
    """

    def __init__(self, config: RemoteWrite):
        self._config = config
        self._secret = self._read_secret()
        self._http = httpx.Client(
            verify=_tls(config),
            headers={**config.headers, **HEADERS, "User-Agent": f"haprobe/{__version__}"},
            trust_env=False,  # a proxy meant for browsers is no place for credentials
            follow_redirects=False,
            timeout=TIMEOUT_S,
        )

    def send(self, body: bytes) -> Answer:
        """Post one request; a failure is an answer as well."""
        try:
            response = self._http.post(self._config.url, content=body, headers=self._authorization())
        except httpx.TimeoutException:
            return Answer(Fate.AGAIN, f"no answer within {TIMEOUT_S:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            return Answer(Fate.AGAIN, str(error) or type(error).__name__)
        status = response.status_code
        if 200 <= status < 300:
            return Answer(Fate.TAKEN)
        reason = f"HTTP {status}: {' '.join(response.text.split())[:200]}"
        if status in (401, 403):
            try:
                self._secret = self._read_secret()  # it may have been replaced in its file meanwhile
            except ConfigError as error:
                reason = str(error)
        if (400 <= status < 500 and status not in _PATH_FAULTS) or _TOO_OLD in reason:
            return Answer(Fate.REFUSED, reason)
        return Answer(Fate.AGAIN, reason, retry_after_s(response.headers.get("retry-after", ""), time.time()))

    def close(self) -> None:
        """Give the connection back."""
        self._http.close()

    def _read_secret(self) -> str:
        config = self._config
        if config.token_file is not None:
            return read_secret("remote_write", "token", config.token_file, None)
        if config.password_file is not None:
            return read_secret("remote_write", "password", config.password_file, None)
        return ""

    def _authorization(self) -> dict[str, str]:
        if self._config.token_file is not None:
            return {"Authorization": f"Bearer {self._secret}"}
        if self._config.username is not None:
            pair = base64.b64encode(f"{self._config.username}:{self._secret}".encode()).decode()
            return {"Authorization": f"Basic {pair}"}
        return {}


def retry_after_s(text: str, now_s: float) -> float:
    """Seconds that a Retry-After asks for, up to LONGEST_WAIT_S; 0 when it asks for none (RFC 9110, section 10.2.3)."""
    if text.isascii() and text.isdecimal():
        return min(float(text[:6]), LONGEST_WAIT_S)
    try:
        return min(max(email.utils.parsedate_to_datetime(text).timestamp() - now_s, 0.0), LONGEST_WAIT_S)
    except (ValueError, TypeError):
        return 0.0


def _tls(config: RemoteWrite) -> ssl.SSLContext | bool:
    if not config.url.startswith("https:"):
        return True
    files = [file for file in (config.ca_file, config.cert_file, config.key_file) if file is not None]
    try:
        return tls.client_context(config.ca_file, config.cert_file, config.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"remote_write: {', '.join(files)}: {error}; allowed: readable PEM files") from error
