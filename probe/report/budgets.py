"""Budgets: limits on outages and verdicts, read from YAML and held against runs.

- name: east-west keeps its sessions
  path: east-west
  session: kept
  max_outage: 5s
  verdict: [survived, unaffected]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict

from probe import yamlfile
from probe.config_rules import Problem, model_problems
from probe.config_types import Checked, duration, text
from probe.core.events import VERDICTS
from probe.core.verdict import worst
from probe.report import phrases as say

_WORDS = (*VERDICTS, "recovered")


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


# --- holding runs against them ---------------------------------------------------------------------------------------


def check(documents: Sequence[Mapping[str, Any]], budgets: Sequence[Budget]) -> list[dict[str, Any]]:
    """Hold runs against budgets; of several runs the worst counts.

    Returns:
        In the contract's form, in the budgets' order: `{"name", "limit", "value", "ok"}`. Absences in ns, judged by
        their upper bound (one that may have been longer is over), and never ok where they have none: `unbounded` names
        the flows that were still away at the end, whose session was ended by a packet, or that were away when the run
        began. Verdicts as words. A budget that applies to no flow is not ok and has the value None: a misspelt path
        must not pass. Nor may a flow of which nothing was observed: `unobserved` names such flows.
    """
    results = []
    for budget in budgets:
        flows = [f for document in documents for f in document["flows"] if budget.applies(f)]
        if budget.max_outage_ns is not None:
            results.append(_check_outage(budget, budget.max_outage_ns, flows))
        if budget.verdicts:
            results.append(_check_verdict(budget, flows))
    return results


def _check_outage(budget: Budget, limit_ns: int, flows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    observed = [f for f in flows if say.observed(f)]
    value = max(map(_longest_ns, observed), default=None)
    told = {
        "unobserved": _labels(f for f in flows if not say.observed(f)),
        "unbounded": _labels(f for f in observed if not _is_bounded(f)),
    }
    ok = value is not None and value <= limit_ns and not any(told.values())
    result = {"name": budget.name, "limit": limit_ns, "value": value, "ok": ok}
    return result | {word: labels for word, labels in told.items() if labels}


def _longest_ns(flow: Mapping[str, Any]) -> int:
    """How long a flow may have been away at once; without an upper bound, how long it was away as far as seen."""
    return max((a.ns if a.upper_ns is None else a.upper_ns for a in say.absences(flow)), default=0)


def _is_bounded(flow: Mapping[str, Any]) -> bool:
    """Whether each of a flow's absences was seen from its start to its end, and its session never ended.

    An ended session is as far from coming back as one that stays dark. That new ones work at once is for budgets on
    fresh flows to say.
    """
    return not say.ended(flow) and all(a.upper_ns is not None for a in say.absences(flow))


def _labels(flows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Each flow's label, once: it is the same in several runs."""
    return list(dict.fromkeys(map(say.label, flows)))


def _check_verdict(budget: Budget, flows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    # `recovered` is how reports call the survival of a new session: either word may be written.
    allowed = {"survived" if v == "recovered" else v for v in budget.verdicts}
    over = [f["verdict"] for f in flows if f["verdict"] not in allowed]
    value = over[0] if over else worst(f["verdict"] for f in flows) if flows else None
    return {"name": budget.name, "limit": list(budget.verdicts), "value": value, "ok": bool(flows) and not over}


# --- reading them ----------------------------------------------------------------------------------------------------


def _verdicts(value: object) -> list[Any]:
    """One verdict or several, as a list."""
    words = value if isinstance(value, list) else [value]
    wrong = [word for word in words if word not in _WORDS]
    if wrong or not words:
        raise ValueError(f"{wrong[0]!r} is not known" if wrong else "holds no verdict")
    return words


def _one_of(*words: str) -> Checked:
    return text("|".join(("", *words)), ", ".join(words))


class _Entry(BaseModel):
    """A budget as it is written."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, text(r"[^\x00-\x1f\x7f]+", "any text that names the budget")]
    path: Annotated[str, text(r"[^\x00-\x1f\x7f]*", "the path of a flow, such as east-west")] = ""
    protocol: Annotated[str, _one_of(*say.PROTOCOLS)] = ""
    session: Annotated[str, _one_of("kept", "fresh")] = ""
    max_outage: Annotated[float | None, duration("0s", "2400h")] = None
    verdict: Annotated[list[str], Checked(", ".join(_WORDS), _verdicts, {})] = []

    def budget(self) -> Budget:
        limit_ns = None if self.max_outage is None else round(self.max_outage * 1e9)
        return Budget(self.name, self.path, self.protocol, self.session, limit_ns, tuple(self.verdict))


class _Entries(BaseModel):
    model_config = ConfigDict(extra="forbid")

    budgets: list[_Entry]


def load_budgets(path: Path | str) -> list[Budget]:
    """Read a budget file: a YAML list (or `budgets:` with one) of name, path, protocol, session, max_outage, verdict.

    Raises:
        ConfigError: With every mistake in it.
    """
    document = yamlfile.read(path)
    bare = not isinstance(document.data, dict)
    data = {"budgets": document.data} if bare else document.data
    found = [*model_problems(_Entries, data), *_aimless(data)]
    # In a file that is a list, nothing stands below a key `budgets`.
    problems = [(where[1:] if bare else where, what) for where, what in found]
    if problems or document.problems:
        raise document.errors([*document.problems, *problems])
    return [entry.budget() for entry in _Entries.model_validate(data).budgets]


def _aimless(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Budgets that would hold a run to nothing."""
    entries = data.get("budgets")
    if entries == []:
        yield ("budgets",), "holds no budget; allowed: a list of them, each with a name, max_outage and/or verdict"
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict) and not {"max_outage", "verdict"} & entry.keys():
            yield ("budgets", number), "limits nothing; allowed: max_outage, a duration such as 5s, and/or verdict"
