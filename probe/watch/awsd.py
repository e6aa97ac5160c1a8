"""Reads a capture of awsd's debug output: text in, annotated lines and operations out.

No file, terminal or clock is touched here. Feed lines to a `Reader` as they come and `close` it, or give a whole
capture to `read`. What lines look like stands in `probe.watch.awsd_grammar`, what refusals mean in
`probe.watch.awsd_errors`; this module follows the operations:

    asked ──confirmed──► confirmed      the next matching "successfully"
      │  └──an error───► failed         unless awsd went on to something else in between
      └──end of text───► unconfirmed    cut off, timed out or refused

Every line of the input becomes one `Line`, verbatim; a line that nothing is known about is kept as `unknown`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from probe.watch import awsd_errors as errors
from probe.watch import awsd_grammar as grammar
from probe.watch.awsd_grammar import Match, Stamp, Undressed
from probe.watch.awsd_model import (
    ACTIONS,
    ASKED,
    ASSOCIATE,
    CONFIRMED,
    FAILED,
    NOTE_AGAIN,
    NOTE_CONNECTOR,
    NOTE_CONTROL,
    NOTE_CUT,
    NOTE_EARLIER,
    NOTE_FIRST,
    NOTE_INSIDE,
    NOTE_LAST,
    NOTE_RETRIED,
    NOTE_UNDECODABLE,
    UNCONFIRMED,
    UPDATE,
    ApiError,
    Capture,
    Line,
    Operation,
    Pair,
    Role,
    Unit,
)

# What awsd may be asking the API for between two of its lines, by the earlier one: nothing is printed for a Describe.
_BETWEEN: dict[str, tuple[str, ...]] = {
    "failover_begins": ("ec2:DescribeInstances", "ec2:DescribeAddresses", "ec2:DescribeVpcEndpoints"),
    "port_pass": ("ec2:DescribeAddresses", "ec2:DescribeRouteTables"),
    "eip_confirmed": ("ec2:DescribeAddresses", "ec2:DescribeRouteTables"),
    "table_scan": ("ec2:DescribeRouteTables",),
    "route_confirmed": ("ec2:DescribeRouteTables",),
}
_UNDECIDED = ("ec2:DescribeInstances", "ec2:DescribeAddresses", "ec2:DescribeRouteTables")
_XML_START = re.compile(r"<\?xml|</?(?:Response|Errors?|Code|Message|RequestID)>")
_XML_ERROR = re.compile(r"<(?:Errors?|Code)>")
_XML_END = re.compile(r"</\w*Response>")
_MOST_BODY_LINES = 200  # a body that never ends must not swallow the rest
_WRAP_FROM = 72  # a complete-looking line at least this long may have been wrapped by a terminal
_QUIET = {"blank", "prompt", "pager", "command"}  # these come in between whenever somebody touches the keyboard


def read(text: str) -> Capture:
    """Read a whole capture."""
    reader = Reader()
    for line, ending in split(text):
        reader.feed(line, ending)
    return reader.close()


def split(text: str) -> Iterator[tuple[str, str]]:
    """Cut a text into (line, ending): joined again, they are the text.

    A line ends with a line feed and the carriage returns in front of it; with a lone carriage return only in a text
    that has no line feed at all, as elsewhere the pager uses it to erase itself.
    """
    end = re.compile(r"\r*\n" if "\n" in text else r"\r")
    at = 0
    for found in end.finditer(text):
        yield text[at : found.start()], found[0]
        at = found.end()
    if at < len(text):
        yield text[at:], ""


class Reader:
    """Follows a capture line by line. Call `feed` for each line in turn, then `close` once."""

    def __init__(self) -> None:
        self._seen = Capture()
        self._current: Operation | None = None  # asked last, and awsd has not gone on to anything else
        self._stage = ""  # kind of the last line that told what awsd is at
        self._connector = ""  # an SDN connector that began to update since the last request
        self._awaits_body: ApiError | None = None
        self._body: list[str] | None = None
        self._body_error: ApiError | None = None
        self._last_error: ApiError | None = None  # nothing but its body came since
        self._wrapped: tuple[Line, str, Match] | None = None
        self._pair: Pair | None = None
        self._failover_is_new = False

    def feed(self, text: str, ending: str = "\n") -> Line:
        """Take the next line. Its annotation is final after `close`: later lines may tell more."""
        line = Line(len(self._seen.lines) + 1, text, ending)
        self._seen.lines.append(line)
        bare = grammar.undress(text)
        line.unit = bare.unit
        if bare.stamp:
            line.at = bare.stamp.text
            self._seen.stamps.append(bare.stamp)
        if "\ufffd" in text:
            line.notes.append(NOTE_UNDECODABLE)
        if bare.odd:
            line.notes.append(NOTE_CONTROL)
        found = grammar.match(bare.text)
        if found is None:
            self._unmatched(line, bare)
        else:
            self._matched(line, bare, found)
        line.meaning = line.meaning or grammar.OTHER_KINDS[line.kind]
        return line

    def close(self) -> Capture:
        """The text has ended: what is still open will not be confirmed any more."""
        self._end_body()
        for operation in self._seen.operations:
            if operation.state == ASKED:
                operation.state = UNCONFIRMED
        if self._seen.lines and not self._seen.lines[-1].ending:
            self._cut_off(self._seen.lines[-1])
        if self._seen.lines and self._seen.lines[0].kind == "unknown":
            self._seen.lines[0].notes.append(NOTE_FIRST)
        for error in self._seen.errors:
            self._explain(error)
        return self._seen

    def _cut_off(self, last: Line) -> None:
        """Say so where the input ends inside a line: what that line names may not be the whole of it."""
        if last.kind == "api_error" and len(last.fields.get("status", "")) < 3:
            self._seen.errors[-1].status = None if last.fields.get("status") not in ("0", "-1") else 0
        elif last.kind != "unknown" and NOTE_CUT not in last.notes and grammar.whole_ids(last.fields):
            return
        last.notes.append(NOTE_LAST)
        if last.effect == "opens":
            self._seen.operations[-1].notes.append(NOTE_LAST)

    # --- lines that a rule knows -----------------------------------------------------------------------------------

    def _matched(self, line: Line, bare: Undressed, found: Match) -> None:
        self._end_body()
        rule = found.rule
        line.kind, line.meaning, line.fields = rule.kind, rule.meaning, found.fields
        if found.cut:
            line.notes.append(NOTE_CUT)
        if found.inside:
            line.notes.append(NOTE_INSIDE)
        long_enough = len(bare.text) >= _WRAP_FROM or found.cut or not grammar.whole_ids(found.fields)
        self._wrapped = (line, bare.text.strip(), found) if long_enough and not found.inside else None
        self._note_dialect(rule, line.fields, bare.text)
        if rule.stage:
            self._current = None
        if rule.kind in _BETWEEN or rule.stage:
            self._stage = rule.kind
        if rule.kind not in ("keys_invalid", "connector_failed"):
            self._last_error = None
        getattr(self, f"_on_{rule.kind}", self._on_other)(line, bare.stamp)

    def _on_other(self, line: Line, stamp: Stamp | None) -> None:
        """Nothing follows from this kind."""

    def _note_dialect(self, rule: grammar.Rule, fields: dict[str, str], text: str) -> None:
        dialect = rule.dialect
        if rule.kind == "vip_arp":
            dialect = grammar.OLD if fields["role"] == "master" else grammar.NEW
        elif rule.kind in ("failover_begins", "port_pass"):
            dialect = grammar.NEW if "awsd checking" in text else grammar.OLD
        elif "elastic_ip" in fields and rule.kind in ("eip_asked", "eip_confirmed"):
            dialect = grammar.NEW
        elif "allocation" in fields:
            dialect = grammar.OLD
        if dialect != grammar.BOTH:
            self._seen.dialects.add(dialect)

    def _on_become_role(self, line: Line, stamp: Stamp | None) -> None:
        self._take_role(line, stamp)

    def _on_ha_event(self, line: Line, stamp: Stamp | None) -> None:
        self._take_role(line, stamp)
        self._failover_is_new = True

    def _on_ha_state(self, line: Line, stamp: Stamp | None) -> None:
        if not self._failover_is_new:
            self._take_role(line, stamp)
            return
        self._failover_is_new = False
        self._seen.roles[-1].role = _role(line.fields["role"])

    def _take_role(self, line: Line, stamp: Stamp | None) -> None:
        self._failover_is_new = False
        role = _role(line.fields.get("role", ""))
        unit = next((one.unit for one in reversed(self._seen.lines) if one.unit), "")
        self._seen.roles.append(Role(len(self._seen.roles) + 1, line.number, role, unit, stamp))

    def _on_identity(self, line: Line, stamp: Stamp | None) -> None:
        if "value" in line.fields:
            self._seen.identity[line.fields["what"]] = line.fields["value"]

    def _on_eip_asked(self, line: Line, stamp: Stamp | None) -> None:
        self._ask(ASSOCIATE, line, stamp)

    def _on_route_asked(self, line: Line, stamp: Stamp | None) -> None:
        self._ask(UPDATE, line, stamp)

    def _ask(self, kind: str, line: Line, stamp: Stamp | None) -> None:
        self._failover_is_new = False
        self._current = self._open(kind, line.fields, line.number, stamp)
        self._stage, self._connector = line.kind, ""
        line.operation, line.effect = self._current.number, "opens"

    def _open(self, kind: str, fields: dict[str, str], asked_line: int | None, stamp: Stamp | None) -> Operation:
        number = len(self._seen.operations) + 1
        operation = Operation(number, kind, fields, len(self._seen.roles), asked_line, stamp)
        self._seen.operations.append(operation)
        return operation

    def _on_eip_confirmed(self, line: Line, stamp: Stamp | None) -> None:
        self._confirm(ASSOCIATE, line, stamp)

    def _on_route_confirmed(self, line: Line, stamp: Stamp | None) -> None:
        self._confirm(UPDATE, line, stamp)

    def _confirm(self, kind: str, line: Line, stamp: Stamp | None) -> None:
        operation = self._to_confirm(kind, line.fields)
        if operation is None:
            done = [one for one in self._seen.operations if one.kind == kind and one.state == CONFIRMED]
            if line.fields and any(_same(line.fields, one.fields) and one.fields for one in done):
                line.notes.append(NOTE_AGAIN)
                return
            operation = self._open(kind, dict(line.fields), None, None)
            operation.notes.append(NOTE_EARLIER)
            line.notes.append(NOTE_EARLIER)
        elif operation.state == FAILED:
            operation.notes.append(NOTE_RETRIED)
        operation.state, operation.closed_line, operation.closed_at = CONFIRMED, line.number, stamp
        line.operation, line.effect = operation.number, "confirms"
        if operation is self._current:
            self._current = None

    def _to_confirm(self, kind: str, named: dict[str, str]) -> Operation | None:
        """The operation that a confirmation is about: the latest open one, or the very last if that has failed."""
        of_kind = [one for one in self._seen.operations if one.kind == kind and _same(named, one.fields)]
        for one in reversed(of_kind):
            if one.state == ASKED:
                return one
        if of_kind and of_kind[-1] is self._current and self._current.state == FAILED:
            return self._current
        return None

    def _on_api_error(self, line: Line, stamp: Stamp | None) -> None:
        status = int(line.fields["status"][:6]) if "status" in line.fields else None
        self._awaits_body = self._refused(line, stamp, status)

    def _refused(self, line: Line, stamp: Stamp | None, status: int | None) -> ApiError:
        number = len(self._seen.errors) + 1
        error = ApiError(number, line.number, stamp, status, None, (), last_line=line.number)
        self._seen.errors.append(error)
        self._last_error = error
        operation = self._current
        if operation is None or operation.state != ASKED:
            error.connector = self._connector
            repeated = (ACTIONS[operation.kind],) if operation else ()
            error.actions = () if self._connector else repeated + _BETWEEN.get(self._stage, _UNDECIDED)
            return error
        error.operation, error.actions = operation.number, (ACTIONS[operation.kind],)
        operation.state, operation.error = FAILED, number
        operation.closed_line, operation.closed_at = line.number, stamp
        line.operation, line.effect = operation.number, "fails"
        if self._connector:
            line.notes.append(NOTE_CONNECTOR)
            operation.notes.append(NOTE_CONNECTOR)
        return error

    def _on_connector(self, line: Line, stamp: Stamp | None) -> None:
        if line.fields["step"].startswith("start"):
            self._connector = line.fields["connector"]

    def _on_connector_failed(self, line: Line, stamp: Stamp | None) -> None:
        self._blame_connector(line.fields["connector"])
        self._connector = ""

    def _on_keys_invalid(self, line: Line, stamp: Stamp | None) -> None:
        self._blame_connector(self._connector or "?")

    def _blame_connector(self, connector: str) -> None:
        """The error just seen was an SDN connector's, as only now is told: the operation is open still."""
        error = self._last_error
        if error is None:
            return
        error.connector, error.actions = connector, ()
        if error.operation is None:
            return
        operation = self._seen.operations[error.operation - 1]
        operation.state, operation.error, operation.closed_line, operation.closed_at = ASKED, None, None, None
        operation.notes = [note for note in operation.notes if note != NOTE_CONNECTOR]
        error.operation = None
        for line in self._seen.lines[error.line - 1 : error.last_line]:
            line.operation, line.effect = None, ""
            line.notes = [note for note in line.notes if note != NOTE_CONNECTOR]

    # --- `diagnose test application awsd 4` ------------------------------------------------------------------------

    def _shown(self, line: Line) -> Pair:
        """The output that a line belongs to; begun here when its first line is not in the capture."""
        if self._pair is None:
            self._pair = Pair(line.number)
            self._seen.pairs.append(self._pair)
        return self._pair

    def _shown_unit(self, line: Line) -> Unit:
        pair = self._shown(line)
        if not pair.units:
            pair.units.append(Unit(peer=False, role=_role(pair.status.rpartition(" ")[2])))
        return pair.units[-1]

    def _on_pair_status(self, line: Line, stamp: Stamp | None) -> None:
        self._pair = None
        self._shown(line).status = line.fields["status"]

    def _on_pair_vpc(self, line: Line, stamp: Stamp | None) -> None:
        self._shown(line).vpc = line.fields["vpc"]

    def _on_pair_instance(self, line: Line, stamp: Stamp | None) -> None:
        self._shown_unit(line).instance = line.fields["instance"]

    def _on_pair_eni(self, line: Line, stamp: Stamp | None) -> None:
        self._shown_unit(line).enis.append({**line.fields, "secondary": []})

    def _on_pair_secondary(self, line: Line, stamp: Stamp | None) -> None:
        enis = self._shown_unit(line).enis
        if enis:
            addresses = enis[-1]["secondary"]
            assert isinstance(addresses, list)
            addresses.append(dict(line.fields))

    def _on_pair_peer(self, line: Line, stamp: Stamp | None) -> None:
        self._shown(line).units.append(Unit(peer=True, role=_role(line.fields["role"])))

    def _on_pair_table(self, line: Line, stamp: Stamp | None) -> None:
        self._shown(line).routes.append({"route_table": line.fields["route_table"]})

    def _on_pair_route(self, line: Line, stamp: Stamp | None) -> None:
        routes = self._shown(line).routes
        if routes and "destination" not in routes[-1]:
            routes[-1].update(line.fields)
        else:
            table = {key: routes[-1][key] for key in ("route_table",) if routes and key in routes[-1]}
            routes.append(table | line.fields)

    # --- lines that no rule knows ----------------------------------------------------------------------------------

    def _unmatched(self, line: Line, bare: Undressed) -> None:
        wrapped, self._wrapped = self._wrapped, None
        text = bare.text
        if not text.strip():
            line.kind = "pager" if bare.paged else "prompt" if bare.prompted else "blank"
            self._wrapped = wrapped if line.kind in ("blank", "pager") else None
        elif grammar.typed(bare) and (bare.prompted or self._body is None):
            line.kind = "command"
        elif self._continues_body(text):
            line.kind = "error_body"
            self._add_to_body(line, text, bare.stamp)
        elif wrapped and self._continues(line, wrapped, text):
            line.kind = "continued"

    def _continues(self, line: Line, wrapped: tuple[Line, str, Match], text: str) -> bool:
        """Whether a line is the wrapped end of the one above; if so, that one gets its fields complete."""
        above, begun, found = wrapped
        for joined in (begun + text.strip(), f"{begun} {text.strip()}"):
            whole = found.rule.pattern.fullmatch(joined)
            if whole and grammar.whole_ids(grammar.fields_of(whole)):
                break
        else:
            return False
        # The operation, or the shown interface, holds the same fields as the line above: both are completed.
        shown = self._pair.units[-1].enis[-1:] if self._pair and self._pair.units else []
        if above.kind == "pair_eni" and shown:
            shown[0].update(grammar.fields_of(whole))
        above.fields.update(grammar.fields_of(whole))
        above.notes = [note for note in above.notes if note != NOTE_CUT]
        line.operation = above.operation
        return True

    def _continues_body(self, text: str) -> bool:
        if self._body is not None and text.lstrip().startswith("awsd "):
            self._end_body()  # a line of the daemon's that is not known here, but surely not XML
            return False
        return self._body is not None or bool(_XML_START.search(text))

    def _add_to_body(self, line: Line, text: str, stamp: Stamp | None) -> None:
        if self._body is None:
            self._body, self._body_error, self._awaits_body = [], self._awaits_body, None
        self._body.append(text)
        joined = "".join(self._body)
        if self._body_error is None and _XML_ERROR.search(joined):
            self._body_error = self._refused(line, stamp, None)
        if self._body_error is not None:
            self._body_error.last_line = line.number
            line.operation = self._body_error.operation
        if _XML_END.search(joined) or len(self._body) >= _MOST_BODY_LINES:
            self._end_body()

    def _end_body(self) -> None:
        if self._body is not None and self._body_error is not None:
            body = errors.read_body("".join(self._body))
            error = self._body_error
            error.code, error.message = body.code, body.message
            if body.denied_action:
                error.actions = (body.denied_action,)
        self._body = self._body_error = self._awaits_body = None

    def _explain(self, error: ApiError) -> None:
        """Fill in what the refusal means, with what is known at the end: the role's name may come late."""
        known = errors.remedy(error.status, error.code)
        action = " or ".join(error.actions) or "the action it asks for"
        name = self._seen.identity.get("iam role")
        role = f"the role {name}" if name else "the role of the instance"
        if error.connector:
            role = f"the identity of the SDN connector {error.connector}"
        error.meaning = known.meaning.format(action=action)
        error.check_first = tuple(text.format(action=action, role=role) for text in known.check_first)


def _role(word: str) -> str:
    """One word per role, whatever the dialect; empty for what is no role."""
    same = {"master": "primary", "slave": "secondary", "backup": "secondary", "peer": ""}
    word = same.get(word.lower(), word.lower())
    return word if word in ("primary", "secondary", "standalone") else ""


def _same(named: dict[str, str], fields: dict[str, str]) -> bool:
    """Whether what a confirmation names agrees with a request: a name that either lacks is no contradiction."""
    return all(fields.get(name, value) == value for name, value in named.items())
