"""Addresses to listen on, and sockets handed over by systemd."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest

from probe.errors import UsageError
from probe.export.listen import activated_sockets, listening_sockets, split_address, url_of


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (":10862", ("", 10862)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_addresses(text, parts):
    assert split_address(text) == parts


@pytest.mark.parametrize("text", ["", "10862", "127.0.0.1", "::1:80", "a:b", ":65536", ":-1", "[::1]", "http://a:1"])
def test_bad_addresses_say_what_is_allowed(text):
    with pytest.raises(UsageError, match=r"--web\.listen-address: .* allowed: ADDRESS:PORT"):
        split_address(text)


def test_an_address_in_use_is_a_usage_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            listening_sockets(f"127.0.0.1:{port}")


def test_all_addresses_are_reached_over_loopback():
    (listening,) = listening_sockets(":0")
    with listening:
        url = url_of(listening, "http")
        assert url.startswith("http://127.0.0.1:")
        socket.create_connection(("127.0.0.1", listening.getsockname()[1])).close()


def test_variables_meant_for_another_process_are_left_alone(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert activated_sockets() == []
    assert os.environ["LISTEN_FDS"] == "1"


def test_served_on_a_socket_passed_by_its_parent(tmp_path):
    """As systemd does it: the socket is descriptor 3, LISTEN_PID is the process that starts."""
    script = """
        import os, sys
        sys.path.insert(0, sys.argv[1])
        from export.fakes import FakeAgent
        from probe.export.http import serve
        with serve(FakeAgent(), ":1") as server:
            print(server.port, "LISTEN_FDS" in os.environ, os.get_inheritable(3), flush=True)
            sys.stdin.read()
    """
    launcher = """
        import os, sys
        os.dup2(int(sys.argv[1]), 3)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
        os.execv(sys.executable, [sys.executable, "-c", *sys.argv[2:]])
    """
    tests = str(Path(__file__).parents[1])
    with socket.create_server(("127.0.0.1", 0)) as passed:
        port = passed.getsockname()[1]
        arguments = [str(passed.fileno()), textwrap.dedent(script), tests]
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(launcher), *arguments],
            pass_fds=[passed.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as agent:
            try:
                assert agent.stdout.readline().split() == [str(port), "False", "False"]
                assert httpx.get(f"http://127.0.0.1:{port}/-/ready").status_code == 200
            finally:
                agent.stdin.close()
        assert agent.returncode == 0


def test_a_descriptor_that_is_no_listening_socket_is_a_usage_error():
    script = """
        import os
        from probe.errors import UsageError
        from probe.export.listen import activated_sockets
        os.dup2(os.open(os.devnull, os.O_RDONLY), 3)
        os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
        try:
            activated_sockets()
        except UsageError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert "descriptor 3 passed by systemd (LISTEN_FDS) is not a socket" in done.stdout
