"""Strict YAML: safe types only, string keys, no doubled keys, no alias bombs, and the line of every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from raysweep.errors import ConfigError

MAX_ALIASES = 20  # enough for anchors people write, too few for an expansion bomb
MAX_BYTES = 4_000_000


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what YAML 1.1 would silently turn into something else."""

    aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise ConfigError(f"The YAML uses more than {MAX_ALIASES} aliases (*name). Write the values out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            text = str(getattr(key_node, "value", key_node))
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            if key_node.tag != "tag:yaml.org,2002:str":
                raise ConfigError(
                    f"{self.name}, line {line}: the key {text} is not a text for YAML (it reads as "
                    f"{key_node.tag.rsplit(':', 1)[-1]}). Quote it: '{text}'."
                )
            if text in seen:
                raise ConfigError(
                    f"{self.name}, line {line}: {text!r} stands here a second time (first in line {seen[text]}). "
                    "Keep one of the two."
                )
            seen[text] = line
        return super().construct_mapping(node, deep=deep)


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


def read_yaml_lines(path: str | Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in a YAML file and the line (from 1) of each dotted key.

    Raises:
        ConfigError: missing, unreadable, not a mapping, doubled or non-text keys, unknown tags, too many aliases.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes; this is not a configuration file.")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"There is no file {path}. Give the path of a YAML file, such as configs/base.yaml."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}.") from None
    loader = _Loader(text)
    loader.name = str(path)
    try:
        node = loader.get_single_node()
        value = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error) or type(error).__name__}.") from None
    finally:
        loader.dispose()
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a mapping (key: value lines), not {type(value).__name__}.")
    lines: dict[str, int] = {}
    _collect_lines(node, "", lines)
    return value, lines


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; see :func:`read_yaml_lines`."""
    return read_yaml_lines(path)[0]
