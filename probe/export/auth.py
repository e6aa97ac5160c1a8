"""Who may ask what: the web configuration in force, and the middleware that applies it.

Once any authentication is configured, every endpoint but `/-/healthy` needs it. Passwords are checked by bcrypt in a
worker thread, one at a time, so that guessing cannot take the cores from the probes; what passed is remembered.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import logging
import secrets
import ssl
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio.to_thread
import bcrypt
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from probe.errors import ConfigError
from probe.export.webconfig import WebConfig, load_web_config

OPEN_PATHS = frozenset({"/-/healthy"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_REMEMBERED = 100
_BCRYPT_OCTETS = 72  # bcrypt looks no further; htpasswd and Go cut off there, Python's bcrypt raises

log = logging.getLogger("haprobe.web")


class Security:
    """The web configuration in force, read again when its file or certificates change.

    Args:
        path: The `--web.config.file`, or None for plain HTTP without users.

    Raises:
        ConfigError: If the file is bad.
    """

    def __init__(self, path: Path | None = None):
        self._path = path
        self.config = load_web_config(path) if path else WebConfig()
        self._context = self.config.tls.context() if self.config.tls else None
        self._seen = self._fingerprint()

    def reload(self) -> None:
        """Take over users, headers and certificates as they are now.

        Raises:
            ConfigError: If the file is bad, or asks for what needs a restart; the configuration in force stays.
        """
        if self._path is None:
            return
        self._seen = self._fingerprint()
        new, old = load_web_config(self._path), self.config
        if _handshake_terms(new) != _handshake_terms(old):
            raise ConfigError(
                f"{self._path}:1: tls_server_config: TLS switched on or off, or client_auth_type or versions changed, "
                "while running; allowed: restart haprobe for that"
            )
        if old.authenticates_anyone and not new.authenticates_anyone:
            # A file caught while it is being written is empty, and that would mean: everyone may do everything.
            raise ConfigError(
                f"{self._path}:1: basic_auth_users, client_auth_type: gone, so that nobody would have to prove who "
                "they are, while running; allowed: restart haprobe for that"
            )
        context = new.tls.context() if new.tls else None
        self.config, self._context = new, context

    def reload_if_changed(self) -> None:
        """Reload when a file was replaced; a bad new state is logged once and the old one stays in force."""
        if self._path is None or self._fingerprint() == self._seen:
            return
        try:
            self.reload()
        except (ConfigError, OSError) as error:
            log.warning("web configuration not taken over: %s", error)

    def server_context(self) -> ssl.SSLContext | None:
        """The context to listen with; every handshake uses the newest certificates. None for plain HTTP."""
        if self.config.tls is None:
            return None
        listening = self.config.tls.context()
        listening.sni_callback = self._use_newest
        return listening

    def _use_newest(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        # OpenSSL calls this for every ClientHello, also without a server name; the assignment swaps the
        # certificate and the CA store of this connection (SSL_set_SSL_CTX).
        if self._context is not None:
            connection.context = self._context

    def _fingerprint(self) -> tuple[Any, ...]:
        if self._path is None:
            return ()
        tls = self.config.tls
        files = [self._path, *((tls.cert_file, tls.key_file, tls.client_ca_file) if tls else ())]
        seen: list[Any] = []
        for file in filter(None, files):
            with contextlib.suppress(OSError):
                state = file.stat()
                seen.append((str(file), state.st_ino, state.st_size, state.st_mtime_ns))
        return tuple(seen)


def _handshake_terms(config: WebConfig) -> tuple[Any, ...] | None:
    return (config.tls.client_auth, config.tls.min_version, config.tls.max_version) if config.tls else None


class Passwords:
    """Checks names and passwords against bcrypt hashes, with a small memory of what passed."""

    def __init__(self) -> None:
        # Keyed with a secret of this process, so that the memory holds nothing worth stealing.
        self._key = secrets.token_bytes(32)
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def valid(self, users: dict[str, bytes], name: str, password: bytes) -> bool:
        """Whether `password` is that of user `name`; takes as long for a user that does not exist."""
        known = name in users
        # Somebody's hash stands in for that of an unknown user, so that the answer takes as long.
        hashed = users[name] if known else next(iter(users.values()))
        proof = self._proof(name, hashed, password)
        if known and proof in self._passed:
            self._passed.move_to_end(proof)
            return True
        matches = await anyio.to_thread.run_sync(_matches, password, hashed, limiter=self._one_at_a_time)
        if not (known and matches):
            return False
        self._passed[proof] = None
        if len(self._passed) > _REMEMBERED:
            self._passed.popitem(last=False)
        return True

    def _proof(self, name: str, hashed: bytes, password: bytes) -> bytes:
        parts = (name.encode(), hashed, password)
        framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hmac.digest(self._key, framed, hashlib.sha256)


def _matches(password: bytes, hashed: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:_BCRYPT_OCTETS], hashed)
    except ValueError:  # an octet that bcrypt does not take, such as NUL
        return False


def basic_credentials(header: str | None) -> tuple[str, bytes] | None:
    """Name and password of an `Authorization: Basic` header (RFC 7617); None when it is not one."""
    scheme, _, encoded = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


class Guard:
    """ASGI middleware: lets through what the web configuration in force allows."""

    def __init__(self, app: ASGIApp, security: Security):
        self._app = app
        self._security = security
        self._passwords = Passwords()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._app
        if scope["type"] == "http":
            send = self._with_headers(send)
            answer = await self._refusal(scope) or self._app
        await answer(scope, receive, send)

    def _with_headers(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [
                    (name.lower().encode(), value.encode("latin-1")) for name, value in self._security.config.headers
                ]
                names = {name for name, _ in ours}
                theirs = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in names]
                message = {**message, "headers": [*theirs, *ours]}
            await send(message)

        return sending

    async def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers, config = Headers(scope=scope), self._security.config
        if scope["path"] in OPEN_PATHS and scope["method"] in _SAFE_METHODS:
            return None
        if config.users:
            given = basic_credentials(headers.get("authorization"))
            if given is None or not await self._passwords.valid(config.users, *given):
                challenge = {"WWW-Authenticate": 'Basic realm="haprobe", charset="UTF-8"'}
                return PlainTextResponse("Unauthorized: user and password needed\n", 401, headers=challenge)
        if scope["method"] in _SAFE_METHODS:
            return None
        return _refused_change(headers, config)


def _refused_change(headers: Headers, config: WebConfig) -> PlainTextResponse | None:
    if config.authenticates_anyone and not config.authenticates_everyone:
        # With VerifyClientCertIfGiven alone a client may come without any certificate.
        what = "Forbidden: needs basic_auth_users or RequireAndVerifyClientCert; SIGHUP reloads as well\n"
        return PlainTextResponse(what, 403)
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        # A browser adds its user's password to requests that another site's page makes.
        return PlainTextResponse("Forbidden: request made by another site's page\n", 403)
    return None
