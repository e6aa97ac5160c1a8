"""TLS contexts: what was reset before the handshake is closed, and no key asks the terminal."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import ssl
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from probe import tls
from probe.lab.credentials import Credentials, make


@pytest.fixture(name="keys", scope="module")
def _keys(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return make(tmp_path_factory.mktemp("keys"), {"fgt-a": ["127.0.0.1"]})


def reset() -> socket.socket:
    """A connection whose peer has just reset it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
    return ours


def by_client(raw: socket.socket, keys: Credentials) -> ssl.SSLSocket:
    return tls.client_context(keys.ca).wrap_socket(raw, server_hostname="127.0.0.1")


def by_server(raw: socket.socket, keys: Credentials) -> ssl.SSLSocket:
    return tls.server_context(keys.certificate("fgt-a")).wrap_socket(raw, server_side=True)


@pytest.mark.parametrize("wrap", [by_client, by_server])
def test_what_was_reset_before_the_handshake_is_closed_at_once(
    wrap: Callable[[socket.socket, Credentials], ssl.SSLSocket], keys: Credentials
) -> None:
    raw = reset()
    number = raw.fileno()
    gc.disable()  # it may not be the collector that closes it
    try:
        with pytest.raises(ConnectionResetError, match="reset by peer"):
            wrap(raw, keys)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
    finally:
        gc.enable()


def test_what_breaks_after_the_handshake_is_its_owner_s_to_close(keys: Credentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        raw = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
        server = pool.submit(by_server, accepted, keys)
        client = by_client(raw, keys)
    server.result().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.result().close()
    with client:
        with contextlib.suppress(ConnectionResetError):
            client.recv(1)  # comes back once the reset is here
        with pytest.raises(OSError, match="not connected"):
            client.getpeername()
        assert client.fileno() >= 0


def test_a_key_with_a_passphrase_is_refused_and_asks_nobody(keys: Credentials, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
    )
    with pytest.raises(ssl.SSLError):
        tls.client_context(keys.ca, keys.certificate("fgt-a"), key)
