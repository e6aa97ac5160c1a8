"""The exporters' web configuration file: TLS, client certificates, users.

Format: prometheus/exporter-toolkit, docs/web-configuration.md. What of it cannot be had with Python's ssl module
(Go's cipher and curve names, PEM text inline, certificates asked for but not verified) is refused by name instead of
being ignored. Relative paths are relative to the file, as there.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from probe.errors import ConfigError

TLS_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
CLIENT_AUTH = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
HEADERS = (
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
)
# What a field of tls_server_config may hold, for error messages.
_TLS_FIELDS = {
    "cert_file": "a file name",
    "key_file": "a file name",
    "client_auth_type": ", ".join(CLIENT_AUTH),
    "client_ca_file": "a file name",
    "min_version": ", ".join(TLS_VERSIONS),
    "max_version": ", ".join(TLS_VERSIONS),
}
_TLS_REFUSED = (
    *("cert", "key", "client_ca", "client_allowed_sans"),
    *("cipher_suites", "prefer_server_cipher_suites", "curve_preferences"),
)
_BCRYPT = re.compile(r"\$2[abxy]\$(\d\d)\$[./A-Za-z0-9]{53}")
_BCRYPT_COSTS = range(4, 16)  # beyond 15, one login takes seconds of a core that has probes to send


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """`tls_server_config`, with absolute paths."""

    cert_file: Path
    key_file: Path
    client_auth: ssl.VerifyMode = ssl.CERT_NONE
    client_ca_file: Path | None = None
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    max_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3

    def context(self) -> ssl.SSLContext:
        """A server context.

        Raises:
            OSError: If a file cannot be read (ssl.SSLError when it holds something else).
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self.min_version
        context.maximum_version = self.max_version
        context.verify_mode = self.client_auth
        # An encrypted key would otherwise ask for its passphrase on the terminal, and wait.
        context.load_cert_chain(self.cert_file, self.key_file, password=lambda: b"")
        if self.client_ca_file is not None:
            context.load_verify_locations(self.client_ca_file)
        return context


@dataclass(frozen=True, slots=True)
class WebConfig:
    """A whole web configuration file; the empty one means plain HTTP for everyone."""

    tls: TlsConfig | None = None
    users: dict[str, bytes] = field(default_factory=dict)  # name to bcrypt hash
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def authenticates_everyone(self) -> bool:
        """Whether nobody gets in without having proved who they are."""
        return bool(self.users) or (self.tls is not None and self.tls.client_auth == ssl.CERT_REQUIRED)

    @property
    def authenticates_anyone(self) -> bool:
        """Whether any authentication is configured; then nothing that changes state is open to others."""
        return self.authenticates_everyone or (self.tls is not None and self.tls.client_auth != ssl.CERT_NONE)


def load_web_config(path: Path) -> WebConfig:
    """Read a web configuration file and check it, certificates included.

    Raises:
        ConfigError: With every mistake, as `FILE:LINE: FIELD: what is wrong; what is allowed`.
    """
    return _Reader(path).read()


