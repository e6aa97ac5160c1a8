"""Budgets: limits on outages and verdicts, read from YAML and held against runs.

- name: east-west keeps its sessions
  path: east-west
  session: kept
  max_outage: 5s
  verdict: [survived, unaffected]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from probe.core.events import VERDICTS
from probe.core.verdict import worst
from probe.errors import ConfigError
from probe.report import phrases as say
from probe.units import parse_duration_ns

_FIELDS = {"name", "path", "protocol", "session", "max_outage", "verdict"}


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit. An empty path, protocol or session applies to all."""

    name: str
    path: str = ""
    protocol: str = ""
    session: str = ""
    max_outage_ns: int | None = None
    verdicts: tuple[str, ...] = ()

    def applies(self, flow: Mapping[str, Any]) -> bool:
        if say.is_stream(flow) and self.protocol != "stream":
            return False  # a stall is no outage: TCP waits longer than the path was dark
        wanted, has = (self.path, self.protocol, self.session), (flow["path"], say.kind(flow), flow["session"])
        return all(not w or w == h for w, h in zip(wanted, has, strict=True))


def check(documents: Sequence[Mapping[str, Any]], budgets: Sequence[Budget]) -> list[dict[str, Any]]:
    """Hold runs against budgets; of several runs the worst counts.

    Returns:
        In the contract's form, in the budgets' order: `{"name", "limit", "value", "ok"}`. Outages in ns, judged by
        their upper bound (an outage that may have been longer is over) and never ok while still open; verdicts as
        words. A budget that applies to no flow is not ok and has the value None: a misspelt path must not pass.
    """
    results = []
    for budget in budgets:
        flows = [f for document in documents for f in document["flows"] if budget.applies(f)]
        if budget.max_outage_ns is not None:
            results.append(_check_outage(budget, budget.max_outage_ns, flows))
        if budget.verdicts:
            value = worst(f["verdict"] for f in flows) if flows else None
            # `recovered` is how reports call the survival of a new session: either word may be written.
            allowed = {"survived" if v == "recovered" else v for v in budget.verdicts}
            ok = bool(flows) and all(f["verdict"] in allowed for f in flows)
            over = next((f["verdict"] for f in flows if f["verdict"] not in allowed), value)
            results.append({"name": budget.name, "limit": list(budget.verdicts), "value": over, "ok": ok})
    return results


def _check_outage(budget: Budget, limit_ns: int, flows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    longest = [(say.away(f), _slack(f)) for f in flows]
    value = max((a.ns + slack for a, slack in longest), default=None)
    ok = value is not None and value <= limit_ns and not any(a.still for a, _ in longest)
    return {"name": budget.name, "limit": limit_ns, "value": value, "ok": ok}


def _slack(flow: Mapping[str, Any]) -> int:
    """How much longer than first lost to first answered an absence of this flow may have been."""
    gaps = [o["edges_ns"]["first_lost"] - o["edges_ns"]["last_ok"] for o in flow["outages"] if o["edges_ns"]["last_ok"]]
    return max(gaps, default=0)


def load_budgets(path: Path | str) -> list[Budget]:
    """Read a budget file: a YAML list (or `budgets:` with one) of name, path, protocol, session, max_outage, verdict.

    Raises:
        ConfigError: With every mistake in it.
    """
    try:
        text = Path(path).read_text("utf-8")
        data = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {getattr(error, 'problem', error)}") from error
    if isinstance(data, dict) and set(data) == {"budgets"}:
        data, node = data["budgets"], node.value[0][1] if node else None
    if not isinstance(data, list) or not data:
        raise ConfigError(f"{path}:1: budgets: not a list of budgets; each has name, max_outage and/or verdict")
    lines = [item.start_mark.line + 1 for item in node.value] if node is not None else [1] * len(data)
    found, problems = [], []
    for entry, line in zip(data, lines, strict=True):
        wrong = _entry_problems(entry)
        problems += [f"{path}:{line}: {w}" for w in wrong]
        if not wrong:
            found.append(_entry(entry))
    if problems:
        raise ConfigError(problems)
    return found


def _entry_problems(entry: object) -> list[str]:
    if not isinstance(entry, dict):
        return ["budget: not a mapping; allowed: " + ", ".join(sorted(_FIELDS))]
    wrong = [f"{key}: unknown; allowed: {', '.join(sorted(_FIELDS))}" for key in entry if key not in _FIELDS]
    if not entry.get("name"):
        wrong.append("name: missing; any text that names the budget")
    if "max_outage" not in entry and "verdict" not in entry:
        wrong.append("max_outage: missing, and no verdict either; a duration such as 5s, or a list of verdicts")
    if "max_outage" in entry:
        try:
            parse_duration_ns(str(entry["max_outage"]))
        except ValueError as error:
            wrong.append(f"max_outage: {error}")
    for key, allowed in (("protocol", say.PROTOCOLS), ("session", ("kept", "fresh"))):
        if entry.get(key, "") not in ("", *allowed):
            wrong.append(f"{key}: {entry[key]!r}; allowed: {', '.join(allowed)}")
    words = (*VERDICTS, "recovered")
    wrong += [f"verdict: {v!r}; allowed: {', '.join(words)}" for v in _listed(entry.get("verdict")) if v not in words]
    return wrong


def _entry(entry: Mapping[str, Any]) -> Budget:
    return Budget(
        name=str(entry["name"]),
        path=str(entry.get("path") or ""),
        protocol=str(entry.get("protocol") or ""),
        session=str(entry.get("session") or ""),
        max_outage_ns=parse_duration_ns(str(entry["max_outage"])) if "max_outage" in entry else None,
        verdicts=tuple(_listed(entry.get("verdict"))),
    )


def _listed(value: object) -> list[str]:
    if value is None:
        return []
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]
