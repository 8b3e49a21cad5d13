"""Strict YAML: plain values only, text keys, no duplicate keys, no alias bombs, and the line of every key.

Files are YAML 1.1, as PyYAML reads it: ``yes``, ``no``, ``on`` and ``off`` are booleans. Two differences, so that a file
and an override mean the same and nothing is read as a surprise: ``1e-4`` is a number, and numbers that YAML 1.1 and 1.2
read differently (``010``, ``1:30``) are refused.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from raysweep._paths import read_regular
from raysweep._text import Nested, short_repr, truncate
from raysweep.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000  # takes a few seconds to parse; a grid of 10,000 named branches has fewer
MAX_ALIASES = 20  # enough for the anchors people write, too few for an expansion bomb
MAX_DIGITS = 1000  # Python refuses numbers of more than 4,300
MAX_DEPTH = 30  # of keys whose line is known

_TAG = "tag:yaml.org,2002:"
_SCIENTIFIC = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
_UNICODE_BREAKS = set("\x85\u2028\u2029\ufeff")  # PyYAML writes them unquoted, and reads them as ends of lines
# Octal and base 60 in YAML 1.1; decimal and text in 1.2.
AMBIGUOUS = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)$")


class _Loader(yaml.SafeLoader):
    """Checks every node as soon as its parts are complete, before any value is built."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name
        self.aliases = 0
        self.sizes: dict[int, int] = {}  # by id of a complete node: how many values it has, its aliases written out

    def error(self, node: yaml.Node, text: str) -> ConfigError:
        return ConfigError(f"{self.name}, line {node.start_mark.line + 1}: {text}")

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        assert node is not None
        if not is_alias:
            self.sizes[id(node)] = self.check(node)
        elif id(node) not in self.sizes:
            raise self.error(node, "the value contains itself by an alias (*name). Write the values out instead.")
        self.aliases += is_alias
        if self.aliases > MAX_ALIASES:
            raise ConfigError(f"{self.name} has more than {MAX_ALIASES} aliases (*name). Write the values out instead.")
        if len(self.sizes) > MAX_VALUES:
            raise ConfigError(f"{self.name} has more than {MAX_VALUES:,} keys and values. Split it, or shorten it.")
        return node

    def check(self, node: yaml.Node) -> int:
        """The size of a node whose parts have been checked.

        Raises:
            ConfigError: a bad key, a bad number, or too many values once the aliases are written out.
        """
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            self.check_keys(node)
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        elif node.tag in (_TAG + "int", _TAG + "float"):
            self.check_number(node)
        size = 1 + sum(self.sizes[id(part)] for part in parts)
        if size > MAX_VALUES:
            raise self.error(node, f"with its aliases (*name) written out, this has more than {MAX_VALUES:,} values.")
        return size

    def check_number(self, node: yaml.Node) -> None:
        if len(node.value) > MAX_DIGITS:
            raise self.error(
                node, f"the number has {len(node.value):,} characters; at most {MAX_DIGITS:,} are allowed."
            )
        if AMBIGUOUS.match(node.value):
            text = truncate(node.value, 80)
            raise self.error(
                node,
                f"{text} is one number in YAML 1.1 and something else in YAML 1.2. Write a plain decimal number, or quote "
                f"it as text: '{text}'.",
            )

    def check_keys(self, node: yaml.MappingNode) -> None:
        first_line: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.error(key, "a key is a list or a mapping. Keys must be text.")
            if key.tag == _TAG + "merge":
                continue
            if key.tag != _TAG + "str":
                text, kind = truncate(key.value, 80), truncate(key.tag.rsplit(":", 1)[-1], 80)
                raise self.error(key, f"YAML reads the key {text} as {kind}, not as text. Quote it: '{text}'.")
            if key.value in first_line:
                raise self.error(
                    key,
                    f"the key {short_repr(key.value)} is a duplicate of the one in line {first_line[key.value]}. Remove one of them.",
                )
            first_line[key.value] = key.start_mark.line + 1

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge (``<<``) as YAML specifies it and PyYAML 6.0.4 does not: a mapping's own keys win, then the first merged."""
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for part in reversed(_merged(node)):
            if not isinstance(part, yaml.MappingNode):
                raise ConstructorError(None, None, "only mappings can be merged (<<)", part.start_mark)
            self.flatten_mapping(part)
            pairs |= {key.value: (key, value) for key, value in part.value}
        pairs |= {key.value: (key, value) for key, value in node.value if key.tag != _TAG + "merge"}
        node.value = list(pairs.values())

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError, ArithmeticError, TypeError):  # 2001-99-99, !!int x, !!bool x
            kind = node.tag.rsplit(":", 1)[-1]
            raise ConstructorError(
                None, None, f"{short_repr(node.value)} is not a valid {kind}", node.start_mark
            ) from None


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would not read as text."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(_TAG + "float", _SCIENTIFIC, list("-+.0123456789"))


