"""Strict YAML: safe types only, string keys, no doubled keys, no alias bombs, and the line of every key."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from raysweep._paths import read_regular
from raysweep._text import short_repr, truncate
from raysweep.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_VALUES = 100_000  # some seconds of parsing; a grid of 10,000 named branches has fewer
MAX_ALIASES = 20  # enough for anchors people write, too few for an expansion bomb
MAX_DIGITS = 1000  # Python refuses numbers of more than 4,300

_MERGE, _TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what YAML 1.1 would silently turn into something else, and what would grow."""

    aliases = values = 0

    def fault(self, node: yaml.Node, text: str) -> ConfigError:
        return ConfigError(f"{self.name}, line {node.start_mark.line + 1}: {text}")

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise ConfigError(f"{self.name} is larger than {MAX_VALUES:,} keys and values; at most so many are read.")
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise ConfigError(
                    f"{self.name} uses more than {MAX_ALIASES} aliases (*name). Write the values out instead."
                )
        return super().compose_node(parent, index)

    def check(self, node: yaml.Node, sizes: dict[int, int]) -> int:
        """How many values a node has when its aliases are written out. Each node is visited once; ``sizes`` is by id.

        Raises:
            ConfigError: a node within itself, a doubled key or one that is no text, a number of too many digits.
        """
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise self.fault(node, "the value contains itself by an alias (*name). Write the values out instead.")
            return sizes[id(node)]
        sizes[id(node)] = 0
        total = 1
        if isinstance(node, yaml.MappingNode):
            self.check_keys(node)
            for key, value in node.value:
                total += self.check(key, sizes) + self.check(value, sizes)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                total += self.check(value, sizes)
        elif node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
            raise self.fault(
                node, f"not valid YAML: the number has {len(node.value):,} characters; at most {MAX_DIGITS:,} are read."
            )
        if total > MAX_VALUES:
            raise self.fault(
                node,
                f"with its aliases (*name) written out it has more than {MAX_VALUES:,} values; at most so many are read.",
            )
        sizes[id(node)] = total
        return total

    def check_keys(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.fault(key, "a key is a list or a mapping; it must be a text.")
            if key.tag == _MERGE:
                continue
            if key.tag != _TEXT:
                kind = key.tag.rsplit(":", 1)[-1]
                text = truncate(key.value, 80)
                raise self.fault(
                    key,
                    f"the key {text} is not a text for YAML (it reads as {truncate(kind, 80)}). Quote it: '{text}'.",
                )
            if key.value in seen:
                raise self.fault(
                    key,
                    f"{short_repr(key.value)} stands here a second time (first in line {seen[key.value]}). Keep one of the two.",
                )
            seen[key.value] = key.start_mark.line + 1

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge (``<<``) as the specification of YAML has it, which PyYAML 6.0.4 does not: a mapping's own keys win, and
        of several merged mappings the first."""
        merged = [value for key, value in node.value if key.tag == _MERGE]
        pairs: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for part in reversed([p for m in merged for p in (m.value if isinstance(m, yaml.SequenceNode) else [m])]):
            if not isinstance(part, yaml.MappingNode):
                raise ConstructorError(None, None, "only mappings can be merged (<<)", part.start_mark)
            self.flatten_mapping(part)
            pairs |= {key.value: (key, value) for key, value in part.value}
        pairs |= {key.value: (key, value) for key, value in node.value if key.tag != _MERGE}
        node.value = list(pairs.values())

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError, ArithmeticError, TypeError):  # 2001-99-99, !!int x, !!bool x
            kind = node.tag.rsplit(":", 1)[-1]
            raise ConstructorError(None, None, f"{short_repr(node.value)} is no {kind}", node.start_mark) from None


def _collect_lines(node: yaml.Node | None, prefix: str, lines: dict[str, int], depth: int = 0) -> None:
    if depth > 30:
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{prefix}.{key.value}" if prefix else str(key.value)
            lines[path] = key.start_mark.line + 1
            _collect_lines(value, path, lines, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[f"{prefix}.{i}"] = value.start_mark.line + 1
            _collect_lines(value, f"{prefix}.{i}", lines, depth + 1)


def _read_text(path: Path, name: str) -> str:
    try:
        return read_regular(path, MAX_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no file {name}. Give the path of a YAML file, such as configs/base.yaml."
        ) from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EFBIG:
            raise ConfigError(f"{name} is larger than {MAX_BYTES:,} bytes; this is not a configuration file.") from None
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{name} cannot be read as text: {reason}.") from None


def _parse(text: str, name: str) -> tuple[Any, yaml.Node | None]:
    try:
        loader = _Loader(text)
    except ReaderError as error:  # a character that YAML does not allow, found before anything is parsed
        line = text.count("\n", 0, int(error.position)) + 1
        raise ConfigError(
            f"{name}, line {line}: not valid YAML: the character U+{int(error.character):04X} is not allowed."
        ) from None
    loader.name = name
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, None
        loader.check(node, {})
        return loader.construct_document(node), node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{where}: not valid YAML: {truncate(error.problem or error.context, 300)}.") from None
    except RecursionError:
        raise ConfigError(f"{name}: not valid YAML: its lists and mappings are nested too deep.") from None
    finally:
        loader.dispose()


def read_yaml_lines(path: str | Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in a YAML file and the line (from 1) of each dotted key.

    Raises:
        ConfigError: missing, unreadable, too large, not a mapping, doubled or non-text keys, unknown tags, too many
            aliases, or a value within itself.
    """
    name = truncate(path)
    value, node = _parse(_read_text(Path(path), name), name)
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must hold a mapping (key: value lines), not {type(value).__name__}.")
    lines: dict[str, int] = {}
    _collect_lines(node, "", lines)
    return value, lines


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; see :func:`read_yaml_lines`."""
    return read_yaml_lines(path)[0]
