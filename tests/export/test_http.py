"""The server itself: its thread, TLS, silent clients, start and stop."""

from __future__ import annotations

import signal
import socket
import ssl
import threading
import time

import httpx
import pytest

from probe.errors import ConfigError, HaprobeError, UsageError
from probe.export import http
from probe.export.sse import EventHub

from .fakes import FakeAgent


@pytest.fixture
def tls_file(certificates):
    """Write a web configuration with TLS; extra lines go into tls_server_config."""

    def write(*extra, cert="server"):
        path = certificates.directory / "web.yml"
        lines = ["tls_server_config:", f"  cert_file: {cert}.crt", f"  key_file: {cert}.key", *extra]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def trusting(certificates, client=""):
    context = ssl.create_default_context(cafile=str(certificates.ca_crt))
    if client:
        context.load_cert_chain(getattr(certificates, f"{client}_crt"), getattr(certificates, f"{client}_key"))
    return context


def get(url, **options):
    return httpx.get(url, timeout=10, **options)


def eventually(condition, within_s=10.0):
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
    return value


def test_url_and_port_are_those_of_the_socket(serving):
    server = serving()
    assert server.url == f"http://127.0.0.1:{server.port}"
    assert get(f"{server.url}/-/healthy").status_code == 200


def test_an_open_socket_is_served_as_it_is(serving):
    listening = socket.create_server(("127.0.0.1", 0))
    server = serving(listening)
    assert server.port == listening.getsockname()[1]
    assert get(f"{server.url}/-/healthy").status_code == 200


def test_signal_handlers_stay_those_of_the_process(serving):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    serving()
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_no_log_line_per_request(serving, capfd):
    get(f"{serving().url}/-/healthy")
    assert capfd.readouterr() == ("", "")


def test_stop_frees_port_threads_and_subscription(agent, serving):
    server = serving()
    assert len(agent.subscribers) == 1
    server.stop()
    server.stop()
    assert agent.subscribers == []
    assert not [thread for thread in threading.enumerate() if thread.name == "haprobe-web"]
    with pytest.raises(httpx.ConnectError):
        get(server.url)
    socket.create_server(("127.0.0.1", server.port)).close()


def test_stop_ends_event_streams_promptly(serving):
    server = serving()
    with httpx.stream("GET", f"{server.url}/api/v1/events", timeout=10) as stream:
        lines = stream.iter_lines()
        next(lines)
        began = time.monotonic()
        server.stop()
        assert list(lines)[-1] == ""
    assert time.monotonic() - began < 3


def test_an_unread_event_stream_is_dropped_and_the_agent_never_waits(agent, serving):
    server = serving(hub=EventHub(queue_size=8, write_timeout_s=60))
    with socket.create_connection(("127.0.0.1", server.port)) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in lazy.recv(4096)
        filler = "x" * 200_000
        for n in range(100):  # 20 MB: more than the sockets' buffers take
            agent.emit("outage", {"n": n, "filler": filler})
        assert get(f"{server.url}/-/healthy").status_code == 200
        lazy.settimeout(10)
        received = b""
        while chunk := lazy.recv(1 << 20):
            received = (received + chunk)[-10_000:]
            if b"event: dropped" in received:
                break
        assert b'"lost":' in received


def test_silent_clients_hold_up_nobody_and_are_cut_off(serving, monkeypatch):
    monkeypatch.setattr(http, "FIRST_REQUEST_WITHIN_S", 0.2)
    server = serving()
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(20)]
    try:
        assert get(f"{server.url}/-/healthy").status_code == 200
        for connection in silent:
            try:
                assert connection.recv(1) == b""
            except ConnectionResetError:
                pass
    finally:
        for connection in silent:
            connection.close()


def test_tls_and_a_client_silent_in_its_handshake(serving, tls_file, certificates):
    server = serving(web_config=tls_file())
    with socket.create_connection(("127.0.0.1", server.port)):
        assert server.url.startswith("https://")
        assert get(f"{server.url}/metrics", verify=trusting(certificates)).status_code == 200


def test_min_version_is_kept(serving, tls_file, certificates):
    server = serving(web_config=tls_file("  min_version: TLS13"))
    old = trusting(certificates)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx.ConnectError):  # cut off in the handshake
        get(server.url, verify=old)
    assert get(f"{server.url}/-/healthy", verify=trusting(certificates)).status_code == 200


def test_client_certificates(serving, tls_file, certificates):
    mutual = tls_file("  client_auth_type: RequireAndVerifyClientCert", "  client_ca_file: ca.crt")
    server = serving(web_config=mutual)
    for client in ("", "stranger"):
        with pytest.raises(httpx.HTTPError):
            get(f"{server.url}/-/healthy", verify=trusting(certificates, client))
    known = trusting(certificates, "client")
    assert get(f"{server.url}/metrics", verify=known).status_code == 200
    assert httpx.post(f"{server.url}/-/reload", verify=known, timeout=10).status_code == 200


def test_optional_client_certificates_do_not_open_the_reload(agent, serving, tls_file, certificates):
    optional = tls_file("  client_auth_type: VerifyClientCertIfGiven", "  client_ca_file: ca.crt")
    server = serving(web_config=optional)
    assert get(f"{server.url}/metrics", verify=trusting(certificates)).status_code == 200
    assert httpx.post(f"{server.url}/-/reload", verify=trusting(certificates), timeout=10).status_code == 403
    assert agent.reloads == 0


def test_a_renewed_certificate_is_used_after_a_reload(serving, tls_file, certificates):
    server = serving(web_config=tls_file())
    assert shown_names(server.port, certificates) == {"127.0.0.1", "localhost"}
    tls_file(cert="renewed")
    server.reload_web_config()
    assert shown_names(server.port, certificates) == {"127.0.0.1", "renewed.example"}


def shown_names(port, certificates):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
        with trusting(certificates).wrap_socket(raw, server_hostname="127.0.0.1") as secure:
            return {value for _, value in secure.getpeercert()["subjectAltName"]}


def test_headers_of_the_web_configuration(serving, tmp_path):
    path = tmp_path / "web.yml"
    path.write_text("http_server_config:\n  headers:\n    X-Frame-Options: deny\n")
    server = serving(web_config=path)
    assert get(f"{server.url}/-/healthy").headers["x-frame-options"] == "deny"
    path.write_text(
        "http_server_config:\n  headers:\n    X-Frame-Options: sameorigin\n    X-Content-Type-Options: nosniff\n"
    )
    server.reload_web_config()
    for page in ("/-/healthy", "/metrics", "/nowhere"):
        headers = get(f"{server.url}{page}").headers
        assert (headers["x-frame-options"], headers["x-content-type-options"]) == ("sameorigin", "nosniff"), page


def test_a_bad_web_configuration_starts_nothing(tmp_path):
    path = tmp_path / "web.yml"
    path.write_text("users: {}\n")
    before = threading.active_count()
    with pytest.raises(ConfigError, match=r"web\.yml:1: users: unknown field"):
        http.serve(FakeAgent(), "127.0.0.1:0", path)
    with pytest.raises(UsageError, match="not an address"):
        http.serve(FakeAgent(), "nowhere")
    assert threading.active_count() == before


def test_a_subscription_that_fails_is_reported_and_frees_the_port(caplog):
    class Broken(FakeAgent):
        def subscribe(self, callback):
            raise RuntimeError("no events here")

    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with pytest.raises(HaprobeError, match="did not start"):
        http.serve(Broken(), listening)
    assert "no events here" in caplog.text
    socket.create_server(("127.0.0.1", port)).close()
