"""Asks one FortiGate's REST API: a client that fails fast, the token in a header, TLS always verified.

What an answer means is `fortigate_answers`'; every way in which there is none becomes an `AskError` with words.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from probe import tls
from probe.errors import ConfigError
from probe.keys import read_secret
from probe.watch import fortigate_answers as answers
from probe.watch.asking import Asker, OverdueError
from probe.watch.fortigate_answers import Answer, AnswerError, HistoryEntry, Role

CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 3.0  # without a further octet
TOTAL_TIMEOUT_S = 5.0  # of one answer, however steadily it trickles
QUESTION_LIMIT_S = TOTAL_TIMEOUT_S + 1.0  # with the resolver and the headers before it
KEPT_OPEN_S = 4.0  # an idle connection; common servers close theirs after five seconds or more
MAX_BODY = 1 << 20  # octets; an HA answer has a few thousand


class AskError(Exception):
    """There is no answer. The message begins with a word for what went wrong and says what to do where we know."""


@dataclass(frozen=True, slots=True)
class UnitAnswer:
    """What a unit says of itself. `note` says why the role is unknown where it is."""

    role: Role
    serial: str
    version: str
    build: str
    note: str = ""


class RestClient:
    """The REST API of one unit. Not safe to share between threads.

    Args:
        name: Our name of the unit, for messages about its configuration.
        unit: As configured (`watchers.fortigate.units.NAME`).

    Raises:
        ConfigError: If the token or the CA cannot be read.
    """

    def __init__(self, name: str, unit: Any):
        self._where = f"watchers.fortigate.units.{name}"
        self._unit = unit
        self._token = read_secret(self._where, "token", unit.token_file, unit.token_env)
        host = f"[{unit.host}]" if ":" in unit.host else unit.host
        self._tls_name = unit.tls_name
        self._url = f"https://{host}:{unit.port}/api/v2/"
        self._context = self._trust()
        self._asker = Asker(f"ask-{name}")
        self._http = self._opened()

    def _opened(self) -> httpx.Client:
        # Nothing compressed: a few octets could become more than memory holds before anybody counts them.
        return httpx.Client(
            base_url=self._url,
            headers={"Accept-Encoding": "identity"},
            verify=self._context,
            trust_env=False,  # a management address is not behind a proxy meant for the internet
            follow_redirects=False,  # the token goes to this host only
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=1, keepalive_expiry=KEPT_OPEN_S),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def give_up(self) -> None:
        """Wait for no answer any more; from any thread."""
        self._asker.close()

    def close(self) -> None:
        """Give the connection back."""
        self.give_up()
        self._http.close()

    def ask(self) -> UnitAnswer:
        """Its role, by the first endpoint that tells; serial number, version and build come with it.

        Raises:
            AskError: If it does not answer, or not as FortiOS does.
        """
        first = self.get(answers.CHECKSUMS)
        role = answers.role_by_checksums(first)
        if role == "unknown":
            role = answers.role_by_peers(self.get(answers.PEERS))
        if role == "unknown" and answers.standalone(self.get(answers.SETTINGS)):
            role = "standalone"
        note = "" if role != "unknown" else "neither ha-checksums nor ha-peer tells its role"
        return UnitAnswer(role, first.serial, first.version, first.build, note)

    def history(self) -> list[HistoryEntry]:
        """Its own HA history, oldest first.

        Raises:
            AskError: As for `ask`.
        """
        return answers.history(self.get(answers.HISTORY))

    def get(self, path: str) -> Answer:
        """One answer.

        Raises:
            AskError: If there is none.
        """
        try:
            try:
                status, body = self._asked(path)
            except httpx.RemoteProtocolError:  # it closed the kept connection just as we asked: not its absence
                status, body = self._asked(path)
        except OverdueError as error:
            # What still hangs ends with its connection.
            self._http.close()
            self._http = self._opened()
            raise AskError(f"timeout ({error})") from error
        except httpx.TimeoutException as error:
            raise AskError(f"timeout ({type(error).__name__})") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AskError(_unreached(error)) from error
        if status in (401, 403):
            # A token that was replaced in its file meanwhile is taken up for the next poll.
            with contextlib.suppress(ConfigError):
                self._token = read_secret(self._where, "token", self._unit.token_file, self._unit.token_env)
        if status != 200:
            raise AskError(_refused(status, path))
        try:
            return answers.read(body)
        except AnswerError as error:
            raise AskError(f"garbage ({path}): {error}") from error

    def _asked(self, path: str) -> tuple[int, bytes]:
        http = self._http
        return self._asker.ask(lambda: self._fetch(http, path), QUESTION_LIMIT_S)

    def _fetch(self, http: httpx.Client, path: str) -> tuple[int, bytes]:
        extensions = {"sni_hostname": self._tls_name} if self._tls_name else {}
        headers = {"Authorization": f"Bearer {self._token}"}
        with http.stream("GET", path, headers=headers, extensions=extensions) as response:
            try:
                return response.status_code, _body(response, path)
            finally:
                if http.is_closed:  # while this was still connecting: it is not among the connections that were closed
                    response.extensions["network_stream"].close()

    def _trust(self) -> ssl.SSLContext:
        ca = self._unit.ca_file
        try:
            return tls.client_context(ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{self._where}.ca_file: {ca}: {error}; allowed: a PEM file of CA certificates"
            ) from error


def _body(response: httpx.Response, path: str) -> bytes:
    deadline = time.monotonic() + TOTAL_TIMEOUT_S
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if time.monotonic() > deadline:
            raise AskError(f"timeout (no whole answer within {TOTAL_TIMEOUT_S:g} s)")
        if len(body) > MAX_BODY:
            body.clear()  # an error lives on in its traceback, and its frames with it
            raise AskError(f"garbage ({path}): an answer of more than {MAX_BODY >> 20} MiB")
    return bytes(body)


def _unreached(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate" in text.lower():
        reason = text.partition("CERTIFICATE_VERIFY_FAILED] ")[2] or text
        return f"tls: {reason}; name its CA in ca_file, or the name in its certificate in tls_name"
    if "ssl" in text.lower():
        return f"tls: {text}; is this its HTTPS port?"
    return f"unreachable: {text}"


def _refused(status: int, path: str) -> str:
    advice = {
        401: "the token is not accepted: is it what `execute api-user generate-key` gave, our address a trusthost?",
        403: "the token's profile may not read this: it needs sysgrp read",
        404: "no such endpoint: is this the management port of a FortiGate?",
    }
    return f"HTTP {status} ({path}): {advice.get(status, 'the unit would not answer')}"
