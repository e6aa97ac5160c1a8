"""The five questions a person brings to a failover, answered from a result document, each with where it comes from.

    What does the passive unit's output mean?      what awsd printed, as captured (`fortigate` in the timeline)
    What happened to the sessions, and why?        verdicts on old sessions
    Which sessions survived?                       the same, counted
    How many pings were lost?                      sequence numbers of the ICMP flows, over the outages
    And if it did not work?                        the diagnosis

Answers are short: tables elsewhere in the report say it in full. What was not seen is said to be so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probe.core.facts import translated_paths
from probe.core.remedies import remedies
from probe.report import phrases as say

ALIVE = ("unaffected", "survived")
MOST_EVIDENCE = 6


@dataclass(frozen=True, slots=True)
class Answer:
    """One question, what there is to say, and what that was read from."""

    question: str
    lines: tuple[str, ...]
    source: str


def answers(document: Mapping[str, Any]) -> list[Answer]:
    """The five answers, in the order above; none for a document without a trigger, which is no failover's."""
    if not document["run"]["trigger"]["at_ns"]:
        return []
    return [_output(document), _fate(document), _survivors(document), _pings(document), _failure(document)]


# ---------------------------------------------------------------------- the passive unit's output


def _output(document: Mapping[str, Any]) -> Answer:
    told = [e for e in document["timeline"] if e["source"] == "fortigate" and _from_awsd(e)]
    zero = say.origin_ns(document)
    lines = tuple(f"{say.relative(e['at_ns'], zero)}  {_meaning(e)}" for e in told)
    if not lines:
        lines = (
            "Nothing of it is in this run: no FortiGate watcher with SSH captured it, or it printed nothing.",
            "What was captured by hand (`diagnose debug application awsd -1`): `haprobe explain awsd FILE`.",
        )
        return Answer("What does the passive unit's output mean?", lines, "no capture")
    units = ", ".join(dict.fromkeys(f"awsd-{e['detail'].get('unit')}.log" for e in told))
    source = f"awsd's debug output, {units} beside this report; `haprobe explain awsd` reads it line by line"
    return Answer("What does the passive unit's output mean?", lines, source)


def _from_awsd(event: Mapping[str, Any]) -> bool:
    return bool(event["event"] == "awsd_error" or event["detail"].get("via") == "awsd")


def _meaning(event: Mapping[str, Any]) -> str:
    d = event["detail"]
    unit = d.get("unit", "?")
    if event["event"] == "role_change":
        return f"{unit} is told that it is {d.get('role')}" + (
            ": from here on it is its job to move the cloud" if d.get("role") == "primary" else ""
        )
    if event["event"] == "awsd_error":
        return f"{unit} was refused: {d.get('error')}. {d.get('meaning', '')}".rstrip()
    what = {"AssociateAddress": "the Elastic IP", "ReplaceRoute": "the route"}.get(str(d.get("operation")), "")
    asked = f"{unit} asks the cloud to point {what} {d.get('target', '')} at itself" if what else f"{unit} calls it"
    if d.get("result") == "ok":
        took = f" after {say.duration(float(d['duration_ms']) * 1e6)}" if d.get("duration_ms") else ""
        return f"{asked}: confirmed{took}"
    if d.get("result") == "unconfirmed":
        return f"{asked}: never confirmed in what was captured"
    causes = [one.cause for one in remedies([str(d.get("error"))])]
    return " ".join([f"{asked}: failed, {d.get('error')}.", *causes])


# ---------------------------------------------------------------------- sessions


def _fate(document: Mapping[str, Any]) -> Answer:
    lines = []
    for path, flows in say.by_path(document).items():
        groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for flow in flows:
            if flow["session"] == "kept":
                groups.setdefault((flow["verdict"], _reason(document, flow)), []).append(flow)
        lines += [f"{path} {_names(alike)}: {_dark(verdict, alike)}; {why}" for (verdict, why), alike in groups.items()]
    return Answer(
        "What happened to the sessions, and why?",
        tuple(lines) or ("No session was held through the failover.",),
        "verdicts on the kept flows, each judged beside its new-session twin",
    )


def _names(flows: Sequence[Mapping[str, Any]]) -> str:
    """Their protocols, and of how many flows each, where it is more than one."""
    counts = Counter("stream" if f.get("stack") == "kernel" else f["protocol"].upper() for f in flows)
    return ", ".join(f"{n} {name}" if n > 1 else name for name, n in counts.items())


def _dark(verdict: str, flows: Sequence[Mapping[str, Any]]) -> str:
    """The verdict, and for how long at most sessions were away that came back."""
    longest = max((say.away(f) for f in flows), key=lambda a: a.ns)
    return f"{verdict}, dark for {longest}" if longest.ns and verdict in ("survived", "rebound") else verdict


