from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import pytest

from probe.export.http import serve

from .fakes import FakeAgent

PASSWORD = "correct horse"


@pytest.fixture
def agent():
    return FakeAgent()


@pytest.fixture
def serving(agent):
    """Start servers over `agent`; they are stopped after the test."""
    running = []

    def start(listen="127.0.0.1:0", **options):
        running.append(serve(agent, listen, **options))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def hashed():
    """A cheap bcrypt hash of PASSWORD."""
    return bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()


@dataclass(frozen=True)
class Certificates:
    """A CA, a server and a client certificate of it, and a client certificate of somebody else."""

    directory: Path

    def __getattr__(self, name: str) -> Path:
        return self.directory / name.replace("_", ".")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pki")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    def issue(name, ca, *extensions):
        added = [part for extension in extensions for part in ("-addext", extension)]
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
        openssl(
            *("req", "-x509", *key, "-days", "3650", "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.crt", *added),
            *(("-CA", f"{ca}.crt", "-CAkey", f"{ca}.key") if ca else ()),
        )

    leaf = "basicConstraints=critical,CA:FALSE"
    issue("ca", None)
    issue("server", "ca", leaf, "subjectAltName=IP:127.0.0.1,DNS:localhost")
    issue("renewed", "ca", leaf, "subjectAltName=IP:127.0.0.1,DNS:renewed.example")
    issue("client", "ca", leaf)
    issue("stranger", None)
    return Certificates(directory)
