"""TLS contexts whose sockets are closed in every case, of clients and of servers with a thread for each connection.

Python's own wraps a socket in two steps: it takes the descriptor over, then asks who the peer is. Where the peer has
reset the connection by then, the error leaves a socket that nobody can close any more (CPython, Lib/ssl.py,
SSLSocket._create); its descriptor is gone only once the collector comes by.
"""

from __future__ import annotations

import errno
import os
import ssl
from pathlib import Path
from typing import Any


class _Socket(ssl.SSLSocket):
    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError as error:
            if self.version() is not None:  # past its handshake: whoever has it closes it
                raise
            self.close()
            # Not "not connected": that would be taken for a socket to connect later.
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from error


def client_context(
    ca_file: str | Path | None = None, cert_file: str | Path | None = None, key_file: str | Path | None = None
) -> ssl.SSLContext:
    """A client's context, which verifies its server.

    Args:
        ca_file: PEM file of the CAs to trust; the machine's own when None.
        cert_file: PEM file of a client certificate to show.
        key_file: PEM file of its key, where that is not in `cert_file`.

    Raises:
        OSError: If a file cannot be read (ssl.SSLError when it holds something else).
    """
    context = ssl.create_default_context(cafile=ca_file)
    if cert_file is not None:
        # An encrypted key would otherwise ask for its passphrase on the terminal, and wait.
        context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    context.sslsocket_class = _Socket
    return context


def server_context(cert_file: str | Path) -> ssl.SSLContext:
    """A server's context, which asks for no client certificate.

    Args:
        cert_file: PEM file of its certificate and key.

    Raises:
        OSError: If it cannot be read (ssl.SSLError when it holds something else).
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert_file)
    context.sslsocket_class = _Socket
    return context