class _Reader:
    """Walks the YAML nodes, which know their lines, and collects problems."""

    def __init__(self, path: Path):
        self._path = path
        self._problems: list[str] = []

    def read(self) -> WebConfig:
        root = self._compose()
        sections: dict[str, Callable[[yaml.Node], Any]] = {
            "tls_server_config": self._tls,
            "basic_auth_users": self._users,
            "http_server_config": self._http,
        }
        found: dict[str, Any] = {}
        for name, (key, node) in self._fields(root, "", (*sections, "rate_limit")).items():
            if name == "rate_limit":
                self._problem(key, name, "not supported by haprobe; remove it")
            elif not _is_null(node):
                found[name] = sections[name](node)
        if self._problems:
            raise ConfigError(self._problems)
        tls, users = found.get("tls_server_config"), found.get("basic_auth_users", {})
        return WebConfig(tls=tls, users=users, headers=found.get("http_server_config", ()))

    def _compose(self) -> yaml.Node | None:
        try:
            return yaml.compose(self._path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"{self._path}:1: (file): cannot be read: {reason}; allowed: a YAML file") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = mark.line + 1 if mark else 1
            what = getattr(error, "problem", None) or str(error)
            raise ConfigError(f"{self._path}:{line}: (syntax): {what}; allowed: YAML") from error
        except RecursionError as error:
            raise ConfigError(f"{self._path}:1: (syntax): is nested too deeply; allowed: YAML") from error

    def _problem(self, node: yaml.Node | None, name: str, what: str) -> None:
        line = node.start_mark.line + 1 if node is not None else 1
        self._problems.append(f"{self._path}:{line}: {name}: {what}")

    def _fields(
        self, node: yaml.Node | None, section: str, allowed: tuple[str, ...]
    ) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """The fields of a mapping as name to (key node, value node); unknown and repeated ones become problems."""
        if node is None or _is_null(node):
            return {}
        if not isinstance(node, yaml.MappingNode):
            self._problem(node, section or "(file)", f"is not a mapping; allowed fields: {', '.join(allowed)}")
            return {}
        fields: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                what = f"allowed: {', '.join(allowed)}" if allowed else "allowed: plain text"
                self._problem(key, section or "(file)", f"has a key that is not text; {what}")
                continue
            name = f"{section}.{key.value}" if section else str(key.value)
            if allowed and key.value not in allowed:
                self._problem(key, name, f"unknown field; allowed: {', '.join(allowed)}")
            elif key.value in fields:
                self._problem(key, name, "appears twice; allowed: once")
            else:
                fields[str(key.value)] = (key, value)
        return fields

    def _tls(self, node: yaml.Node) -> TlsConfig | None:
        before = len(self._problems)
        section = "tls_server_config"
        given: dict[str, Any] = {}
        for name, (key, value) in self._fields(node, section, (*_TLS_FIELDS, *_TLS_REFUSED)).items():
            field_name = f"{section}.{name}"
            if name in _TLS_REFUSED:
                self._problem(key, field_name, f"not supported by haprobe; allowed: {', '.join(_TLS_FIELDS)}")
            elif not isinstance(value, yaml.ScalarNode) or not value.value:
                self._problem(key, field_name, f"is empty or not a string; allowed: {_TLS_FIELDS[name]}")
            else:
                given[name] = self._tls_value(field_name, name, value)
        for name in ("cert_file", "key_file"):
            if name not in given and len(self._problems) == before:
                self._problem(node, f"{section}.{name}", "missing; allowed: a file name")
        return self._tls_checked(node, given) if len(self._problems) == before else None

    def _tls_value(self, field_name: str, name: str, value: yaml.ScalarNode) -> Any:
        if name.endswith("_file"):
            return self._readable(field_name, value)
        choices: dict[str, Any] = CLIENT_AUTH if name == "client_auth_type" else TLS_VERSIONS
        if value.value not in choices:
            what = f"{value.value!r} is not available in haprobe; allowed: {', '.join(choices)}"
            self._problem(value, field_name, what)
        return choices.get(value.value)

    def _readable(self, field_name: str, value: yaml.ScalarNode) -> Path:
        path = self._path.parent / str(value.value)
        try:
            path.open("rb").close()
        except OSError as error:
            self._problem(value, field_name, f"{path}: {error.strerror}; allowed: a readable PEM file")
        return path

    def _tls_checked(self, node: yaml.Node, given: dict[str, Any]) -> TlsConfig | None:
        section = "tls_server_config"
        auth = given.pop("client_auth_type", ssl.CERT_NONE)
        tls = TlsConfig(client_auth=auth, **given)
        if tls.min_version > tls.max_version:
            self._problem(node, f"{section}.min_version", "above max_version; allowed: at most max_version")
        elif (tls.client_ca_file is None) != (auth == ssl.CERT_NONE):
            what = (
                "client_ca_file and client_auth_type (other than NoClientCert) need each other; allowed: both or none"
            )
            self._problem(node, f"{section}.client_ca_file", what)
        else:
            try:
                tls.context()
            except (OSError, ValueError) as error:
                what = f"certificate, key or CA cannot be used: {error}; allowed: matching PEM files, key not encrypted"
                self._problem(node, f"{section}.cert_file", what)
        return tls

    def _users(self, node: yaml.Node) -> dict[str, bytes]:
        users: dict[str, bytes] = {}
        for name, (key, value) in self._fields(node, "basic_auth_users", ()).items():
            hashed = _BCRYPT.fullmatch(str(value.value))
            if hashed is None:
                # The value may be a password in clear: it is not repeated.
                self._problem(
                    key, f"basic_auth_users.{name}", "is not a bcrypt hash; allowed: as `htpasswd -nB` prints it"
                )
            elif int(hashed[1]) not in _BCRYPT_COSTS:
                allowed = f"{_BCRYPT_COSTS[0]}..{_BCRYPT_COSTS[-1]}"
                self._problem(key, f"basic_auth_users.{name}", f"bcrypt cost {int(hashed[1])}; allowed: {allowed}")
            elif not name or ":" in name:
                self._problem(key, f"basic_auth_users.{name}", "user name; allowed: not empty, without a colon")
            else:
                users[name] = str(value.value).encode()
        return users

    def _http(self, node: yaml.Node) -> tuple[tuple[str, str], ...]:
        fields = self._fields(node, "http_server_config", ("http2", "headers"))
        if "http2" not in fields and "headers" not in fields:
            return ()
        # http2 only permits the newer protocol; serving HTTP/1.1 alone obeys either value.
        _, headers = fields.get("headers", (None, None))
        known = self._fields(headers, "http_server_config.headers", HEADERS)
        for name, (_, value) in known.items():
            if not isinstance(value, yaml.ScalarNode) or not _fits_a_header(value.value):
                what = "is not a line of text in Latin-1; allowed: a string"
                self._problem(value, f"http_server_config.headers.{name}", what)
        return tuple((name, str(value.value)) for name, (_, value) in known.items())


def _fits_a_header(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return text.isprintable()


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
