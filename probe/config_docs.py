"""The config file's documentation, drawn from its models: a JSON Schema for editors and a page for people.

The IAM policies are written beside them. `make docs` writes all of it; a test keeps the
committed ones current.
"""

from __future__ import annotations

import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from probe import units
from probe.config import AgentConfig, json_schema
from probe.config_types import Allowed
from probe.watch import iam

_HEAD = """\
# The config file

One YAML file per agent, given by `haprobe run --config.file F`. Check it with `--config.check`; every mistake is told
at once, with its line and what is allowed. `systemd/haprobe.yml` is a sample.

- Durations carry their unit: `250ms` `2s` `5m` `1h`. Rates are probes per second.
- Secrets stand in files of their own; the config only names them. AWS credentials come by boto3's usual chain.
- A key that is not listed here is a mistake, and so is a key given twice.
- An editor completes and checks it with `docs/haprobe.schema.json`, for example by this first line:
  `# yaml-language-server: $schema=haprobe.schema.json`

Written by `make docs` from `probe/config.py`; do not edit.
"""


def files() -> dict[str, str]:
    """Every generated file, by name."""
    schema = {"haprobe.schema.json": json.dumps(json_schema(), indent=2) + "\n", "config.md": markdown()}
    return schema | {f"iam/{name}.json": json.dumps(one, indent=2) + "\n" for name, one in iam.policies().items()}


def markdown() -> str:
    """The page for people: one table per part of the file."""
    parts = [_HEAD]
    for where, model in models(AgentConfig, ""):
        summary = (model.__doc__ or "").split("\n\n")[0]
        rows = [_row(name, field) for name, field in model.model_fields.items()]
        table = ["| key | allowed | default | meaning |", "| --- | --- | --- | --- |", *rows]
        parts.append(f"## {f'`{where}`' if where else 'Top level'}\n\n{summary}\n\n" + "\n".join(table) + "\n")
    return "\n".join(parts)


def models(model: type[BaseModel], where: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """A model and those inside it, outermost first, each with where it stands: `flows[]`, `agents.NAME`."""
    yield where, model
    for name, field in model.model_fields.items():
        here = f"{where}.{name}" if where else name
        for suffix, inner in _inner(field.annotation, ""):
            yield from models(inner, here + suffix)


def _inner(kind: Any, suffix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Models inside a type, with how one gets there: `[]` for an item, `.NAME` for a named one."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield suffix, kind
        return
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        yield from _inner(arguments[0], suffix + "[]")
    elif origin is dict:
        yield from _inner(arguments[1], suffix + ".NAME")
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _inner(argument, suffix)


def _row(name: str, field: FieldInfo) -> str:
    cells = (f"`{name}`", _allowed(field), _default(field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _allowed(field: FieldInfo) -> str:
    texts = _texts(field.annotation)
    own = [item.text for item in field.metadata if isinstance(item, Allowed)]
    return (own or texts or ["see below"])[0]


def _texts(kind: Any) -> list[str]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return [item.text for item in arguments[1:] if isinstance(item, Allowed)]
    inner = [text for argument in arguments for text in _texts(argument)]
    if origin is list and inner:
        return [f"a list; each {inner[-1]}"]
    if origin is dict:
        return [f"names, each with {inner[-1]}" if len(inner) > 1 else "names; see below"]
    return inner


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "none" if field.default_factory in (list, dict) else "see below"
    if field.default is None:
        return "none"
    if any(units.DURATION_ALLOWED in item.text for item in field.metadata if isinstance(item, Allowed)):
        return f"`{units.format_duration(field.default)}`"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def main(directory: str) -> None:
    """Write the generated files."""
    for name, text in files().items():
        (Path(directory) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(directory) / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
