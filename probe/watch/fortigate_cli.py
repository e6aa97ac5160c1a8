"""What a FortiGate's command line prints: prompts, pager, and `get system ha status` in both dialects. Sans-IO.

newer    Primary     : ali-fgt-active  , FGVMULTM23000022, HA cluster index = 1
older    Master: FGT-A, FGVMULTM23000022, cluster index = 1
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from probe.watch.fortigate_answers import Role

HA_STATUS = "get system ha status"
PAGER = "--More--"
BANNER = "(Press 'a' to accept):"  # a login banner; nothing else is answered before it
QUESTION = "(y/n)"  # asked back by commands that disturb the traffic

_PROMPT = re.compile(r"(?:^|[\r\n])(?P<host>[^\s<>#]{1,64})(?: \([^()\s]{1,64}\))? [#$] ?$")
_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_PAGED = re.compile(r"--More-- ?(?:\r[ ]*\r|\x08+[ ]*\x08*)?")
_ROLES: dict[str, Role] = {
    "primary": "primary",
    "master": "primary",
    "secondary": "secondary",
    "slave": "secondary",
    "backup": "secondary",
}
_MEMBER = re.compile(
    r"^(?P<role>Primary|Secondary|Master|Slave|Backup)\s*:\s*(?P<name>[^,\s]+)\s*,\s*(?P<serial>\w+)\s*,"
    r"\s*(?:HA )?cluster index",
    re.IGNORECASE,
)
_SELECTION = re.compile(
    r"^\s*<(?P<when>\d{4}/\d\d/\d\d \d\d:\d\d:\d\d)> (?:vcluster-\d+: )?(?P<serial>\w+) is selected as the"
    r" (?:primary|master) because (?P<reason>.*?)\.?$"
)
_ERROR = re.compile(r"^(?:Unknown action|command parse error|Command fail|Permission denied).*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Selection:
    """One line of "Primary selected using". `when` is the unit's local time, to the second, without a zone."""

    when: str
    serial: str
    reason: str


@dataclass(frozen=True, slots=True)
class HaStatus:
    """What `get system ha status` tells that REST does not, and the members for comparison."""

    mode: str
    health: str
    roles: dict[str, Role] = field(default_factory=dict)  # by serial number
    names: dict[str, str] = field(default_factory=dict)  # host name by serial number
    selections: tuple[Selection, ...] = ()  # newest first, as printed

    @property
    def primaries(self) -> list[str]:
        """Serial numbers of the members called primary: more than one while the cluster is split."""
        return [serial for serial, role in self.roles.items() if role == "primary"]


def at_prompt(text: str) -> bool:
    """Whether the output so far ends in a prompt: the command line waits for the next command."""
    return _PROMPT.search(_ESCAPE.sub("", text)) is not None


def output_of(command: str, text: str) -> str:
    """The output of a command alone: without its echo, the prompt behind it, the pager and control sequences."""
    clean = _PAGED.sub("", _ESCAPE.sub("", text)).replace("\r\n", "\n").replace("\r", "\n")
    if (found := _PROMPT.search(clean)) is not None:
        clean = clean[: found.start()]
    first, _, rest = clean.lstrip("\n").partition("\n")
    return rest if first.strip().endswith(command) else clean


def refusal(output: str) -> str:
    """What the command line has against a command; "" when it carried it out."""
    found = _ERROR.search(output)
    return found[0].strip() if found else ""


def ha_status(output: str) -> HaStatus | None:
    """Read `get system ha status`; None when this is no such output."""
    mode = health = ""
    roles: dict[str, Role] = {}
    names: dict[str, str] = {}
    selections: list[Selection] = []
    for line in output.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Mode" and not mode:
            mode = value.strip()
        elif key.strip() == "HA Health Status":
            health = value.strip()
        elif found := _MEMBER.match(line):
            roles[found["serial"]] = _ROLES[found["role"].lower()]
            names[found["serial"]] = found["name"]
        elif found := _SELECTION.match(line):
            selections.append(Selection(found["when"], found["serial"], found["reason"]))
    return HaStatus(mode, health, roles, names, tuple(selections)) if mode or roles else None
