"""A bad web configuration file per mistake, and the message it gets."""

from __future__ import annotations

import ssl

import pytest

from probe.errors import ConfigError
from probe.export.webconfig import load_web_config

HASH = "$2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze"


@pytest.fixture
def load(tmp_path):
    def write_and_load(text):
        path = tmp_path / "web.yml"
        path.write_text(text)
        return load_web_config(path)

    return write_and_load


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}\n", "tls_server_config:\nbasic_auth_users:\n"])
def test_an_empty_file_means_plain_http_for_everyone(load, text):
    config = load(text)
    assert (config.tls, config.users, config.headers) == (None, {}, ())
    assert not config.authenticates_anyone


def test_tls_with_paths_relative_to_the_file(certificates):
    path = certificates.directory / "web.yml"
    path.write_text(
        "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n  min_version: TLS13\n"
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"
    )
    config = load_web_config(path)
    assert config.tls is not None
    assert config.tls.cert_file == certificates.server_crt
    context = config.tls.context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert config.authenticates_everyone


def test_users_and_headers(load):
    config = load(
        f"basic_auth_users:\n  alice: {HASH}\n"
        "http_server_config:\n  http2: false\n  headers:\n    X-Frame-Options: deny\n"
    )
    assert config.users == {"alice": HASH.encode()}
    assert config.headers == (("X-Frame-Options", "deny"),)
    assert config.authenticates_everyone


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "basic_auth_user: {}\n",
            "1: basic_auth_user: unknown field; "
            "allowed: tls_server_config, basic_auth_users, http_server_config, rate_limit",
        ),
        ("- a\n", "1: (file): is not a mapping; allowed fields: tls_server_config"),
        ("a: [\n", "2: (syntax): "),
        ("rate_limit: {}\n", "1: rate_limit: not supported by haprobe; remove it"),
        (
            "# x\nbasic_auth_users:\n  bob: secret\n",
            "3: basic_auth_users.bob: is not a bcrypt hash; allowed: as `htpasswd",
        ),
        (
            f"basic_auth_users:\n  bob: {HASH.replace('$10$', '$20$')}\n",
            "2: basic_auth_users.bob: bcrypt cost 20; allowed: 4..15",
        ),
        (
            f"basic_auth_users:\n  'a:b': {HASH}\n",
            "2: basic_auth_users.a:b: user name; allowed: not empty, without a colon",
        ),
        (f"basic_auth_users:\n  a: {HASH}\n  a: {HASH}\n", "3: basic_auth_users.a: appears twice; allowed: once"),
        ("tls_server_config:\n  cert_file: CRT\n", "tls_server_config.key_file: missing; allowed: a file name"),
        (
            "tls_server_config:\n  cert_file: absent\n",
            "absent: No such file or directory; allowed: a readable PEM file",
        ),
        (
            "tls_server_config:\n  cert_file:\n",
            "2: tls_server_config.cert_file: is empty or not a string; allowed: a file name",
        ),
        (
            "tls_server_config:\n  cipher_suites: [A]\n",
            "2: tls_server_config.cipher_suites: not supported by haprobe; allowed: ",
        ),
        (
            "tls_server_config:\n  client_auth_type: RequireAnyClientCert\n",
            "2: tls_server_config.client_auth_type: 'RequireAnyClientCert' is not available in haprobe; "
            "allowed: NoClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert",
        ),
        ("tls_server_config:\n  min_version: TLS10\n", "2: tls_server_config.min_version: 'TLS10' is not available"),
        (
            "tls_server_config:\n  cert_file: CRT\n  key_file: KEY\n  min_version: TLS13\n  max_version: TLS12\n",
            "tls_server_config.min_version: above max_version",
        ),
        (
            "tls_server_config:\n  cert_file: CRT\n  key_file: KEY\n  client_auth_type: RequireAndVerifyClientCert\n",
            "tls_server_config.client_ca_file: client_ca_file and client_auth_type (other than NoClientCert) need each",
        ),
        (
            "tls_server_config:\n  cert_file: CRT\n  key_file: OTHER\n",
            "tls_server_config.cert_file: certificate, key or CA cannot be used: ",
        ),
        (
            "http_server_config:\n  headers:\n    X-Mine: a\n",
            "3: http_server_config.headers.X-Mine: unknown field; allowed: ",
        ),
        (
            "http_server_config:\n  headers:\n    X-Frame-Options: 日本\n",
            "3: http_server_config.headers.X-Frame-Options: is not a line of text in Latin-1",
        ),
        # An unrendered template.
        (f"basic_auth_users:\n  {{{{ user }}}}: {HASH}\n", "2: basic_auth_users: has a key that is not text"),
        ("[" * 3000, "1: (syntax): is nested too deeply"),
    ],
)
def test_each_mistake_names_file_line_field_and_what_is_allowed(load, tmp_path, certificates, text, problem):
    for word, file in (("CRT", "server_crt"), ("KEY", "server_key"), ("OTHER", "client_key")):
        text = text.replace(word, str(getattr(certificates, file)))
    with pytest.raises(ConfigError) as caught:
        load(text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'web.yml'}:")
    assert problem in message
    assert "secret" not in message


def test_all_mistakes_at_once(load):
    with pytest.raises(ConfigError) as caught:
        load("tls_server_config:\n  min_version: x\n  max_version: y\nbasic_auth_users:\n  a: b\nc: d\n")
    assert len(caught.value.problems) == 4


def test_an_absent_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_web_config(tmp_path / "absent.yml")
