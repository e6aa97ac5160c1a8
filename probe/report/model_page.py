"""`docs/result.md`: every field of the result document, drawn from its model.

`make docs` writes it; a test keeps the committed one current.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from probe.config_docs import models
from probe.report.model import Document

_HEAD = """\
# The result document, field by field

`report.json` of a stored run, `--json` of `measure`, `report` and `drill`'s store, `/api/v1/report` of an agent. How to
read it is told in [reading-a-result.md](reading-a-result.md); `haprobe report --schema` prints the JSON Schema.

- Names that end in `_ns` are integers: instants as nanoseconds since the Unix epoch (UTC), durations as nanoseconds.
- Readers must tolerate fields they do not know; those listed here keep their meaning within `haprobe.report/1`.

Written by `make docs` from `probe/report/model.py`; do not edit.
"""


def markdown() -> str:
    """The whole page."""
    parts = [_HEAD]
    for where, model in models(Document, ""):
        summary = " ".join((model.__doc__ or "").split())
        rows = [_row(where, field.alias or name, field) for name, field in model.model_fields.items()]
        table = ["| field | is | meaning |", "| --- | --- | --- |", *rows]
        parts.append(f"## {f'`{where}`' if where else 'Top level'}\n\n{summary}\n\n" + "\n".join(table) + "\n")
    return "\n".join(parts)


def _row(where: str, name: str, field: FieldInfo) -> str:
    number = "ns" if f"{where}.{name}".endswith("_ns") or where.endswith("_ns") else "number"
    kind = ", or ".join(_kinds(field.annotation, number))
    cells = (f"`{name}`", kind, field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kinds(kind: Any, number: str) -> Iterator[str]:
    """What a value may be, in words; `number` is what a number stands for."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        yield from _kinds(arguments[0], number)
    elif origin is typing.Literal:
        yield " ".join(f"`{word}`" for word in arguments)
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _kinds(argument, number)
    elif origin is list:
        yield f"list: {next(_kinds(arguments[0], number))}"
    elif origin is dict:
        yield "by name: " + ", or ".join(_kinds(arguments[1], number))
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        yield "see below"
    else:
        yield {int: number, float: number, str: "text", bool: "true or false", type(None): "null"}.get(kind, "any")


if __name__ == "__main__":
    print(markdown(), end="")
