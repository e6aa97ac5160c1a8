"""Every error a user can meet, with the exit status it ends in (contract: commands).

    HaprobeError                 1
    ├── UsageError               2   bad arguments
    │   └── ConfigError          2   bad config file: names file, line, field and what is allowed
    ├── PrivilegeError           3   a missing capability, named, with the way to grant it
    ├── NoFailoverError          4   a drill that saw no failover
    └── PeerError                5   a peer (agent, reflector, API) that could not be reached, named
        └── SteadyStateError     5   a drill that could not start: which flow was not clean, and how

`cli.main` prints the message to stderr, without a traceback, and exits with `exit_status`.
"""

from __future__ import annotations


class HaprobeError(Exception):
    """Base of all errors whose message is meant for the user."""

    exit_status = 1


class UsageError(HaprobeError):
    """The command line cannot be carried out as given."""

    exit_status = 2


class ConfigError(UsageError):
    """One or more mistakes in a file the user wrote.

    Args:
        problems: One line per mistake, each `FILE:LINE: FIELD: what is wrong; what is allowed`.
    """

    def __init__(self, problems: list[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class PrivilegeError(HaprobeError):
    """A capability is missing; the message says how to grant it."""

    exit_status = 3


class NoFailoverError(HaprobeError):
    """A drill ended without any sign of a failover."""

    exit_status = 4


class PeerError(HaprobeError):
    """An agent, a reflector or an API could not be reached."""

    exit_status = 5


class SteadyStateError(PeerError):
    """A drill did not start because a flow was not clean beforehand."""
