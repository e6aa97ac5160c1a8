"""Users and passwords, and what stays open without them."""

from __future__ import annotations

import base64

import anyio
import bcrypt
import httpx
import pytest

from probe.errors import ConfigError
from probe.export import auth
from probe.export.auth import Passwords, Security, basic_credentials

from .conftest import PASSWORD

PATHS = ["/", "/metrics", "/-/ready", "/api/v1/status", "/api/v1/outages", "/api/v1/report", "/api/v1/events", "/nope"]


@pytest.fixture
def users_file(tmp_path, hashed):
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users:\n  alice: {hashed}\n")
    return path


@pytest.fixture
def url(serving, users_file):
    return serving(web_config=users_file).url


@pytest.fixture
def checks(monkeypatch):
    """Hashes that bcrypt was asked to check."""
    asked = []
    real = bcrypt.checkpw
    monkeypatch.setattr(auth.bcrypt, "checkpw", lambda password, known: asked.append(known) or real(password, known))
    return asked


@pytest.mark.parametrize("login", [None, ("alice", "wrong"), ("bob", PASSWORD), ("", "")])
def test_everything_but_healthy_needs_a_login(url, login):
    for path in PATHS:
        answer = httpx.get(url + path, auth=login, timeout=10)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
        assert "alice" not in answer.text


def test_reload_needs_a_login(url, agent):
    assert httpx.post(f"{url}/-/reload", timeout=10).status_code == 401
    assert httpx.post(f"{url}/-/healthy", timeout=10).status_code == 401
    assert agent.reloads == 0
    assert httpx.post(f"{url}/-/reload", auth=("alice", PASSWORD), timeout=10).status_code == 200
    assert agent.reloads == 1


def test_healthy_is_open(url):
    assert httpx.get(f"{url}/-/healthy", timeout=10).status_code == 200


def test_the_right_password_opens_and_is_checked_by_bcrypt_once(url, checks):
    for _ in range(3):
        assert httpx.get(f"{url}/api/v1/status", auth=("alice", PASSWORD), timeout=10).status_code == 200
    assert len(checks) == 1


def test_an_unknown_user_costs_a_check_as_well(url, checks):
    httpx.get(f"{url}/metrics", auth=("bob", PASSWORD), timeout=10)
    assert len(checks) == 1


def test_a_changed_password_is_taken_over_and_the_old_one_forgotten(serving, users_file, hashed):
    server = serving(web_config=users_file)

    def login(password):
        return httpx.get(f"{server.url}/-/ready", auth=("alice", password), timeout=10).status_code

    assert login(PASSWORD) == 200
    changed = bcrypt.hashpw(b"another", bcrypt.gensalt(4)).decode()
    users_file.write_text(users_file.read_text().replace(hashed, changed))
    server.reload_web_config()
    assert (login(PASSWORD), login("another")) == (401, 200)


def test_passwords_remember_a_bounded_number(hashed, monkeypatch):
    monkeypatch.setattr(auth, "_REMEMBERED", 2)

    async def scenario():
        passwords = Passwords()
        users = {name: hashed.encode() for name in "abc"}
        for name in users:
            assert await passwords.valid(users, name, PASSWORD.encode())
        assert len(passwords._passed) == 2

    anyio.run(scenario)


@pytest.mark.parametrize("password", [b"\0", b"", b"x" * 1000, b"\xff\xfe"])
def test_odd_passwords_are_wrong_passwords(hashed, password):
    async def scenario():
        assert not await Passwords().valid({"alice": hashed.encode()}, "alice", password)

    anyio.run(scenario)


def test_long_passwords_end_where_bcrypt_does():
    async def scenario():
        users = {"alice": bcrypt.hashpw(b"p" * 72, bcrypt.gensalt(4))}
        assert await Passwords().valid(users, "alice", b"p" * 100)

    anyio.run(scenario)


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


@pytest.mark.parametrize(
    ("header", "credentials"),
    [
        (None, None),
        ("", None),
        ("Bearer abc", None),
        ("Basic", None),
        ("Basic !!!", None),
        ("Basic " + encoded(b"nocolon"), None),
        ("Basic " + encoded(b"\xff:a"), None),
        ("basic " + encoded(b"alice:a:b"), ("alice", b"a:b")),
        ("Basic " + encoded("ü:é".encode()), ("ü", "é".encode())),
    ],
)
def test_basic_credentials(header, credentials):
    assert basic_credentials(header) == credentials


def test_a_changed_file_is_noticed_and_a_bad_one_changes_nothing(users_file, hashed, caplog):
    security = Security(users_file)
    users_file.write_text(users_file.read_text().replace("alice", "carol"))
    security.reload_if_changed()
    assert set(security.config.users) == {"carol"}
    users_file.write_text("basic_auth_users: [\n")
    security.reload_if_changed()
    security.reload_if_changed()
    assert set(security.config.users) == {"carol"}
    assert caplog.text.count("not taken over") == 1
    with pytest.raises(ConfigError):
        security.reload()


@pytest.mark.parametrize(
    "text", ["", "basic_auth_users:\n", "http_server_config: {headers: {X-Frame-Options: deny}}\n"]
)
def test_a_file_caught_half_written_lets_nobody_in(users_file, text, caplog):
    security = Security(users_file)
    users_file.write_text(text)
    security.reload_if_changed()
    assert set(security.config.users) == {"alice"}
    assert "restart haprobe" in caplog.text
    with pytest.raises(ConfigError, match="nobody would have to prove"):
        security.reload()


def test_switching_tls_needs_a_restart(tmp_path, certificates, hashed):
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users:\n  alice: {hashed}\n")
    security = Security(path)
    path.write_text(
        f"tls_server_config:\n  cert_file: {certificates.server_crt}\n  key_file: {certificates.server_key}\n"
    )
    with pytest.raises(ConfigError, match="restart haprobe"):
        security.reload()
    assert security.config.users


def test_a_replaced_certificate_is_noticed(certificates, tmp_path):
    for kind in ("crt", "key"):
        (tmp_path / f"used.{kind}").write_bytes(getattr(certificates, f"server_{kind}").read_bytes())
    path = tmp_path / "web.yml"
    path.write_text("tls_server_config:\n  cert_file: used.crt\n  key_file: used.key\n")
    security = Security(path)
    before = security._context
    security.reload_if_changed()
    assert security._context is before
    for kind in ("crt", "key"):
        new = tmp_path / f"new.{kind}"
        new.write_bytes(getattr(certificates, f"renewed_{kind}").read_bytes())
        new.replace(tmp_path / f"used.{kind}")
    security.reload_if_changed()
    assert security._context is not before
