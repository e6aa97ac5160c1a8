"""What a client takes, by its `Accept` (of `/metrics`) and `Accept-Encoding` (of every page; RFC 9110, section 12.5).

We offer OpenMetrics 1.0.0 and Prometheus' text format 0.0.4, each as it is or by gzip. Whoever asks for neither, or in
a way that cannot be understood, gets text: a format that many can read is better than a 406. `escaping`, for which
Prometheus asks since 3.0, needs no answer: our names are the same under every scheme.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_WHOLE = re.compile(rf'(?:[^"]|{_QUOTED})*')
# Parts of a list, and of an element of it: a comma or semicolon within quotes separates nothing.
_ELEMENTS = re.compile(rf'(?:[^",]|{_QUOTED})+')
_PARAMETERS = re.compile(rf'(?:[^";]|{_QUOTED})+')
_QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
# What our two formats may be called; text 1.0.0 differs from 0.0.4 only where names have to be quoted.
_OPENMETRICS = ("", "1.0.0")
_TEXT = ("", "0.0.4", "1.0.0")


@dataclass(frozen=True, slots=True)
class _Element:
    """One element of a list of what is accepted."""

    name: str
    version: str
    q: float  # 0 to 1, 0 for what must not come


def prefers_openmetrics(accept: str) -> bool:
    """Whether to answer in OpenMetrics, and else in text. Who takes anything (`*/*`) gets text."""
    elements = _elements(accept)
    openmetrics = [e.q for e in elements if e.name == "application/openmetrics-text" and e.version in _OPENMETRICS]
    return 0 < max(openmetrics, default=0) >= _text(elements)


def _text(elements: list[_Element]) -> float:
    """How much text is wanted, by the range that names it most closely."""
    for name in ("text/plain", "text/*", "*/*"):
        named = [e.q for e in elements if e.name == name and e.version in _TEXT]
        if named:
            return max(named)
    return 0


def takes_gzip(accept_encoding: str) -> bool:
    """Whether an answer may be compressed by gzip."""
    return any(e.name in ("gzip", "x-gzip") and e.q > 0 for e in _elements(accept_encoding))


def _elements(header: str) -> list[_Element]:
    if not _WHOLE.fullmatch(header):  # a quote that never ends
        return []
    return [_element(text) for text in _ELEMENTS.findall(header)]


def _element(text: str) -> _Element:
    name, *parameters = _PARAMETERS.findall(text) or [""]
    named = dict(map(_parameter, parameters))
    q = named.get("q", "1")
    return _Element(name.strip().lower(), named.get("version", ""), float(q) if _QVALUE.fullmatch(q) else 0.0)


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = (part.strip() for part in text.partition("="))
    if value.startswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return name.lower(), value
