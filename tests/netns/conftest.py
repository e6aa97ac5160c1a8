"""Fixtures: a sender, a router and a reflector in namespaces of their own, and `haprobe measure` between them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .triple import Run, Triple, opened, remove_leftovers

NEEDED = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "setpriv": "util-linux"}


@pytest.fixture(scope="session")
def network(tmp_path_factory) -> Iterator[Triple]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    for tool, package in NEEDED.items():
        if shutil.which(tool) is None:
            pytest.skip(f"needs {package}")
    remove_leftovers()
    with opened(tmp_path_factory.mktemp("triple")) as triple:
        yield triple


@pytest.fixture
def triple(network: Triple) -> Iterator[Triple]:
    """The namespaces, as new."""
    try:
        yield network
    finally:
        network.reset()


@pytest.fixture
def reflector(triple: Triple) -> Run:
    """A reflector at the far end, STAMP on port 862 and TCP on 8620."""
    return triple.reflect()


@pytest.fixture
def measure(triple: Triple) -> Callable[..., dict[str, Any]]:
    """Run `haprobe measure` to its end, and return its document."""

    def run(*targets: str, status: int = 0, **options: Any) -> dict[str, Any]:
        return triple.start_measure(*targets, **options).document(status)

    return run
