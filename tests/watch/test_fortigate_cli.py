"""The command line's output: prompts, pager, and `get system ha status` in both dialects."""

from __future__ import annotations

import pytest

from probe.watch.fortigate_cli import Selection, at_prompt, ha_status, output_of, refusal

NEW = """\
HA Health Status: OK
Model: FortiGate-VM64-AWS
Mode: HA A-P
Group Name: lab
Group ID: 0
Debug: 0
Cluster Uptime: 0 days 0:3:21
Cluster state change time: 2023-04-12 16:22:46
Primary selected using:
    <2023/04/12 16:22:46> vcluster-1: FGVM0000000000AA is selected as the primary because its uptime is larger than \
peer member FGVM0000000000BB.
    <2023/04/12 16:22:37> vcluster-1: FGVM0000000000AA is selected as the primary because it's the only member in the \
cluster.
ses_pickup: enable, ses_pickup_delay=disable
override: disable
unicast_hb: peerip=10.0.0.2, myip=10.0.0.1, hasync_port='port3'
Configuration Status:
    FGVM0000000000AA(updated 0 seconds ago): in-sync
    FGVM0000000000BB(updated 1 seconds ago): out-of-sync
HBDEV stats:
    FGVM0000000000AA(updated 0 seconds ago):
        port3: physical/00, up, rx-bytes/packets/dropped/errors=472954/1392/0/0, tx=831262/1555/0/0
Primary     : fgt-a           , FGVM0000000000AA, HA cluster index = 1
Secondary   : fgt-b           , FGVM0000000000BB, HA cluster index = 0
number of vcluster: 1
vcluster 1: work 10.0.0.1
Primary: FGVM0000000000AA, HA operating index = 0
Secondary: FGVM0000000000BB, HA operating index = 1
"""
OLD = """\
HA Health Status: OK
Model: FortiGate-VM64
Mode: HA A-P
Group: 240
Master selected using:
    <2019/04/12 16:22:46> FGVM0000000000BB is selected as the master because it has EXE_FAIL_OVER flag set.
override: disable
Slave : fgt-a           , FGVM0000000000AA, HA cluster index = 1
Master: fgt-b           , FGVM0000000000BB, HA cluster index = 0
number of vcluster: 1
"""


def test_roles_come_from_the_member_lines_not_from_an_index() -> None:
    status = ha_status(NEW)
    assert status is not None
    assert (status.mode, status.health) == ("HA A-P", "OK")
    assert status.roles == {"FGVM0000000000AA": "primary", "FGVM0000000000BB": "secondary"}
    assert status.names == {"FGVM0000000000AA": "fgt-a", "FGVM0000000000BB": "fgt-b"}
    assert status.primaries == ["FGVM0000000000AA"]
    assert status.selections[0] == Selection(
        "2023/04/12 16:22:46", "FGVM0000000000AA", "its uptime is larger than peer member FGVM0000000000BB"
    )
    assert status.selections[1].reason == "it's the only member in the cluster"


def test_the_older_words_say_the_same() -> None:
    status = ha_status(OLD)
    assert status is not None
    assert status.roles == {"FGVM0000000000AA": "secondary", "FGVM0000000000BB": "primary"}
    assert status.selections == (Selection("2019/04/12 16:22:46", "FGVM0000000000BB", "it has EXE_FAIL_OVER flag set"),)


def test_a_split_cluster_shows_two_primaries() -> None:
    status = ha_status(NEW.replace("Secondary   : fgt-b", "Primary     : fgt-b"))
    assert status is not None
    assert len(status.primaries) == 2


@pytest.mark.parametrize("text", ["", "Unknown action 0\n", "nothing of the kind\n"])
def test_other_output_is_no_status(text: str) -> None:
    assert ha_status(text) is None


@pytest.mark.parametrize(
    "text",
    ["fgt-a # ", "fgt-a $ ", "\r\nfgt-a # ", "FGT_A (global) # ", "out\r\nfgt-a #", "\x1b[Kfgt-a # ", "\rfgt-a # "],
)
def test_a_prompt_ends_the_output(text: str) -> None:
    assert at_prompt(text)


@pytest.mark.parametrize("text", ["", "fgt-a", "fgt-a # get", "two words # ", "fgt-a # \r\n", "--More-- "])
def test_what_is_no_prompt(text: str) -> None:
    assert not at_prompt(text)


def test_output_comes_without_echo_prompt_and_pager() -> None:
    raw = "get system ha status\r\nMode: HA A-P\r\n--More-- \r         \rGroup: 0\r\n\r\nfgt-a # "
    assert output_of("get system ha status", raw).split() == ["Mode:", "HA", "A-P", "Group:", "0"]
    assert output_of("x", "fgt-a # x\r\nout\r\nfgt-a # ") == "out"


def test_a_refusal_is_told_from_an_answer() -> None:
    assert refusal("command parse error before 'debug'\nCommand fail. Return code -61\n").startswith("command parse")
    assert refusal("Unknown action 0\n") == "Unknown action 0"
    assert refusal(NEW) == ""