def _reason(document: Mapping[str, Any], flow: Mapping[str, Any]) -> str:
    """The likely cause of a verdict. What is inferred and not seen is put as such."""
    paths = translated_paths((f["agent"], f["path"], f["verdict"]) for f in document["flows"])
    verdict, nat = flow["verdict"], (flow["agent"], flow["path"]) in paths
    if verdict == "survived" and flow["protocol"] == "tcp":
        return "the new primary knew the session (session-pickup synchronises TCP)"
    if verdict == "survived":
        return (
            "likely by a new session that its next packet began: only session-pickup-connectionless keeps the old one"
        )
    if verdict == "lost" and nat:
        return "likely translated to an address of the old unit, which does not move across zones: clients reconnect"
    if verdict == "lost":
        return "new sessions work, so the new primary did not know this one (session-pickup)"
    if verdict == "reset":
        end = flow["session_end"] or {}
        return f"{end.get('cause', '?').upper()} from {end.get('from') or 'an unknown sender'}"
    if verdict == "rebound":
        return "answered again behind another translated address or port: for the far end a new session"
    if verdict in ("dark", "half"):
        code = next((d["code"] for d in document["diagnosis"] if d["code"] not in say.CAVEATS), "no cause found")
        return f"the path itself is not back, new sessions fail as well ({code})"
    return say.VERDICTS[verdict][2]


def _survivors(document: Mapping[str, Any]) -> Answer:
    kept = [f for f in document["flows"] if f["session"] == "kept"]
    alive = [f for f in kept if f["verdict"] in ALIVE]
    lines = [f"{len(alive)} of {len(kept)} old sessions, on the 5-tuple or ICMP id that they had"]
    for path, flows in say.by_path({"flows": alive}).items():
        lines.append(f"{path}: {_names(flows)}")
    true = [f for f in alive if f["protocol"] == "tcp"]
    lines.append(
        f"of these, {len(true)} TCP, where survival takes the session itself; UDP and ICMP only need the path"
        if alive
        else "none was answered again"
    )
    return Answer("Which sessions survived?", tuple(lines), "verdicts on the kept flows")


# ---------------------------------------------------------------------- pings


def _pings(document: Mapping[str, Any]) -> Answer:
    pings = [f for f in document["flows"] if f["protocol"] == "icmp" and f["session"] == "kept"]
    pings = pings or [f for f in document["flows"] if f["protocol"] == "icmp"]
    return Answer(
        "How many pings were lost?",
        tuple(_lost_of_path(path, flows) for path, flows in say.by_path({"flows": pings}).items())
        or ("No flow pings.",),
        "sequence numbers of the ICMP flows; no probe of ours that was not sent counts",
    )


def _lost_of_path(path: str, flows: Sequence[Mapping[str, Any]]) -> str:
    if len(flows) == 1:
        return f"{path}: {_lost(flows[0])}"
    lost, sent = (sum(flow["counts"][name] for flow in flows) for name in ("lost", "sent"))
    worst = max(flows, key=lambda flow: (say.away(flow).ns, flow["counts"]["lost"]))
    return f"{path}: {lost} of {sent} of {len(flows)} flows; at the worst ({say.label(worst)}) {_lost(worst)}"


def _lost(flow: Mapping[str, Any]) -> str:
    counts, outages, away = flow["counts"], flow["outages"], say.away(flow)
    if not outages:
        return f"{counts['lost']} of {counts['sent']}, and no outage"
    inside = sum(o["lost"] for o in outages)
    several = f"{len(outages)} outages" if len(outages) > 1 else "one outage"
    text = f"{inside} of {counts['sent']}, at one per {say.duration(flow['interval_ns'])}, in {several}"
    stray = counts["lost"] - inside
    text += f" (longest absence {away})" + (f", and {stray} scattered" if stray > 0 else "")
    if away.still:
        return f"{text}; still dark at the end, where a person's ping (one per second) loses every one"
    few, most = int(away.ns // 1e9), int(-(-away.ns // 1e9))
    return f"{text}; a person's ping (one per second) would lose {few if few == most else f'{few} or {most}'}"


# ---------------------------------------------------------------------- if it did not work


def _failure(document: Mapping[str, Any]) -> Answer:
    findings = document["diagnosis"]
    lines: list[str] = []
    if not findings:
        lines = ["No rule applies: nothing speaks for a failover that went wrong, nor for one that was complete."]
    elif findings[0]["code"] == "failover_clean":
        lines = ["It worked: every path carries new sessions again. Old sessions that were lost have to reconnect."]
        lines += [f"{d['code']}: {d['summary']}" for d in findings[1:]]
    else:
        lines = list(_advice(findings))
    return Answer("And if it did not work?", tuple(lines), "diagnosis, with all of its evidence, in this report")


def _advice(findings: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    first = findings[0]
    yield f"{first['code']}: {first['summary']}"
    yield from (f"seen: {line}" for line in first["evidence"][:MOST_EVIDENCE])
    yield from (f"check first: {line}" for line in first.get("check_first", ()))
    if len(findings) > 1:
        yield f"beside it: {', '.join(d['code'] for d in findings[1:])}"
