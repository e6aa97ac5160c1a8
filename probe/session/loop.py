"""The sender's loop in its process: turns, pauses, and the control process's commands in between."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from probe.border import Channel
from probe.errors import HaprobeError
from probe.session.sender import Sender

LISTEN_NS = 5_000_000  # look for commands this often


def run(
    sender: Sender,
    channel: Channel,
    stop: Callable[[], bool],
    prepare: Callable[[list[dict[str, Any]]], object] = lambda _: None,
) -> None:
    """Turn until told to stop or the control process is gone.

    Args:
        sender: What to run.
        channel: Commands.
        stop: Whether to stop.
        prepare: Called with the first flows' `add` commands just before they begin.
    """
    gc.disable()  # a collection would delay a probe; what the loop allocates dies by reference count
    listen_at = 0
    added: list[dict[str, Any]] | None = []  # before the first flow begins
    while not stop():
        wake = sender.turn()
        now = time.monotonic_ns()
        if now >= listen_at:  # a look at the channel costs as much as sending a probe
            listen_at = now + LISTEN_NS
            for message in channel.receive():
                if added is not None and message["command"] == "add":
                    added.append(message)
                elif added is not None and message["command"] == "begin":
                    prepare(added)
                    added = None
                try:
                    command(sender, message)
                except HaprobeError as error:
                    if added is not None or message["command"] not in ("add", "renew"):
                        raise
                    sender.refuse(message, error)  # the other flows have nothing to do with it
                wake = now  # the slots of a flow that begins may come before the next turn that was planned
            channel.flush()
            if channel.closed:
                break
        if not sender.pace():
            pause = min(wake, listen_at) - time.monotonic_ns()
            if pause > 0:
                time.sleep(pause / 1e9)
    sender.close()
    channel.flush()


def command(sender: Sender, message: dict[str, Any]) -> None:
    """Carry out one message of the control process."""
    act: dict[str, Callable[[], None]] = {
        "add": lambda: sender.add(message),
        "remove": lambda: sender.remove(int(message["index"])),
        "retarget": lambda: sender.retarget(message),
        "begin": sender.begin,
        "halt": sender.halt,
        "tell": sender.tell_open,
        "renew": lambda: sender.renew(int(message["index"])),
    }
    act[message["command"]]()
