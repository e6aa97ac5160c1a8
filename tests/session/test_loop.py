"""The sender's loop: what a command that cannot be carried out does to the flows that run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from probe.errors import HaprobeError, UsageError
from probe.session import loop


class Channel:
    """Brings one message at each look, then is closed."""

    def __init__(self, *messages: dict[str, Any]):
        self._messages = [*messages]
        self.closed = False

    def receive(self) -> Iterable[dict[str, Any]]:
        if not self._messages:
            self.closed = True
            return []
        return [self._messages.pop(0)]

    def flush(self) -> bool:
        return True


class Sender:
    """Has no port left for any flow."""

    def __init__(self) -> None:
        self.refused: list[dict[str, Any]] = []
        self.closed = False

    def _fail(self, _: object) -> None:
        raise UsageError("no port left")

    add = renew = _fail

    def remove(self, index: int) -> None:
        pass

    retarget = remove

    def begin(self) -> None:
        pass

    halt = tell_open = begin

    def refuse(self, message: dict[str, Any], error: HaprobeError) -> None:
        assert str(error) == "no port left"
        self.refused.append(message)

    def turn(self) -> int:
        return 0

    def pace(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("command", ["add", "renew"])
def test_a_flow_that_cannot_be_leaves_the_others_alone(command: str) -> None:
    sender, message = Sender(), {"command": command, "index": 3}
    loop.run(sender, Channel({"command": "begin"}, message), lambda: False)  # type: ignore[arg-type]
    assert sender.refused == [message] and sender.closed


def test_the_first_flows_must_be_possible() -> None:
    with pytest.raises(UsageError, match="no port left"):
        loop.run(Sender(), Channel({"command": "add", "index": 0}), lambda: False)  # type: ignore[arg-type]
