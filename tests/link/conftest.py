from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import netns


@pytest.fixture
def wire() -> Iterator[tuple[netns.End, netns.End]]:
    netns.need_namespaces()
    with netns.wire() as ends:
        yield ends


@pytest.fixture
def lone_namespace() -> Iterator[str]:
    """A namespace with nothing but a loopback interface."""
    netns.need_namespaces()
    with netns.namespace() as name:
        yield name
