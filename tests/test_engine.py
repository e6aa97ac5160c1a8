"""The links of the probing process: which rings it opens, and what it makes of interfaces that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from probe.engine import SenderLinks

from .link.netns import inside, namespace, need_namespaces

pytestmark = pytest.mark.netns
NOTHING: dict[str, list[int]] = {"udp": [], "tcp": [], "icmp": []}


@pytest.fixture
def lone_namespace() -> Iterator[str]:
    need_namespaces()
    with namespace() as name:
        yield name


def test_an_interface_that_is_gone_is_not_listened_on_and_ends_nothing(lone_namespace):
    """What would be heard there could not be sent either, which is told when it is tried."""
    with inside(lone_namespace), closing(SenderLinks(1)) as links:
        links.listen(("ethernet", 4711), NOTHING)
        assert links.receivers() == []
        links.listen(("local", 1), NOTHING)
        assert len(links.receivers()) == 1
