"""Reading awsd captures: the public samples, what terminals and hands do to them, and refusals.

The files in tests/watch/awsd are the known public samples, verbatim.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from probe.watch import awsd, awsd_errors, awsd_grammar
from probe.watch.awsd_model import (
    ASSOCIATE,
    NOTE_AGAIN,
    NOTE_CONTROL,
    NOTE_CUT,
    NOTE_EARLIER,
    NOTE_FIRST,
    NOTE_INSIDE,
    NOTE_LAST,
    NOTE_RETRIED,
    NOTE_UNDECODABLE,
    UPDATE,
    Capture,
)
from probe.watch.awsd_summary import in_scope, summarise

SAMPLES = {file.stem: file.read_text() for file in sorted((Path(__file__).parent / "awsd").glob("*.txt"))}
OLD, TWO_EIPS, TABLES = SAMPLES["old-wording"], SAMPLES["two-eips"], SAMPLES["several-tables"]
PAIR, CONNECTOR = SAMPLES["pair"], SAMPLES["connector-refused"]

ASK_EIP = "awsd associate elastic ip 192.0.2.1 to 10.0.10.10 of eni eni-08bfa15d84e7cdea8\n"
EIP_OK = "awsd associate elastic ip 192.0.2.1 successfully\n"
ASK_ROUTE = "awsd update route table rtb-0ddbb1a18adf410da, replace route of dst 0.0.0.0/0 to eni-0a873113b231370aa\n"
ROUTE_OK = "awsd update route successfully\n"
BODY = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>You are not authorized to perform this"
    " operation.</Message></Error></Errors><RequestID>95c54a8a-91bc-464e-bf8d-a2f61d5174ff</RequestID></Response>\n"
)
REFUSED = "aws curl response err, 403\n" + BODY


def wrapped(text: str, width: int) -> str:
    """As a terminal of that width would have it."""
    rows = [line[at : at + width] for line in text.splitlines() for at in range(0, max(len(line), 1), width)]
    return "".join(f"{row}\n" for row in rows)


def states(seen: Capture) -> list[tuple[str, str]]:
    return [(one.kind, one.state) for one in seen.operations]


def what(seen: Capture) -> list[tuple[str, str, dict[str, str]]]:
    return [(one.kind, one.state, one.fields) for one in seen.operations]


def kinds(seen: Capture) -> list[str]:
    return [line.kind for line in seen.lines]


def rebuilt(seen: Capture) -> str:
    return "".join(line.text + line.ending for line in seen.lines)


# --- the samples ---------------------------------------------------------------------------------------------------


def test_the_older_wording() -> None:
    seen = awsd.read(OLD)
    before = ["become_role", *["vip_arp"] * 2, *["identity"] * 4, "failover_begins"]
    work = ["port_pass", "eip_asked", "eip_confirmed", "port_pass", "route_asked", "route_confirmed"]
    assert kinds(seen) == before + work
    assert what(seen) == [
        (
            ASSOCIATE,
            "confirmed",
            {"allocation": "eipalloc-0f7140ed02e5ea7c0", "ip": "10.3.1.10", "eni": "eni-0eec9e5b7a796d291"},
        ),
        (
            UPDATE,
            "confirmed",
            {"route_table": "rtb-061c31bc5c6b27bad", "destination": "0.0.0.0/0", "eni": "eni-009d4682c3561e457"},
        ),
    ]
    assert [(one.asked_line, one.closed_line) for one in seen.operations] == [(10, 11), (13, 14)]
    assert [(role.role, role.unit, role.line) for role in seen.roles] == [("primary", "FG-B", 1)]
    assert seen.identity["iam role"] == "NextGenFirewallHA"
    assert summarise(seen).dialect == "old"


def test_the_newer_wording() -> None:
    seen = awsd.read(TWO_EIPS)
    assert "unknown" not in kinds(seen)
    assert kinds(seen)[:4] == ["idle", "blank", "ha_event", "ha_state"]
    assert [(one.kind, one.state, one.asked_line, one.closed_line) for one in seen.operations] == [
        (ASSOCIATE, "confirmed", 15, 16),
        (ASSOCIATE, "confirmed", 17, 18),
        (UPDATE, "confirmed", 21, 22),
    ]
    assert seen.operations[1].fields == {
        "elastic_ip": "54.241.9.229",
        "ip": "10.0.10.11",
        "eni": "eni-08bfa15d84e7cdea8",
    }
    assert [(role.role, role.unit) for role in seen.roles] == [("primary", "Fgt2")]
    summary = summarise(seen)
    assert (summary.outcome, summary.dialect, summary.unit) == ("complete", "new", "Fgt2")
    assert summary.sentence == (
        "Fgt2 became primary: 2 of 2 elastic IPs and 1 of 1 route confirmed."
        " All that was asked for was accepted by the API."
    )


def test_several_tables_and_several_routes_in_one() -> None:
    seen = awsd.read(TABLES)
    assert [(one.fields["route_table"][-4:], one.fields["destination"], one.state) for one in seen.operations] == [
        ("fdd3", "0.0.0.0/0", "confirmed"),
        ("1ba3", "10.0.2.0/24", "confirmed"),
        ("1ba3", "10.0.20.0/24", "confirmed"),
    ]
    assert summarise(seen).routes.confirmed == 3


def test_the_pair_as_shown_by_the_dry_run() -> None:
    seen = awsd.read(PAIR)
    assert "unknown" not in kinds(seen)
    (pair,) = seen.pairs
    own, peer = pair.units
    assert (pair.status, pair.vpc) == ("HA Active-passive secondary", "vpc-047b7d729d93d89f9")
    assert (own.peer, own.role, own.instance) == (False, "secondary", "i-0546a8af26dd17c3a")
    assert (peer.peer, peer.role, peer.instance) == (True, "primary", "i-02c1ed4a6095737d7")
    assert [eni["index"] for eni in own.enis] == [eni["index"] for eni in peer.enis] == ["0", "1", "2"]
    assert peer.enis[0]["secondary"] == [{"ip": "10.0.1.11", "elastic_ip": "54.241.9.229"}]
    assert peer.enis[0]["elastic_ip"] == "52.9.98.191"
    assert own.enis[0]["mac"] == "02:0c:42:c1:81:bb"
    route = {"route_table": "rtb-0ddbb1a18adf410da", "destination": "0.0.0.0/0", "eni": "eni-06afe987156a7f801"}
    assert pair.routes == [route]
    # The elastic IPs of index 2 belong to the management interfaces: each unit has one there.
    assert in_scope(pair) == [
        "elastic IP 52.9.98.191",
        "elastic IP 54.241.9.229",
        "route 0.0.0.0/0 in rtb-0ddbb1a18adf410da",
    ]
    assert summarise(seen).outcome == "no_failover"


def test_several_routes_of_a_table_shown_and_one_whose_table_is_cut_off() -> None:
    seen = awsd.read(
        "  route (10.9.0.0/16) via eni-06afe987156a7f801\n" + PAIR + PAIR.splitlines()[-1].replace("0/0", "0/8")
    )
    shown = [(route.get("route_table"), route["destination"]) for pair in seen.pairs for route in pair.routes]
    table = "rtb-0ddbb1a18adf410da"
    assert len(seen.pairs) == 2
    assert shown == [(None, "10.9.0.0/16"), (table, "0.0.0.0/0"), (table, "0.0.0.0/8")]


def test_an_sdn_connectors_failure_is_not_the_failovers() -> None:
    seen = awsd.read(CONNECTOR)
    refusal = ["api_error", "error_body", "error_body", "keys_invalid", "connector_failed"]
    assert kinds(seen) == ["connector", *refusal, "child_ended", "connector"]
    (error,) = seen.errors
    assert (error.status, error.code, error.connector) == (401, "AuthFailure", "AWS_SDN")
    assert error.message == "AWS was not able to validate the provided access credentials"
    summary = summarise(seen)
    assert (summary.outcome, seen.operations) == ("no_failover", [])
    assert "SDN connector" in summary.sentence


@pytest.mark.parametrize("rule", awsd_grammar.RULES, ids=lambda rule: rule.kind)
def test_every_rule_knows_its_sample(rule: awsd_grammar.Rule) -> None:
    assert kinds(awsd.read(rule.sample)) == [rule.kind]


# --- cut anywhere --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_cut_at_any_line(name: str) -> None:
    """What is left of the sample is explained as it was in the whole, but for confirmations that are gone."""
    lines = SAMPLES[name].splitlines(keepends=True)
    whole = awsd.read(SAMPLES[name])
    for at in range(len(lines) + 1):
        head, tail = awsd.read("".join(lines[:at])), awsd.read("".join(lines[at:]))
        assert rebuilt(head) + rebuilt(tail) == SAMPLES[name]
        assert kinds(head) + kinds(tail) == kinds(whole)
        expected = [
            (one.kind, "confirmed" if one.closed_line and one.closed_line <= at else "unconfirmed", one.fields)
            for one in whole.operations
            if one.asked_line and one.asked_line <= at
        ]
        assert what(head) == expected
        # The tail has every later operation; one that was asked for before the cut is there by its confirmation.
        late = [one for one in whole.operations if one.closed_line and one.closed_line > at]
        assert [one.state for one in tail.operations] == ["confirmed"] * len(late)
        earlier = [NOTE_EARLIER in one.notes for one in tail.operations]
        assert earlier == [bool(one.asked_line and one.asked_line <= at) for one in late]


@pytest.mark.parametrize("name", SAMPLES)
def test_cut_at_any_byte(name: str) -> None:
    text, whole = SAMPLES[name], awsd.read(SAMPLES[name])
    for at in range(len(text) + 1):
        head, tail = awsd.read(text[:at]), awsd.read(text[at:])
        assert rebuilt(head) + rebuilt(tail) == text
        full = text[:at].count("\n")  # lines that are there to their end
        assert kinds(head)[:full] == kinds(whole)[:full]
        done = [one for one in whole.operations if one.closed_line and one.closed_line <= full]
        asked = [one for one in whole.operations if one.asked_line and one.asked_line <= full]
        assert [one.fields for one in head.operations][: len(asked)] == [one.fields for one in asked]
        confirmed = sum(one.state == "confirmed" for one in head.operations)
        last = text[:at].rpartition("\n")[2]
        assert confirmed == len(done) + last.endswith("successfully")
        # Nothing is made up: at most the request that the cut goes through comes on top.
        assert len(head.operations) <= len(asked) + 1
        skipped = text[:at].count("\n") + 1
        late = [one for one in whole.operations if one.asked_line and one.asked_line > skipped]
        assert [one.fields for one in tail.operations[-len(late) :] if late] == [one.fields for one in late]
        assert len(tail.operations) <= len(late) + 1
        assert not any(one.state == "failed" for one in head.operations + tail.operations)


def test_a_request_cut_in_the_middle_is_a_request() -> None:
    seen = awsd.read(ASK_ROUTE[:70])
    assert what(seen) == [(UPDATE, "unconfirmed", {"route_table": "rtb-0ddbb1a18adf410da"})]
    assert seen.lines[0].notes == [NOTE_CUT, NOTE_LAST]
    assert seen.operations[0].notes == [NOTE_LAST]
    seen = awsd.read(ASK_ROUTE[:-5])
    assert what(seen)[0][:2] == (UPDATE, "unconfirmed")
    assert seen.lines[0].notes == [NOTE_LAST]
    assert NOTE_LAST not in awsd.read(ASK_ROUTE).lines[0].notes
    assert NOTE_LAST not in awsd.read(ASK_ROUTE.rstrip("\n")).lines[0].notes


def test_a_confirmation_cut_in_the_middle_confirms_nothing() -> None:
    seen = awsd.read(ASK_ROUTE + ROUTE_OK[:-3])
    assert states(seen) == [(UPDATE, "unconfirmed")]
    assert seen.lines[1].notes == [NOTE_LAST]
    assert "never confirmed: cut off, timed out or refused" in summarise(seen).sentence


def test_the_rest_of_a_line_at_the_beginning_is_said_to_be_one() -> None:
    seen = awsd.read("of eni eni-08bfa15d84e7cdea8\n" + EIP_OK)
    assert seen.lines[0].notes == [NOTE_FIRST]
    assert seen.operations[0].notes == [NOTE_EARLIER]


def test_a_status_cut_in_the_middle_is_no_status() -> None:
    (error,) = awsd.read(ASK_ROUTE + "aws curl response err, 4").errors
    assert error.status is None
    assert awsd.read(ASK_ROUTE + "aws curl response err, 403").errors[0].status == 403
    assert awsd.read(ASK_ROUTE + "aws curl response err, 0").errors[0].status == 0


# --- what terminals and hands do to it -----------------------------------------------------------------------------

DRESSES = [
    "Fgt2 # ",
    "FG-B # Fgt2 # Fgt2 # ",
    "Fgt2 (root) # ",
    "Fgt2 (global) $ ",
    "2024-09-06 21:28:52 ",
    "[2024-09-06 21:28:52] ",
    "[2024-09-06 21:28:52.123]",
    "[1725658132] ",
    "[21:28:52] ",
    "Fgt2 # 2024-09-06 21:28:52 ",
    "2024-09-06 21:28:52 Fgt2 # ",
    "--More-- \r         \r",
    "--More--\b\b\b\b\b\b\b\b        \b\b\b\b\b\b\b\b",
    "\x1b[0m\x1b[K",
    "\x1b]0;Fgt2\x07",
    "\x00\x00",
    "\ufeff",
    "\t",
]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("seed", range(5))
def test_shuffled_prompts(name: str, seed: int) -> None:
    dice = random.Random(seed)
    lines = [re.sub(r"^\S+ # ", "", line) for line in SAMPLES[name].splitlines(keepends=True)]
    dressed = "".join("".join(dice.choices(DRESSES, k=dice.randrange(4))) + line for line in lines)
    seen, plain = awsd.read(dressed), awsd.read("".join(lines))
    assert what(seen) == what(plain)
    assert [line.fields for line in seen.lines] == [line.fields for line in plain.lines]
    known = [(a, b) for a, b in zip(kinds(seen), kinds(plain), strict=True) if b != "blank"]
    assert all(a == b for a, b in known)
    assert [(error.status, error.code) for error in seen.errors] == [(e.status, e.code) for e in plain.errors]
    assert rebuilt(seen) == dressed


@pytest.mark.parametrize("dress", DRESSES)
def test_one_dress_at_a_time(dress: str) -> None:
    assert kinds(awsd.read(f"{dress}HA event\n")) == ["ha_event"]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("ending", ["\r\n", "\r\r\n", "\r"])
def test_other_line_endings(name: str, ending: str) -> None:
    text = SAMPLES[name].replace("\n", ending)
    seen, plain = awsd.read(text), awsd.read(SAMPLES[name])
    assert (what(seen), kinds(seen)) == (what(plain), kinds(plain))
    assert [line.text for line in seen.lines] == [line.text for line in plain.lines]
    assert not any(line.notes for line in seen.lines)
    assert rebuilt(seen) == text


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("width", [80, 96, 100])
def test_lines_wrapped_by_the_terminal(name: str, width: int) -> None:
    text = wrapped(SAMPLES[name], width)
    seen, plain = awsd.read(text), awsd.read(SAMPLES[name])
    assert what(seen) == what(plain)
    assert seen.pairs == [] or seen.pairs[0].units == plain.pairs[0].units
    assert [(e.status, e.code, e.message) for e in seen.errors] == [(e.status, e.code, e.message) for e in plain.errors]
    assert "unknown" not in kinds(seen)


def test_a_wrapped_line_goes_on_after_the_pagers_pause() -> None:
    seen = awsd.read(ASK_ROUTE[:80] + "\n\n--More-- \n" + ASK_ROUTE[80:] + ROUTE_OK)
    assert kinds(seen) == ["route_asked", "blank", "pager", "continued", "route_confirmed"]
    assert what(seen) == what(awsd.read(ASK_ROUTE + ROUTE_OK))


def test_the_line_below_is_not_taken_for_the_end_of_a_whole_one() -> None:
    seen = awsd.read(ASK_ROUTE + "something else\n" + ROUTE_OK)
    assert kinds(seen) == ["route_asked", "unknown", "route_confirmed"]
    assert seen.operations[0].fields["eni"] == "eni-0a873113b231370aa"


def test_commands_prompts_and_pager_are_told_apart() -> None:
    text = "Fgt2 # diagnose debug enable\nFgt2 # \n--More-- \n\ndiagnose test application awsd 4\nFgt2 # what is this\n"
    assert kinds(awsd.read(text)) == ["command", "prompt", "pager", "blank", "command", "unknown"]


def test_output_behind_what_is_being_typed() -> None:
    seen = awsd.read("Fgt2 # diagnose deb" + ASK_EIP + EIP_OK)
    assert states(seen) == [(ASSOCIATE, "confirmed")]
    assert seen.lines[0].notes == [NOTE_INSIDE]


def test_backspaces_are_obeyed() -> None:
    assert kinds(awsd.read("HA evx\bent\n")) == ["ha_event"]


def test_marks_say_what_is_odd() -> None:
    seen = awsd.read("HA \ufffdevent\n\x1b[1mHA event\nHA event\tnow\n")
    assert [line.notes for line in seen.lines] == [[NOTE_UNDECODABLE, NOTE_FIRST], [NOTE_CONTROL], []]
    assert kinds(seen) == ["unknown", "ha_event", "ha_event"]


# --- operations ----------------------------------------------------------------------------------------------------


def test_a_refused_route_update_is_explained_as_such() -> None:
    seen = awsd.read(TWO_EIPS.replace(ROUTE_OK, "") + wrapped(REFUSED, 80))
    assert [one.state for one in seen.operations] == ["confirmed", "confirmed", "failed"]
    (error,) = seen.errors
    assert (error.status, error.code, error.operation) == (403, "UnauthorizedOperation", 3)
    assert error.actions == ("ec2:ReplaceRoute",)
    assert error.message == "You are not authorized to perform this operation."
    assert "may not call ec2:ReplaceRoute" in error.meaning
    assert "poc-fgcp-stack-InstanceRole-135R7XTP0VI9T" in error.check_first[0]
    assert "ec2:ReplaceRoute" in error.check_first[0]
    assert {line.operation for line in seen.lines if line.kind in ("api_error", "error_body")} == {3}
    summary = summarise(seen)
    assert summary.outcome == "incomplete"
    assert summary.not_confirmed == [
        "route 0.0.0.0/0 in rtb-0ddbb1a18adf410da: failed: 403 UnauthorizedOperation",
    ]
    assert summary.sentence.startswith("Fgt2 became primary: 2 of 2 elastic IPs and 0 of 1 route confirmed.")
    assert "Ingress may work" in summary.sentence


@pytest.mark.parametrize("width", [20, 33, 40, 64, 80, 132])
def test_a_body_wrapped_at_any_width(width: int) -> None:
    seen = awsd.read(ASK_ROUTE + "aws curl response err, 403\n" + wrapped(BODY, width) + ASK_EIP + EIP_OK)
    (error,) = seen.errors
    assert (error.code, error.operation) == ("UnauthorizedOperation", 1)
    assert states(seen) == [(UPDATE, "failed"), (ASSOCIATE, "confirmed")]
    assert "unknown" not in kinds(seen)


def test_prompts_and_blank_lines_inside_a_body() -> None:
    rows = wrapped(BODY, 60).splitlines(keepends=True)
    text = ASK_ROUTE + "aws curl response err, 403\n\nFgt2 # \n" + rows[0] + "\nFgt2 # \n" + "".join(rows[1:])
    (error,) = awsd.read(text).errors
    assert (error.code, error.operation) == ("UnauthorizedOperation", 1)


def test_a_body_without_its_head_is_an_error_all_the_same() -> None:
    for cut in (BODY, BODY.splitlines()[1], BODY[BODY.index("<Code>") :]):
        seen = awsd.read(ASK_ROUTE + cut)
        assert states(seen) == [(UPDATE, "failed")]
        assert (seen.errors[0].status, seen.errors[0].code) == (None, "UnauthorizedOperation")
        assert "may not call ec2:ReplaceRoute" in seen.errors[0].meaning


def test_an_answer_that_is_no_error_fails_nothing() -> None:
    answer = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ReplaceRouteResponse><return>true</return></ReplaceRouteResponse>\n'
    )
    seen = awsd.read(ASK_ROUTE + answer + ROUTE_OK)
    assert states(seen) == [(UPDATE, "confirmed")]
    assert seen.errors == []


def test_a_body_that_never_ends_does_not_swallow_the_daemons_lines() -> None:
    seen = awsd.read(ASK_ROUTE + REFUSED[:140] + "\nawsd something new\n" + ASK_EIP + EIP_OK)
    assert kinds(seen)[-3:] == ["unknown", "eip_asked", "eip_confirmed"]
    assert states(seen) == [(UPDATE, "failed"), (ASSOCIATE, "confirmed")]


def test_a_body_cut_off_ends_at_the_next_known_line() -> None:
    seen = awsd.read(ASK_ROUTE + REFUSED[:140] + "\n" + ROUTE_OK + "something else\n")
    assert kinds(seen)[-2:] == ["route_confirmed", "unknown"]
    assert seen.errors[0].code == "UnauthorizedOperation"


def test_an_indented_body_and_one_that_reads_like_a_command() -> None:
    error = "<Error>\n  <Code>\n    AuthFailure\n  </Code>\n  <Message>the\nconfig store\n</Message>"
    body = f"<Response><Errors>{error}</Response>\n"
    seen = awsd.read(ASK_ROUTE + body)
    assert kinds(seen)[1:] == ["error_body"] * 7
    assert seen.errors[0].code == "AuthFailure"


def test_the_action_is_that_of_the_open_operation() -> None:
    assert awsd.read(ASK_EIP + REFUSED).errors[0].actions == ("ec2:AssociateAddress",)
    assert awsd.read(ASK_ROUTE + REFUSED).errors[0].actions == ("ec2:ReplaceRoute",)


def test_the_answer_knows_better_which_action_was_denied() -> None:
    reason = "You are not authorized to perform this operation."
    better = "User: arn:aws:sts::1:x is not authorized to perform: ec2:DescribeAddresses on resource: *"
    (error,) = awsd.read(ASK_ROUTE + wrapped(REFUSED.replace(reason, better), 70)).errors
    assert error.actions == ("ec2:DescribeAddresses",)
    assert "ec2:DescribeAddresses" in error.meaning


def test_an_error_between_operations_is_none_of_theirs() -> None:
    seen = awsd.read(ASK_EIP + EIP_OK + "awsd checking elastic ip for port2\n" + REFUSED)
    assert states(seen) == [(ASSOCIATE, "confirmed")]
    assert seen.errors[0].operation is None
    assert "ec2:DescribeRouteTables" in seen.errors[0].actions
    summary = summarise(seen)
    assert (summary.outcome, "Besides, the API refused: 403" in summary.sentence) == ("complete", True)


def test_an_operation_awsd_went_on_from_is_not_failed_by_a_later_error() -> None:
    seen = awsd.read(ASK_EIP + "awsd checking route table rtb-0ddbb1a18adf410da\n" + REFUSED)
    assert states(seen) == [(ASSOCIATE, "unconfirmed")]
    assert seen.errors[0].actions == ("ec2:DescribeRouteTables",)


def test_a_second_error_without_a_new_request_keeps_the_first() -> None:
    seen = awsd.read(ASK_EIP + REFUSED + "aws curl response err, 503\n")
    assert [error.operation for error in seen.errors] == [1, None]
    assert seen.operations[0].error == 1


def test_a_confirmation_after_an_error_means_it_was_retried() -> None:
    seen = awsd.read(ASK_ROUTE + "aws curl response err, 503\n" + ROUTE_OK)
    assert states(seen) == [(UPDATE, "confirmed")]
    assert seen.operations[0].notes == [NOTE_RETRIED]


def test_a_confirmation_belongs_to_its_own_address() -> None:
    other = ASK_EIP.replace("192.0.2.1", "192.0.2.9")
    seen = awsd.read(ASK_EIP + other + EIP_OK)
    assert [one.state for one in seen.operations] == ["confirmed", "unconfirmed"]
    seen = awsd.read(other + EIP_OK)
    assert [(one.state, one.notes) for one in seen.operations] == [("unconfirmed", []), ("confirmed", [NOTE_EARLIER])]


def test_with_two_open_the_error_is_the_later_ones_and_so_is_a_confirmation_without_a_name() -> None:
    other_eip, other_route = ASK_EIP.replace("192.0.2.1", "192.0.2.9"), ASK_ROUTE.replace("0.0.0.0/0", "10.0.2.0/24")
    seen = awsd.read(ASK_EIP + other_eip + EIP_OK + REFUSED)
    assert [one.state for one in seen.operations] == ["confirmed", "failed"]
    seen = awsd.read(ASK_ROUTE + other_route + ROUTE_OK)
    assert [one.state for one in seen.operations] == ["unconfirmed", "confirmed"]


def test_a_confirmation_of_the_other_kind_closes_nothing() -> None:
    assert states(awsd.read(ASK_EIP + ROUTE_OK)) == [(ASSOCIATE, "unconfirmed"), (UPDATE, "confirmed")]


def test_a_confirmation_twice_is_one_operation() -> None:
    seen = awsd.read(ASK_EIP + EIP_OK + EIP_OK)
    assert states(seen) == [(ASSOCIATE, "confirmed")]
    assert seen.lines[2].notes == [NOTE_AGAIN]


def test_a_repeated_request_counts_once_by_its_last_outcome() -> None:
    seen = awsd.read(ASK_EIP + "aws curl response err, 503\n" + ASK_EIP + EIP_OK)
    assert states(seen) == [(ASSOCIATE, "failed"), (ASSOCIATE, "confirmed")]
    summary = summarise(seen)
    assert (summary.elastic_ips.asked, summary.elastic_ips.confirmed, summary.outcome) == (1, 1, "complete")


def test_an_sdn_connectors_error_does_not_fail_an_open_operation() -> None:
    seen = awsd.read(ASK_ROUTE + CONNECTOR + ROUTE_OK)
    assert states(seen) == [(UPDATE, "confirmed")]
    assert (seen.errors[0].operation, seen.errors[0].connector) == (None, "AWS_SDN")
    assert all(line.operation is None for line in seen.lines if line.kind in ("api_error", "error_body"))


def test_a_connector_that_failed_had_the_error_even_if_its_beginning_is_not_there() -> None:
    seen = awsd.read(ASK_ROUTE + REFUSED + "awsd sdn connector AWS_SDN failed to get instance list\n" + ROUTE_OK)
    assert states(seen) == [(UPDATE, "confirmed")]
    assert seen.errors[0].connector == "AWS_SDN"
    assert seen.operations[0].notes == []


# --- roles, times, what is missing ---------------------------------------------------------------------------------


def test_console_timestamps_give_times() -> None:
    text = (
        "2024-09-06 23:59:58 HA event\n"
        "2024-09-06 23:59:58 HA state: primary\n"
        f"2024-09-06 23:59:59 {ASK_EIP}"
        f"2024-09-07 00:00:02 {EIP_OK}"
        f"2024-09-07 00:00:02 {ASK_ROUTE}"
        f"2024-09-07 00:00:03 {ROUTE_OK}"
    )
    seen = awsd.read(text)
    assert [one.took_s for one in seen.operations] == [3, 1]
    summary = summarise(seen)
    assert (summary.first_at, summary.last_at) == ("2024-09-06 23:59:58", "2024-09-07 00:00:03")
    assert summary.took_s == 5
    assert "at 2024-09-06 23:59:58" in summary.sentence


def test_times_of_day_pass_midnight_and_a_clock_that_goes_back_gives_none() -> None:
    assert awsd.read("[23:59:59] " + ASK_EIP + "[00:00:01] " + EIP_OK).operations[0].took_s == 2
    back = "2024-09-06 21:28:52 " + ASK_EIP + "2024-09-06 21:28:50 " + EIP_OK
    assert awsd.read(back).operations[0].took_s is None
    mixed = "2024-09-06 21:28:52 " + ASK_EIP + "[21:28:53] " + EIP_OK
    assert awsd.read(mixed).operations[0].took_s is None


def test_an_impossible_timestamp_is_taken_off_all_the_same() -> None:
    seen = awsd.read("2024-19-46 21:28:52 HA event\n")
    assert (kinds(seen), seen.stamps) == (["ha_event"], [])


def test_two_failovers_are_two() -> None:
    again = "HA event\nHA state: primary\n" + ASK_EIP
    seen = awsd.read(again + EIP_OK + "HA event\nHA state: secondary\n" + again)
    assert [role.role for role in seen.roles] == ["primary", "secondary", "primary"]
    assert [(one.failover, one.state) for one in seen.operations] == [(1, "confirmed"), (3, "unconfirmed")]
    summary = summarise(seen)
    assert (summary.elastic_ips.asked, summary.elastic_ips.confirmed) == (2, 1)
    assert "(2 times in this capture)" in summary.sentence


def test_what_was_shown_before_and_never_asked_for_is_named() -> None:
    second = TWO_EIPS.index("awsd associate elastic ip 54"), TWO_EIPS.index("awsd checking elastic ip for port2")
    failover = TWO_EIPS[: second[0]] + TWO_EIPS[second[1] :]
    summary = summarise(awsd.read(PAIR + failover))
    assert summary.never_asked == ["elastic IP 54.241.9.229"]
    assert "Never asked for: elastic IP 54.241.9.229." in summary.sentence
    assert summarise(awsd.read(PAIR + TWO_EIPS)).never_asked == []


@pytest.mark.parametrize(
    ("text", "outcome", "words"),
    [
        ("", "not_awsd", "No line"),
        ("hello\n\nworld\n", "not_awsd", "No line"),
        ("Fgt2 # get system status\n", "not_awsd", "No line"),
        ("awsd running in secondary mode, won't update\n", "no_failover", "secondary, and idle"),
        ("HA event\nHA state: secondary\n", "no_failover", "became secondary"),
        ("HA event\nHA state: primary\nawsd get iam role x\n", "nothing_moved", "cut off, still waiting"),
        ("HA event\nHA state: primary\naws curl response err, 0\n", "nothing_moved", "no answer from the API"),
        (ROUTE_OK, "complete", "its role change is not in the capture"),
    ],
)
def test_the_sentence_fits_what_is_there(text: str, outcome: str, words: str) -> None:
    summary = summarise(awsd.read(text))
    assert summary.outcome == outcome
    assert words in summary.sentence


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "UnauthorizedOperation", "Permission is missing"),
        (403, "", "Permission is missing"),
        (401, "AuthFailure", "credentials"),
        (401, "", "credentials"),
        (503, "RequestLimitExceeded", "Too many API calls"),
        (400, "InvalidNetworkInterfaceID.NotFound", "interface does not exist"),
        (400, "Resource.AlreadyAssociated", "associated elsewhere"),
        (400, "SomethingNew", "SomethingNew, a code not known"),
        (400, "", "not accepted as it stands"),
        (0, "", "could not be reached"),
        (-1, "", "could not be reached"),
        (None, "", "neither its status nor its code"),
        (28, "", "curl's own"),
        (418, "", "neither its status nor its code"),
        (599, "", "overloaded"),
    ],
)
def test_refusals_by_code_then_by_status(status: int | None, code: str, words: str) -> None:
    known = awsd_errors.remedy(status, code)
    assert words in known.meaning
    assert known.check_first


def test_every_remedy_can_be_filled_in() -> None:
    remedies = [*awsd_errors.CODES.values(), *awsd_errors.STATUSES.values(), awsd_errors.NO_ANSWER]
    for known in remedies:
        assert "{" not in "".join(text.format(action="a", role="r") for text in (known.meaning, *known.check_first))


def test_no_answer_points_at_the_way_to_the_api() -> None:
    (error,) = awsd.read(ASK_EIP + "aws curl response err, 0\n").errors
    checks = " ".join(error.check_first)
    for word in ("DNS", "endpoint", "security groups", "management interface"):
        assert word in checks


# --- any text ------------------------------------------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    [line for text in SAMPLES.values() for line in text.splitlines(keepends=True)]
    + [
        *REFUSED.splitlines(keepends=True),
        *DRESSES,
        "\n",
        "\r\n",
        "\r",
        "<?xml",
        "<Code>",
        "awsd ",
        "aws curl response err",
    ]
)


@given(st.one_of(st.text(), st.lists(st.one_of(FRAGMENTS, st.text(max_size=9))).map("".join)))
@example("\r")
@example("a\r\n\r")
@example("route (0) via 0\nroute (0) via 0")
@example("aws curl response err, ٣")
def test_any_text_is_read_without_loss(text: str) -> None:
    seen = awsd.read(text)
    summary = summarise(seen)
    assert rebuilt(seen) == text
    assert [line.number for line in seen.lines] == list(range(1, len(seen.lines) + 1))
    assert all(line.meaning for line in seen.lines)
    assert {one.state for one in seen.operations} <= {"confirmed", "failed", "unconfirmed"}
    assert summary.sentence
    for one in seen.operations:
        opened = [line.number for line in seen.lines if line.operation == one.number and line.effect == "opens"]
        assert opened == ([one.asked_line] if one.asked_line else [])
        assert (one.state == "failed") == (one.state != "confirmed" and one.error is not None)


@given(st.text(alphabet="\n\rab", max_size=30))
def test_lines_are_those_of_the_text(text: str) -> None:
    parts = list(awsd.split(text))
    assert "".join(line + ending for line, ending in parts) == text
    if "\n" in text:
        assert len(parts) == text.count("\n") + (not text.endswith("\n"))
    assert all(ending for _, ending in parts[:-1])
