"""YAML files that users write: plain data, and the line that every value and key came from.

PyYAML's loader keeps the last of two equal keys and forgets where anything stood. This one reports duplicate keys,
and remembers lines by path, so that every complaint about the content can name its line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from probe.errors import ConfigError

Location = tuple[str | int, ...]
"""Where a value stands: keys and list indices from the top, such as ("flows", 0, "rate")."""

MAX_OCTETS = 1 << 20
MAX_VALUES = 100_000  # aliases multiply: a small file can name a huge document


@dataclass
class YamlFile:
    """A parsed file. `problems` are duplicate keys and the like: the data around them is still good to check."""

    name: str
    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[tuple[Location, str]] = field(default_factory=list)

    def line(self, location: Location) -> int:
        """Line of a value, from 1; of its nearest ancestor that stands in the file, if it does not itself."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)

    def errors(self, problems: Iterable[tuple[Location, str]]) -> ConfigError:
        """The one error for all these problems, in the order of the file."""
        found = sorted((self.line(location), field_name(location), text) for location, text in problems)
        lines = [f"{self.name}:{line}: {f'{where}: ' if where else ''}{text}" for line, where, text in found]
        return ConfigError(list(dict.fromkeys(lines)))


def field_name(location: Location) -> str:
    """A location as people write it: `flows[0].rate`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read(path: str | Path) -> YamlFile:
    """Read and parse a file.

    Raises:
        ConfigError: If it cannot be read, or is no YAML; with the line where the parser stopped.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}:1: cannot be read: {error.strerror}; allowed: a readable YAML file") from error
    if len(raw) > MAX_OCTETS:
        raise ConfigError(f"{path}:1: has {len(raw)} octets; allowed: up to {MAX_OCTETS}")
    return parse(raw, str(path))


def parse(raw: bytes | str, name: str) -> YamlFile:
    """Parse a document.

    Args:
        raw: UTF-8 text.
        name: File name for messages.

    Raises:
        ConfigError: If it is no YAML; with the line where the parser stopped.
    """
    document = YamlFile(name)
    try:
        text = raw.decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: is not UTF-8 text (octet {error.start}); allowed: YAML in UTF-8") from error
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _Builder(loader, document).build(node, ())
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError(_syntax_problem(error, text, name)) from error
    except RecursionError as error:
        raise ConfigError(
            f"{name}:1: is nested too deeply; allowed: the few levels of the documented layout"
        ) from error
    except (ValueError, OverflowError) as error:  # `"\UFFFFFFFF"`: an escape that YAML's grammar accepts
        raise ConfigError(f"{name}:1: is not valid: {error}; allowed: plain YAML") from error
    return document


def _syntax_problem(error: yaml.YAMLError, text: str, name: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else 1
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        what = f"holds a character that YAML does not allow (U+{int(error.character):04X})"
    else:
        parts = [getattr(error, "context", None), getattr(error, "problem", None)]
        what = "is not valid YAML: " + ", ".join(part for part in parts if part)
    column = f" (column {mark.column + 1})" if mark else ""
    return f"{name}:{line}: {what}{column}; allowed: one YAML document, indented with spaces"


class _Builder:
    """Turns nodes into data, writing down each line on the way."""

    def __init__(self, loader: yaml.SafeLoader, document: YamlFile):
        self._loader = loader
        self._document = document
        self._open: list[yaml.Node] = []  # ancestors of the node being built
        self._values = 0

    def build(self, node: yaml.Node, location: Location) -> None:
        self._document.data = self._value(node, location)

    def _value(self, node: yaml.Node, location: Location) -> Any:
        self._document.lines.setdefault(location, node.start_mark.line + 1)
        self._values += 1
        if self._values > MAX_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_VALUES} values", problem_mark=node.start_mark)
        if node in self._open:
            raise yaml.MarkedYAMLError(problem="an alias that contains itself", problem_mark=node.start_mark)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, location)
            if isinstance(node, yaml.SequenceNode):
                return [self._value(child, (*location, index)) for index, child in enumerate(node.value)]
            return self._scalar(node)
        finally:
            self._open.pop()

    def _scalar(self, node: yaml.Node) -> Any:
        """A value that Python can hold, and that messages and results can quote."""
        try:
            value = self._loader.construct_object(node)
            str(value).encode()  # of an integer with thousands of digits there is no text; of half a surrogate no UTF-8
        except (ValueError, OverflowError, LookupError, AttributeError) as error:  # as PyYAML lets out of `!!bool x`
            problem = f"{node.value[:40]!r} is no usable {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error
        return value

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        self._report_duplicates(node, location)
        self._loader.flatten_mapping(node)  # YAML's `<<: *defaults`
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                self._document.problems.append((location, "has a key that is not text; allowed: plain names as keys"))
                continue
            here = (*location, key)
            self._document.lines[here] = key_node.start_mark.line + 1
            result[key] = self._value(value_node, here)
        return result

    def _report_duplicates(self, node: yaml.MappingNode, location: Location) -> None:
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key, str) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key in first:
                name = field_name((*location, key))
                self._document.problems.append(
                    ((*location, key), f"is given twice, first in line {first[key]}; allowed: {name} once")
                )
            first.setdefault(key, line)