def _merged(node: yaml.MappingNode) -> list[yaml.Node]:
    """What ``<<`` merges into a mapping, the strongest first."""
    values = [value for key, value in node.value if key.tag == _TAG + "merge"]
    return [part for value in values for part in (value.value if isinstance(value, yaml.SequenceNode) else [value])]


def _collect_lines(node: yaml.Node, prefix: str, lines: dict[str, int], depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        return
    parts: list[tuple[Any, yaml.Node, yaml.Node]] = []  # (key, where it is, its value)
    if isinstance(node, yaml.MappingNode):
        parts = [(key.value, key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        parts = [(i, value, value) for i, value in enumerate(node.value)]
    for key, place, value in parts:
        lines[f"{prefix}{key}"] = place.start_mark.line + 1
        _collect_lines(value, f"{prefix}{key}.", lines, depth + 1)


def _read_text(path: Path, name: str) -> str:
    try:
        return read_regular(path, MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no file {name}. Give the path of a YAML file, or the name of an example: base, or for a grid: grid, rules."
        ) from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            raise ConfigError(f"{name} is larger than {MAX_BYTES:,} bytes; this is not a configuration file.") from None
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{name} cannot be read as text: {reason}.") from None


def parse_lines(text: str, name: str) -> tuple[Nested, dict[str, int]]:
    """The mapping in a YAML text called ``name``, and the line (from 1) of each dotted key.

    Raises:
        ConfigError: not valid YAML, too large, not a mapping, duplicate or non-text keys, unknown tags, too many aliases,
            or a value within itself.
    """
    try:
        loader = _Loader(text, name)
        node = loader.get_single_node()
        value = {} if node is None else loader.construct_document(node)
    except ReaderError as error:  # found before anything is parsed
        line = text.count("\n", 0, int(error.position)) + 1
        raise ConfigError(
            f"{name}, line {line}: not valid YAML: the character U+{int(error.character):04X} is not allowed."
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{where}: not valid YAML: {truncate(error.problem or error.context, 300)}.") from None
    except RecursionError:
        raise ConfigError(f"{name}: not valid YAML: its lists and mappings are nested too deep.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must contain a mapping (key: value lines), not {type(value).__name__}.")
    lines: dict[str, int] = {}
    if node is not None:
        _collect_lines(node, "", lines)
    return value, lines


def read_yaml_lines(path: str | Path) -> tuple[Nested, dict[str, int]]:
    """The mapping in a YAML file and the line (from 1) of each dotted key.

    Raises:
        ConfigError: missing or unreadable, or as :func:`parse_lines`.
    """
    name = truncate(path)
    return parse_lines(_read_text(Path(path), name), name)


def read_yaml(path: str | Path) -> Nested:
    """The mapping in a YAML file; see :func:`read_yaml_lines`."""
    return read_yaml_lines(path)[0]


def dump(value: Any) -> str:
    """``value`` as YAML that :func:`parse_lines` reads back."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    if not set(text) & _UNICODE_BREAKS:
        return text
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=False)
