"""Connections of the kernel's own, over loopback."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from probe.link.kernel_tcp import Ended, KernelStack, Way


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found


@pytest.fixture
def pair() -> Any:
    stack = KernelStack()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mine = stack.connect(Way("127.0.0.1", listener.getsockname()[1]))
        theirs, _ = listener.accept()
        with theirs:
            until(lambda: mine.finish() == "connected")
            yield stack, mine, theirs
            stack.close(mine)


def seen(mine: Any, cause: Any) -> None:
    """What ended it is known, where packet sockets are allowed."""
    word = mine.last_word(cause)
    if os.geteuid() == 0:
        assert (word.ttl, word.peer_ttl) == (64, 64)
        assert 0 <= time.time_ns() - word.at_ns < 20_000_000_000


def test_octets_come_and_go_with_the_kernels_stamps(pair: Any) -> None:
    stack, mine, theirs = pair
    before = time.time_ns()
    assert mine.write(b"hello") == 5
    assert theirs.recv(10) == b"hello"
    ((octet, sent_at),) = until(mine.sent)

    def came() -> int:
        theirs.sendall(b"world")
        until(lambda: stack.ready() == [mine])
        data, at = mine.read(10)
        assert (octet, data) == (4, b"world")
        return int(at)

    # The kernel begins to stamp what comes a moment after the machine's first socket has asked for it.
    came_at = until(came)
    assert before <= sent_at <= came_at <= time.time_ns()
    assert mine.read(10) == (b"", 0)


def test_the_kernel_tells_how_it_stands(pair: Any) -> None:
    _, mine, theirs = pair
    mine.write(b"x" * 36)
    theirs.recv(100)
    info = until(lambda: (told := mine.info()).octets_acked == 36 and told)
    assert (info.backoff, info.total_retrans) == (0, 0)
    assert 1_000_000 <= info.rto_ns <= 3_000_000_000


def test_a_fin_is_no_reset(pair: Any) -> None:
    _, mine, theirs = pair
    theirs.close()
    with pytest.raises(Ended) as ended:
        until(lambda: mine.read(1)[0])
    assert ended.value.cause == "fin"
    seen(mine, "fin")
    assert mine.last_word("rst") is None


def test_a_reset_is_one(pair: Any) -> None:
    _, mine, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    with pytest.raises(Ended) as ended:
        until(lambda: mine.read(1)[0])
    assert ended.value.cause == "rst"
    seen(mine, "rst")
    assert mine.last_word("silent") is None


def test_each_connection_has_its_own_last_word(pair: Any) -> None:
    stack, mine, theirs = pair
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = stack.connect(Way("127.0.0.1", listener.getsockname()[1]))
        remote, _ = listener.accept()
        remote.close()
        with pytest.raises(Ended):
            until(lambda: other.read(1)[0])
    seen(other, "fin")
    assert mine.last_word("fin") is None
    stack.close(other)
    theirs.close()
    with pytest.raises(Ended):
        until(lambda: mine.read(1)[0])
    seen(mine, "fin")


def test_a_port_where_nobody_listens_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    stack = KernelStack()
    with pytest.raises(Ended) as ended:
        mine = stack.connect(Way("127.0.0.1", port))
        try:
            until(lambda: mine.finish() == "connected")
        finally:
            stack.close(mine)
    assert ended.value.cause == "rst"


def test_an_address_that_is_not_ours_cannot_be_a_source() -> None:
    with pytest.raises(Ended):
        KernelStack().connect(Way("127.0.0.1", 9, source="203.0.113.1"))
